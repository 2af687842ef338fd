"""
Tasks by the names of SAGE and of its feature request: each is the task of a service with a target and a strategy set.

There is one kind of task, which is composed of a target and a threading strategy. A name here sets both and has no
logic of its own; `ServiceTaskFactory` and `Environment` do the same by configuration.
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

#: What all tasks are; SAGE's programs name it for `isinstance` and annotations.
BaseServiceTask = ServiceTask


class _Door(ServiceTask):
    """A task with a target and a strategy set."""

    #: Whether replicas run in other processes, on a cluster.
    _remote: ClassVar[bool] = False
    #: The strategies that it stands for; the first is set where the configuration says nothing.
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
            ctx: Whose `service(name)` finds other services for the instances; each replica gets a context of its own.
            deployment_config: Everything else about the deployment.

        Raises:
            ConfigError: It has a target or a strategy of another task.
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
            target = "remote_any"  # `local` is what stands there if nobody says anything
        if strategy not in self._strategies:
            if strategy != "single":
                raise self._other("threading_strategy", strategy)
            strategy = self._strategies[0]  # as above
        return attrs.evolve(config, target=target, threading_strategy=strategy)

    def _other(self, field: str, value: str) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__} is not for {field} '{value}': leave that setting out, or use ServiceTaskFactory, "
            "which makes the task that the configuration says"
        )


class LocalServiceTask(_Door):
    """In this process, one call at a time."""

    _strategies = ("single",)


class MultiThreadLocalServiceTask(_Door):
    """In this process, on `thread_count` threads; with strategy `pool` in the configuration, on a pool."""

    _strategies = ("multi", "pool")


class ThreadPoolServiceTask(_Door):
    """In this process, on a pool of threads."""

    _strategies = ("pool",)


class AsyncServiceTask(_Door):
    """In this process, as coroutines of an event loop."""

    _strategies = ("async",)


class RayServiceTask(_Door):
    """On a cluster, one call at a time; on any node, unless the configuration says which."""

    _remote = True
    _strategies = ("single",)


class MultiThreadRayServiceTask(_Door):
    """On a cluster, on `thread_count` threads; with strategy `pool` in the configuration, on a pool."""

    _remote = True
    _strategies = ("multi", "pool")


class ThreadPoolRayServiceTask(_Door):
    """On a cluster, on a pool of threads."""

    _remote = True
    _strategies = ("pool",)


class AsyncRayServiceTask(_Door):
    """On a cluster, as coroutines of an event loop."""

    _remote = True
    _strategies = ("async",)
