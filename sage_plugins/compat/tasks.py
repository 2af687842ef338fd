"""
SAGE's task classes: each is a `ServiceTask` with a preset target and threading strategy.

The classes have no other logic. `ServiceTaskFactory` and `Environment` do the same with a configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from sage_plugins.compat.task_factory import ServiceTaskFactory
from sage_plugins.config.service_config import ServiceDeploymentConfig
from sage_plugins.deployment.task import ServiceTask
from sage_plugins.errors import ConfigError

if TYPE_CHECKING:
    from sage_plugins.service.factory import ServiceContext

__all__ = [
    "AsyncRayServiceTask",
    "AsyncServiceTask",
    "BaseServiceTask",
    "LocalServiceTask",
    "MultiThreadLocalServiceTask",
    "MultiThreadRayServiceTask",
    "RayServiceTask",
    "ThreadPoolRayServiceTask",
    "ThreadPoolServiceTask",
]

#: The base of all tasks, for `isinstance` and annotations in SAGE's programs.
BaseServiceTask = ServiceTask


class _Door(ServiceTask):
    """A task with a preset target and strategy."""

    #: Whether replicas run in other processes, on a cluster.
    _remote: ClassVar[bool] = False
    #: The allowed strategies. The first is used if the configuration has the default.
    _strategies: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        service_factory: Any,
        ctx: ServiceContext | None = None,
        deployment_config: ServiceDeploymentConfig | None = None,
    ) -> None:
        """
        Prepare the task; builds and starts nothing.

        Args:
            service_factory: `ServiceFactory`, or anything with `service_name`, `service_class` and
                `create_service(ctx)`.
            ctx: Its `service(name)` finds other services for the instances. Each replica gets its own context.
            deployment_config: Everything else about the deployment.

        Raises:
            ConfigError: *deployment_config* has a target or a strategy that does not fit this class.
            UnknownPluginError, PlanError: As for `composition.compose`.
        """
        config = self._as_configured(deployment_config or ServiceDeploymentConfig())
        factory = ServiceTaskFactory(service_factory, config)
        super().__init__(*factory.parts(ctx))

    def _as_configured(self, config: ServiceDeploymentConfig) -> ServiceDeploymentConfig:
        target, strategy = config.target, config.threading_strategy
        if (target == "local") == self._remote:
            if not self._remote:
                raise self._other("target", target)
            target = "remote_any"  # `local` is the default, so it counts as not set
        if strategy not in self._strategies:
            if strategy != "single":
                raise self._other("threading_strategy", strategy)
            strategy = self._strategies[0]  # `single` is the default, too
        return attrs.evolve(config, target=target, threading_strategy=strategy)

    def _other(self, field: str, value: str) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__} is not for {field} '{value}': leave that setting out, or use ServiceTaskFactory, "
            "which makes the task that the configuration says"
        )


class LocalServiceTask(_Door):
    """A service in this process that runs one call at a time."""

    _strategies = ("single",)


class MultiThreadLocalServiceTask(_Door):
    """A service in this process with `thread_count` threads; with strategy `pool` in the configuration, with a pool."""

    _strategies = ("multi", "pool")


class ThreadPoolServiceTask(_Door):
    """A service in this process with a pool of threads."""

    _strategies = ("pool",)


class AsyncServiceTask(_Door):
    """A service in this process with coroutines on an event loop."""

    _strategies = ("async",)


class RayServiceTask(_Door):
    """A service on a cluster that runs one call at a time; on any node, unless the configuration names nodes."""

    _remote = True
    _strategies = ("single",)


class MultiThreadRayServiceTask(_Door):
    """A service on a cluster with `thread_count` threads; with strategy `pool` in the configuration, with a pool."""

    _remote = True
    _strategies = ("multi", "pool")


class ThreadPoolRayServiceTask(_Door):
    """A service on a cluster with a pool of threads."""

    _remote = True
    _strategies = ("pool",)


class AsyncRayServiceTask(_Door):
    """A service on a cluster with coroutines on an event loop."""

    _remote = True
    _strategies = ("async",)
