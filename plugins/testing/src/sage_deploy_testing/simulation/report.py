"""What a simulation tells of its course."""

from __future__ import annotations

from collections import Counter

import attrs

__all__ = ["Report", "SimulationFailure"]


class SimulationFailure(AssertionError):  # noqa: N818 - pytest and its readers know it as a failed assertion
    """A rule was broken; the message has the seed, the settings and the last steps."""


@attrs.frozen
class Report:
    """
    What happened in a simulation; for tests that want to know that something did.

    Attributes:
        calls: Calls made.
        refused: Calls not accepted.
        outcomes: Ended calls by `Outcome`.
        started: Methods that were started.
        batches: Batches by the number of their calls that were started.
        sent_ahead: Calls that were sent ahead of their turn, with another one.
        returned: How many of them came back.
        behaviours: What the replicas were told to do, how often.
        steps: Steps by name.
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
