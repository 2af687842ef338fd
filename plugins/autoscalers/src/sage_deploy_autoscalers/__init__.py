"""Registers the autoscalers, which compute the number of replicas of a service."""

from __future__ import annotations

from typing import Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Registration

__all__ = ["sage_register_autoscalers"]


def _create_target_ongoing(_options: None) -> Any:
    from sage_deploy_autoscalers.target_ongoing import TargetOngoing  # imported here: keeps discovery cheap

    return TargetOngoing()


@hookimpl
def sage_register_autoscalers() -> list[Registration]:
    """Offer `target_ongoing`."""
    return [
        Registration(
            "target_ongoing",
            _create_target_ongoing,
            "As many replicas as keep the calls of each near target_ongoing_requests",
        )
    ]
