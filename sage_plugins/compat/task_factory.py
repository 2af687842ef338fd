"""Makes tasks of single services without an environment, as in SAGE."""

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
        service_name: Its name.
        deployment_config: Configuration of the service.
        remote: The argument *remote*.
    """

    def __init__(  # noqa: PLR0913 - three as in SAGE, three more
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
        Store what is needed to make the task.

        Args:
            service_factory: `ServiceFactory`, or anything with `service_name`, `service_class` and
                `create_service(ctx)`.
            deployment_config: The configuration. Default: one replica with one thread.
            remote: Without *deployment_config*: run on any node of a Ray cluster. Otherwise ignored.
            registry: The plugins to choose from. Default: the installed plugins.
            find_service: Returns a handle to another service by name, for the instances. Default: there are no others.
            clock: The clock for timers and deadlines.
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
        Return a task for the service; builds and starts nothing.

        Args:
            ctx: Its `service(name)` finds other services for the instances. Each replica gets its own context.

        Raises:
            UnknownPluginError: The configuration names an ID that no plugin has.
            PlanError: The plugins refuse the configuration; `problems` has every reason.
        """
        return ServiceTask(*self.parts(ctx))

    def parts(self, ctx: ServiceContext | None = None) -> tuple[Composition, Callable[[str], Any], Clock]:
        """Return the first arguments of `ServiceTask`; arguments and errors as `create_service_task`."""
        registry = self._registry or Registry.discover()
        composition, finder = compose(self.service_factory, self.deployment_config, registry)
        if composition is None:
            raise finder.refusal()
        return composition, self._find_service if ctx is None else ctx.service, self._clock

    def _no_other(self, name: str) -> Any:
        msg = f"service {self.service_name!r} was made outside any environment, so it cannot find service {name!r}"
        raise ServiceNotFoundError(msg, service=name)
