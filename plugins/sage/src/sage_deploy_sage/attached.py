"""Adds deployment methods to SAGE's `LocalEnvironment`."""

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
    A `LocalEnvironment` of SAGE that deploys its services. `attach` turns an existing environment into one.

    Everything of SAGE stays and works as before. `submit` also deploys the services first; `stop` and `close` stop
    them.
    """

    def __init__(  # noqa: PLR0913 - SAGE has four parameters
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
        Create an empty environment. *leave* and *options* are as for `attach`, the others are passed to SAGE.

        Raises:
            TypeError: *leave* is a single name.
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
        """Register a class with its deployment configuration; see `Environment.register_service_with_config`."""
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
        Read a deployment file. Its entries apply to services registered before or after, in any way.

        Raises:
            ConfigError: The file has problems. It lists every one as `file:line:column: error E101: what (fix)`.
        """
        self._deployments.load(path, profile)

    # -- running -----------------------------------------------------------------------------------------------------

    def submit(self, autostop: bool = False) -> Any:  # noqa: FBT001, FBT002 - as in SAGE
        """
        Deploy the services, then let SAGE run the pipeline.

        With *autostop* it returns after everything has run and the services that it started have stopped.

        Raises:
            PlanError, ConfigError, UnknownPluginError, DeployError: As `Environment.deploy`. Nothing of the pipeline
                was started, and only services that ran before still run. ConfigError also if a name in `leave` is not
                registered.
            BaseException: As in SAGE, such as what a function of a batch raises.
        """
        with self._deployments.around(batch=autostop):
            return super().submit(autostop=autostop)

    def stop(self) -> None:
        """Let SAGE stop the pipeline, then stop the services; also without a `submit`."""
        try:
            super().stop()  # type: ignore[no-untyped-call]
        finally:
            self._deployments.close()

    def close(self) -> None:
        """Let SAGE close the environment, then stop the services; also without a `submit`."""
        try:
            super().close()  # type: ignore[no-untyped-call]
        finally:
            self._deployments.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what is deployed --------------------------------------------------------------------------------------------

    @property
    def deployment(self) -> Environment:
        """
        The environment of sage-deploy that runs the services, for what has no method here, such as `scale`.

        `stop`, `close` and the end of a batch run end it; then this is a new one.

        Raises:
            ConfigError: A deployment file can no longer be read.
        """
        return self._deployments.open

    def plan(self) -> DeploymentPlan:
        """
        Return what `submit` would deploy, and which plugin decides it. Start nothing.

        Raises:
            PlanError, ConfigError, UnknownPluginError, PluginError: As `Environment.plan`.
        """
        return self._deployments.open.plan()

    def deploy(self, timeout: float | None = None) -> None:
        """
        Deploy the services without a pipeline. They run until `stop` or `close`, even if pipeline runs end meanwhile.

        Args:
            timeout: Seconds to wait for each service. None: each service's own `startup_timeout`.

        Raises:
            PlanError, ConfigError, UnknownPluginError, DeployError: As `Environment.deploy`.
        """
        self._deployments.deploy(timeout)

    def get_service_status(self, name: str) -> dict[str, Any]:
        """
        Return a service's status; see `Environment.get_service_status`. After a run, return its last status.

        Raises:
            ServiceNotFoundError: No service of this name is deployed, or SAGE runs it itself.
        """
        return self._deployments.status(name)

    @overload
    def service(self, name: str) -> ServiceHandle: ...
    @overload
    def service(self, name: str, cls: type[_Service]) -> _Service: ...

    def service(self, name: str, cls: type | None = None) -> Any:  # noqa: ARG002 - only type checkers read it
        """
        Return a handle to a service. Start nothing. *cls* only tells type checkers its methods.

        The handle is valid until the services are stopped.

        Raises:
            ServiceNotFoundError: No service of this name is registered, or SAGE runs it itself.
        """
        return self._deployments.service(name)

    @property
    def call_service(self) -> ServiceCaller:
        """Calls services from outside the pipeline: `env.call_service("kv", "k", method="get")`."""
        self._deployments.open  # noqa: B018 - takes over later registrations
        return self._deployments.call_service

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """Like `call_service`, but returns a `concurrent.futures.Future` at once."""
        self._deployments.open  # noqa: B018 - as above
        return self._deployments.call_service_async


def attach(
    env: LocalEnvironment,
    *,
    leave: Iterable[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> DeployEnvironment:
    """
    Let sage-deploy run the services of *env*, an environment of SAGE. Return the same object.

    It becomes an instance of both its class and `DeployEnvironment`. No module or class of SAGE is changed, and other
    environments stay as they are. A second call does nothing.

    Every service is deployed, including those registered with `env.register_service` before or after, as a loaded
    file's entry says. Without an entry, the service gets one replica in this process, which runs one call at a time.

    SAGE keeps running three kinds of services itself:

    - those named in *leave*,
    - those with a factory that does not tell its class,
    - those whose constructor shares an object, such as a queue, with a source of the pipeline: they wait for the
      pipeline, and only SAGE's own calls keep it moving meanwhile. This does not apply to services that are registered
      with a configuration or named in a file.

    Args:
        env: A `LocalEnvironment`, or an instance of a derived class.
        leave: Names of services that SAGE should run itself.
        options: Options of plugins for all services together, by plugin ID, as for `Environment`.

    Raises:
        TypeError: *env* is another kind of environment, or *leave* is a single name.
        ValueError: *env* is attached already, and `leave` or `options` is given again.
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
    attached._deployments = Deployments(env, leave, options)  # noqa: SLF001 - as in its constructor
    env.__class__ = _deploying(type(env))
    return attached


@lru_cache(64)
def _deploying(cls: type[LocalEnvironment]) -> type[LocalEnvironment]:
    """Return a class derived from *cls* that has the deployment methods."""
    if cls is LocalEnvironment:
        return DeployEnvironment
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return new_class(cls.__name__, (DeployEnvironment, cls), exec_body=lambda body: body.update(names))
