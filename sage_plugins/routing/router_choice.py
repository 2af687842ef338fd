"""
Which router a service gets, and what that does when the queue is full.

The router that minds limits of methods is imported for services that have such.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.routing.queue import LOWEST, OLDEST
from sage_plugins.routing.router import Router

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.values import MethodPlan

__all__ = ["router_class", "when_full"]


def router_class(methods: Sequence[MethodPlan]) -> type[Router]:
    """The class of the router for a service that serves *methods*: most need nothing of what limits cost."""
    if any(method.max_concurrency is not None or method.batch is not None for method in methods):
        from sage_plugins.routing.method_limits import MethodRouter

        return MethodRouter
    return Router


def when_full(overload: str) -> dict[str, Any]:
    """What the field *overload* says, as arguments for a `Router`; one that does not block minds deadlines as well."""
    refuses = overload != "block"
    return {"reject": refuses, "refuses_late": refuses, "sheds": overload if overload in {OLDEST, LOWEST} else ""}
