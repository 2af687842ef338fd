"""Monitors: what is recorded of calls and decisions."""

from __future__ import annotations

from typing import Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Registration

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


@hookimpl
def sage_register_monitors() -> list[Registration]:
    """Offer `metrics` and `events`."""
    return [
        Registration(
            "metrics",
            _create_metrics,
            "Counts, durations and percentiles of calls, about 0.5 us each",
            capabilities=frozenset({"records_calls", "counts_calls"}),
        ),
        Registration(
            "events",
            _create_events,
            "The latest decisions with their reasons; costs calls nothing",
            options=_events_options,
            capabilities=frozenset({"keeps_events"}),
        ),
    ]
