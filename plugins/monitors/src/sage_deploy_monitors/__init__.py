"""Registers the monitors: call metrics, an event log, and replica health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.texts import counted
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["sage_register_monitors"]


def _create_metrics(_options: None) -> Any:
    from sage_deploy_monitors.metrics import Metrics  # imported here, as below: keeps discovery cheap

    return Metrics()


def _create_events(options: Any) -> Any:
    from sage_deploy_monitors.events import Events

    return Events(options)


def _events_options() -> type:
    from sage_deploy_monitors.options import EventsOptions

    return EventsOptions


def _create_health(_options: None) -> Any:
    from sage_deploy_monitors.health import Health

    return Health()


def _explain_health(config: Any, _options: None) -> Iterator[str]:
    yield (
        f"asks check_health() and check_ready() every {config.health_check_interval:g} s, for at most "
        f"{config.health_check_timeout:g} s; nothing is asked of a class that has neither"
    )
    yield (
        f"unhealthy after {counted(config.failure_threshold, 'failure')} in a row, ready again after "
        f"{config.success_threshold} in a row that pass; check_ready() counts at once"
    )


@hookimpl
def sage_register_monitors() -> list[Registration]:
    """Offer `metrics`, `events` and `health`."""
    return [
        Registration(
            "metrics",
            _create_metrics,
            "Counts, durations and percentiles of calls, about 0.5 us each",
            capabilities=frozenset({"records_calls", "counts_calls", "exports_metrics", "merges_counts"}),
        ),
        Registration(
            "events",
            _create_events,
            "The latest decisions with their reasons; costs calls nothing",
            options=_events_options,
            capabilities=frozenset({"exports_metrics", "keeps_events"}),
        ),
        Registration(
            "health",
            _create_health,
            "Checks the health of replicas; unhealthy replicas get no calls",
            explain=_explain_health,
            capabilities=frozenset({"checks_health", "exports_metrics", "watches_service"}),
        ),
    ]
