"""The report of a simulation, and the error of one that breaks a rule."""

from __future__ import annotations

from collections import Counter

import attrs

__all__ = ["Report", "SimulationFailure"]


class SimulationFailure(AssertionError):  # noqa: N818 - pytest and its readers know it as a failed assertion
    """A rule was broken. The message has the seed, the settings and the last steps."""


@attrs.frozen
class Report:
    """
    What happened in a simulation. Tests use it to check that something did happen.

    Attributes:
        calls: Number of calls made.
        refused: Number of calls that were not accepted.
        outcomes: Number of ended calls by `Outcome`.
        started: Number of methods that were started.
        batches: For each number of started calls, the number of batches that had so many.
        sent_ahead: Number of calls that were sent ahead of their turn, with another call.
        returned: Number of these calls that came back.
        behaviours: Number of times that replicas were told each behaviour.
        steps: Number of steps by name.
    """

    calls: int
    refused: int
    outcomes: Counter[int]
    started: int
    batches: Counter[int]
    sent_ahead: int
    returned: int
    behaviours: Counter[str]
    steps: Counter[str]
