"""
Chooses the router class of a service, and its settings for a full queue.

The router for methods with limits is imported only if a service needs it.
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
    """Return the router class for a service that serves *methods*: the cheaper one if no method has limits."""
    if any(method.max_concurrency is not None or method.batch is not None for method in methods):
        from sage_plugins.routing.method_limits import MethodRouter

        return MethodRouter
    return Router


def when_full(overload: str) -> dict[str, Any]:
    """Return the `Router` arguments for *overload*. All values but `block` also refuse calls that would be too late."""
    refuses = overload != "block"
    return {"reject": refuses, "refuses_late": refuses, "sheds": overload if overload in {OLDEST, LOWEST} else ""}
