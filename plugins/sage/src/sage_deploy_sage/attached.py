"""SAGE's `LocalEnvironment` with the methods that deploy."""

from __future__ import annotations

from functools import lru_cache
from types import new_class
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from sage.runtime import LocalEnvironment

from sage_deploy_sage.deployments import Deployments
from sage_plugins import Environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from os import PathLike
    from types import TracebackType
    from typing import Self

    from sage_plugins import ServiceDeploymentConfig, ServiceFactory, ServiceHandle
    from sage_plugins.planning.plan import DeploymentPlan
    from sage_plugins.service.callers import AsyncServiceCaller, ServiceCaller

__all__ = ["DeployEnvironment", "attach"]

_Service = TypeVar("_Service")


class DeployEnvironment(LocalEnvironment):
    """
    A `LocalEnvironment` of SAGE that deploys its services; `attach` makes one of an environment that is there already.

    Everything that SAGE has stays, and does what it did: `register_service`, the pipeline, the jobs. `submit` deploys
    the services first. `stop` and `close` stop them.
    """

    def __init__(  # noqa: PLR0913 - SAGE's four
        self,
        name: str = "localenvironment",
        config: dict[str, Any] | None = None,
        scheduler: Any = None,
        enable_monitoring: bool = False,  # noqa: FBT001, FBT002 - as in SAGE
        *,
        leave: Iterable[str] = (),
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Make an empty environment.

        Args:
            name: Its name.
            config: For SAGE, as the next two.
            scheduler: For SAGE.
            enable_monitoring: For SAGE.
            leave: As for `attach`.
            options: As for `attach`.

        Raises:
            TypeError: *leave* is one name.
        """
        super().__init__(name, config, scheduler=scheduler, enable_monitoring=enable_monitoring)
        self._deployments = Deployments(self, leave, options)

    # -- registering -------------------------------------------------------------------------------------------------

    def register_service_with_config(
        self,
        service_name: str,
        service_class: type,
        /,
        *args: Any,
        deployment_config: ServiceDeploymentConfig,
        **kwargs: Any,
    ) -> ServiceFactory:
        """Register a class and how it is deployed; see `Environment.register_service_with_config`."""
        settings = {"deployment_config": deployment_config, **kwargs}
        return self._register(Environment.register_service_with_config, service_name, service_class, args, settings)

    def register_service_on_nodes(
        self,
        service_name: str,
        service_class: type,
        /,
        *args: Any,
        nodes: Sequence[str],
        threads: int = 1,
        **rest: Any,
    ) -> ServiceFactory:
        """Register a class with one replica on each of *nodes*; see `Environment.register_service_on_nodes`."""
        settings = {"nodes": nodes, "threads": threads, **rest}
        return self._register(Environment.register_service_on_nodes, service_name, service_class, args, settings)

    def register_local_service_pool(
        self,
        service_name: str,
        service_class: type,
        /,
        *args: Any,
        pool_size: int,
        max_threads: int | None = None,
        **rest: Any,
    ) -> ServiceFactory:
        """Register a class with several replicas in this process; see `Environment.register_local_service_pool`."""
        settings = {"pool_size": pool_size, "max_threads": max_threads, **rest}
        return self._register(Environment.register_local_service_pool, service_name, service_class, args, settings)

    def _register(
        self,
        how: Callable[..., ServiceFactory],
        name: str,
        cls: type,
        args: tuple[Any, ...],
        settings: dict[str, Any],
    ) -> ServiceFactory:
        return self._deployments.register(name, lambda env: how(env, name, cls, *args, **settings))

    def load_service_deployment_config(self, path: str | PathLike[str], *, profile: str | None = None) -> None:
        """
        Read a deployment file; its entries apply to services registered before or after, in whatever way.

        Raises:
            ConfigError: With every problem of the file, each as `file:line:column: error E101: what (fix)`.
        """
        self._deployments.load(path, profile)

    # -- running -----------------------------------------------------------------------------------------------------

    def submit(self, autostop: bool = False) -> Any:  # noqa: FBT001, FBT002 - as in SAGE
        """
        Deploy the services, then have SAGE run the pipeline.

        With *autostop* it returns when everything has run, and the services that it started have stopped by then.

        Raises:
            PlanError, ConfigError, UnknownPluginError, DeployError: As `Environment.deploy`; nothing of the pipeline
                was started, and no service runs that did not run before. ConfigError also if there is no service of a
                name in `leave`.
            BaseException: As in SAGE, such as what a function of a batch raises.
        """
        with self._deployments.around(batch=autostop):
            return super().submit(autostop=autostop)

    def stop(self) -> None:
        """Have SAGE stop the pipeline, then stop the services; also if nothing was submitted."""
        try:
            super().stop()  # type: ignore[no-untyped-call]
        finally:
            self._deployments.close()

    def close(self) -> None:
        """Have SAGE close the environment, then stop the services; also if nothing was submitted."""
        try:
            super().close()  # type: ignore[no-untyped-call]
        finally:
            self._deployments.close()

    def __enter__(self) -> Self:
        """The environment itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    # -- what is deployed --------------------------------------------------------------------------------------------

    @property
    def deployment(self) -> Environment:
        """
        The environment of sage-deploy that runs the services, for everything that has no method here, such as `scale`.

        It is another one after `stop`, `close` and a batch run, which end it.

        Raises:
            ConfigError: A deployment file cannot be read any more.
        """
        return self._deployments.open

    def plan(self) -> DeploymentPlan:
        """
        What `submit` would deploy, and which plugin decides it; starts nothing.

        Raises:
            PlanError, ConfigError, UnknownPluginError, PluginError: As `Environment.plan`.
        """
        return self._deployments.open.plan()

    def deploy(self, timeout: float | None = None) -> None:
        """
        Deploy the services without a pipeline; they go on until `stop` or `close`, whatever runs end meanwhile.

        Args:
            timeout: Seconds to wait for each service; None for each service's own `startup_timeout`.

        Raises:
            PlanError, ConfigError, UnknownPluginError, DeployError: As `Environment.deploy`.
        """
        self._deployments.deploy(timeout)

    def get_service_status(self, name: str) -> dict[str, Any]:
        """
        A service at a glance, see `Environment.get_service_status`; of the last run, if that has ended.

        Raises:
            ServiceNotFoundError: No service of that name is deployed, or SAGE runs it itself.
        """
        return self._deployments.status(name)

    @overload
    def service(self, name: str) -> ServiceHandle: ...
    @overload
    def service(self, name: str, cls: type[_Service]) -> _Service: ...

    def service(self, name: str, cls: type | None = None) -> Any:  # noqa: ARG002 - only type checkers read it
        """
        A handle to a service; *cls* only tells type checkers its methods. Starts nothing.

        It is good until the services are stopped.

        Raises:
            ServiceNotFoundError: No service of that name is registered, or SAGE runs it itself.
        """
        return self._deployments.service(name)

    @property
    def call_service(self) -> ServiceCaller:
        """Calls services from outside of the pipeline: `env.call_service("kv", "k", method="get")`."""
        self._deployments.open  # noqa: B018 - takes over what was registered meanwhile
        return self._deployments.call_service

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """Like `call_service`, but gives a `concurrent.futures.Future` at once."""
        self._deployments.open  # noqa: B018 - as above
        return self._deployments.call_service_async


def attach(
    env: LocalEnvironment,
    *,
    leave: Iterable[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> DeployEnvironment:
    """
    Have sage-deploy run the services of *env*, an environment of SAGE; gives the same object.

    It becomes an instance of its class and of `DeployEnvironment`; no module and no class of SAGE is changed, and other
    environments are what they were. A second time does nothing.

    Every service is deployed, also one that was or will be registered by `env.register_service`: as a loaded file says,
    else as one replica in this process that runs one call at a time. Left to SAGE are the names in *leave*, a service
    with a factory that does not tell its class, and one that shares an object of its constructor, such as a queue, with
    a source of the pipeline: it waits for the pipeline, which SAGE moves on only within calls that it makes itself. A
    service that is registered with a configuration, or named in a file, is never left for that.

    Args:
        env: A `LocalEnvironment`, or one of a class derived from it.
        leave: Names of services that SAGE is to run itself.
        options: Options of plugins for all services together, by ID, as for `Environment`.

    Raises:
        TypeError: *env* is another kind of environment, or *leave* is one name.
        ValueError: *env* is attached already, and with other options.
    """
    if isinstance(env, DeployEnvironment):
        if leave or options:
            msg = f"environment {env.name!r} is attached already: give `leave` and `options` the first time"
            raise ValueError(msg)
        return env
    if not isinstance(env, LocalEnvironment):
        msg = (
            f"attach takes a LocalEnvironment of sage.runtime, got {type(env).__module__}.{type(env).__qualname__}: "
            "the functions of others run in processes that have no handles to the services"
        )
        raise TypeError(msg)
    attached = cast("DeployEnvironment", env)
    attached._deployments = Deployments(env, leave, options)  # noqa: SLF001 - what its constructor does
    env.__class__ = _deploying(type(env))
    return attached


@lru_cache(64)
def _deploying(cls: type[LocalEnvironment]) -> type[LocalEnvironment]:
    """The class *cls* with the methods that deploy."""
    if cls is LocalEnvironment:
        return DeployEnvironment
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return new_class(cls.__name__, (DeployEnvironment, cls), exec_body=lambda body: body.update(names))
