"""
SAGE's names for the parts of this package, for programs that were written for SAGE.

The names below are imported at their first use. Nothing else in the core imports this package, except `sage_plugins`
itself.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in sage_plugins

if TYPE_CHECKING:
    from sage_plugins.compat.actor_wrapper import ActorWrapper
    from sage_plugins.compat.base_service import BaseService
    from sage_plugins.compat.callers import AsyncServiceCaller, ServiceCaller
    from sage_plugins.compat.errors import as_runtime_error
    from sage_plugins.compat.tasks import (
        AsyncRayServiceTask,
        AsyncServiceTask,
        BaseServiceTask,
        LocalServiceTask,
        MultiThreadLocalServiceTask,
        MultiThreadRayServiceTask,
        RayServiceTask,
        ThreadPoolRayServiceTask,
        ThreadPoolServiceTask,
    )

__all__ = [
    "ActorWrapper",
    "AsyncRayServiceTask",
    "AsyncServiceCaller",
    "AsyncServiceTask",
    "BaseService",
    "BaseServiceTask",
    "LocalServiceTask",
    "MultiThreadLocalServiceTask",
    "MultiThreadRayServiceTask",
    "RayServiceTask",
    "ServiceCaller",
    "ThreadPoolRayServiceTask",
    "ThreadPoolServiceTask",
    "as_runtime_error",
]

_HOMES = {
    "ActorWrapper": "actor_wrapper",
    "AsyncServiceCaller": "callers",
    "BaseService": "base_service",
    "ServiceCaller": "callers",
    "as_runtime_error": "errors",
}


if not TYPE_CHECKING:  # as in sage_plugins

    def __getattr__(name: str) -> object:
        if name not in __all__:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'tasks')}"), name)
        globals()[name] = value  # the next access does not call this function
        return value


def __dir__() -> list[str]:
    return [*__all__]
