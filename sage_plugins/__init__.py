"""
The public API of sage-deploy: deploy plain Python classes as services, and call them.

The names below are imported at their first use, so `import sage_plugins` alone is fast.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers know it by its name; importing typing would take 8 ms

if TYPE_CHECKING:
    from sage_plugins import errors
    from sage_plugins.compat.service_monitor import ServiceMonitor
    from sage_plugins.compat.task_factory import ServiceTaskFactory
    from sage_plugins.config.service_config import DeploymentTarget, ServiceDeploymentConfig, ThreadingStrategy
    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.environment.environment import Environment
    from sage_plugins.hookspecs import hookimpl
    from sage_plugins.metrics import ServiceMetrics
    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.service.factory import ServiceContext, ServiceFactory
    from sage_plugins.service.methods import batch_of, idempotent

    __version__: str

__all__ = [
    "DeploymentTarget",
    "Environment",
    "ServiceContext",
    "ServiceDeploymentConfig",
    "ServiceFactory",
    "ServiceHandle",
    "ServiceMetrics",
    "ServiceMonitor",
    "ServiceTask",
    "ServiceTaskFactory",
    "ThreadingStrategy",
    "batch_of",
    "errors",
    "hookimpl",
    "idempotent",
]

_HOMES = {
    "DeploymentTarget": "config.service_config",
    "Environment": "environment.environment",
    "ServiceContext": "service.factory",
    "ServiceDeploymentConfig": "config.service_config",
    "ServiceFactory": "service.factory",
    "ServiceHandle": "routing.handles.handle",
    "ServiceMetrics": "metrics",
    "ServiceMonitor": "compat.service_monitor",
    "ServiceTask": "deployment.task",
    "ServiceTaskFactory": "compat.task_factory",
    "ThreadingStrategy": "config.service_config",
    "batch_of": "service.methods",
    "hookimpl": "hookspecs",
    "idempotent": "service.methods",
}


if not TYPE_CHECKING:  # a type checker that sees `__getattr__` accepts misspelt names

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            if name in ("errors", "__version__"):
                return import_module("sage_plugins.errors") if name == "errors" else _version()
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(import_module(f"sage_plugins.{home}"), name)
        globals()[name] = value  # the next access does not call this function
        return value


def _version() -> str:
    from importlib.metadata import version

    return version("sage-deploy")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
