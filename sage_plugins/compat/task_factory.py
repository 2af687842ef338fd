"""Tasks of single services without an environment, as SAGE makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.clock import SYSTEM
from sage_plugins.config.service_config import ServiceDeploymentConfig
from sage_plugins.deployment.task import ServiceTask
from sage_plugins.errors import ServiceNotFoundError
from sage_plugins.planning.composition import compose
from sage_plugins.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.clock import Clock
    from sage_plugins.planning.composition import Composition
    from sage_plugins.service.factory import ServiceContext

__all__ = ["ServiceTaskFactory"]


class ServiceTaskFactory:
    """
    Makes the task of one service.

    Attributes:
        service_factory: Builds the instances.
        service_name: Name of the service.
        deployment_config: How it is deployed.
        remote: Whether it was asked to run on a cluster.
    """

    def __init__(  # noqa: PLR0913 - three of SAGE's, three of ours
        self,
        service_factory: Any,
        deployment_config: ServiceDeploymentConfig | None = None,
        remote: bool = False,  # noqa: FBT001, FBT002 - as in SAGE
        *,
        registry: Registry | None = None,
        find_service: Callable[[str], Any] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        """
        Remember what to make.

        Args:
            service_factory: `ServiceFactory`, or anything with `service_name`, `service_class` and
                `create_service(ctx)`.
            deployment_config: Defaults to one replica, one thread; on any node of the cluster if *remote*.
            remote: Without a configuration: run on any node of the cluster.
            registry: The plugins to choose from; the installed ones by default.
            find_service: Gives the instances handles to other services; by default there are none.
            clock: For deadlines.
        """
        self.service_factory = service_factory
        self.service_name = service_factory.service_name
        self.remote = remote
        target = "remote_any" if remote else "local"
        self.deployment_config = deployment_config or ServiceDeploymentConfig(target=target)
        self._registry = registry
        self._find_service = find_service or self._no_other
        self._clock = clock

    def create_service_task(self, ctx: ServiceContext | None = None) -> ServiceTask:
        """
        A task for the service; nothing is built or started yet.

        Args:
            ctx: Whose `service(name)` finds other services for the instances; each replica gets a context of its own.

        Raises:
            UnknownPluginError: The configuration names an ID that no plugin has.
            PlanError: The plugins refuse the configuration; `problems` has every reason.
        """
        return ServiceTask(*self.parts(ctx))

    def parts(self, ctx: ServiceContext | None = None) -> tuple[Composition, Callable[[str], Any], Clock]:
        """What a task for the service is made of: the first arguments of `ServiceTask`; raises as its maker does."""
        registry = self._registry or Registry.discover()
        composition, finder = compose(self.service_factory, self.deployment_config, registry)
        if composition is None:
            raise finder.refusal()
        return composition, self._find_service if ctx is None else ctx.service, self._clock

    def _no_other(self, name: str) -> Any:
        msg = f"service {self.service_name!r} was made outside any environment, so it cannot find service {name!r}"
        raise ServiceNotFoundError(msg, service=name)
