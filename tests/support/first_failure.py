"""Hypothesis settings for tests that must find a failure in machines that were broken on purpose."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

__all__ = ["first_failure"]


def first_failure(*, examples: int, steps: int) -> settings:
    """Return settings that run the same examples every time, stop at the first failure, and do not shrink it."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        phases=[Phase.generate],
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
