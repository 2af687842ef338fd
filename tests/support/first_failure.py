"""Hypothesis settings of tests that look for one failure: in machines that were broken on purpose."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

__all__ = ["first_failure"]


def first_failure(*, examples: int, steps: int) -> settings:
    """The same examples in each run, up to the first that fails, which is not made smaller."""
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
