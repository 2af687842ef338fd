"""`Environment`: registers, deploys, calls and stops services."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sage_plugins.clock import SYSTEM, checked_seconds
from sage_plugins.environment.deploying import Deploying
from sage_plugins.environment.detached import DetachedStatus
from sage_plugins.environment.logs import Logs
from sage_plugins.environment.registering import Registering
from sage_plugins.environment.services import NOT_RUNNING, Services
from sage_plugins.environment.views import Views
from sage_plugins.process_end import forget
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike
    from types import TracebackType
    from typing import Self

    from sage_plugins.clock import Clock
    from sage_plugins.environment.extensions import Extensions
    from sage_plugins.planning.plan import DeploymentPlan
    from sage_plugins.plugins.registry import Registry
    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.service.callers import AsyncServiceCaller, ServiceCaller
    from sage_plugins.values import Event, Problem

__all__ = ["Environment"]

_Service = TypeVar("_Service")


class Environment(Registering, Views):
    """
    Registers, deploys, calls and stops a set of services. Thread-safe.

    Registering starts nothing. `deploy` starts all services or none; the first call of a service that is not deployed
    deploys it. As a context manager, sync or async, the environment closes itself.

    Attributes:
        name: The environment's name.
        id: ID, unique in all processes.

    Example:
        ```python
        with Environment("demo") as env:
            env.register_service("greeter", Greeter, "Hello")
            env.service("greeter").greet("world")
        ```
    """

    def __init__(
        self,
        name: str = "sage-deploy",
        *,
        registry: Registry | None = None,
        clock: Clock = SYSTEM,
        on_event: Callable[[Event], None] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Make an empty environment.

        Args:
            name: Its name, for messages. Services that outlive their process are found by it, see `adopt`.
            registry: The plugins to choose from; default: the installed ones, discovered when first needed.
            clock: For deadlines.
            on_event: Called with every `Event` of every service, from any thread; must not block. If it raises, it is
                not called again.
            options: Options of plugins for all services together, by ID, such as `{"ray": {"address": "auto"}}`. They
                win over a file's, and are checked when a service is planned or deployed.

        Raises:
            ConfigError: *options* is not a mapping of IDs to mappings.
        """
        self.name = name
        self.id = os.urandom(16).hex()
        Views.__init__(self, on_event)
        self._services = Services(self, name, registry, clock, self._events.tell, options)
        self._logs = Logs(self._services)
        self._detached = DetachedStatus(self._services)
        self._deploying = Deploying(self._services)
        self._extensions: Extensions | None = None  # guarded by Services.lock

    # -- plugins and factories ---------------------------------------------------------------------------------------

    @property
    def registry(self) -> Registry:
        """The plugins of this environment."""
        return self._services.registry

    @property
    def service_factories(self) -> dict[str, Any]:
        """The registered factories, by name of the service."""
        return self._services.catalogue.factories

    # -- deploying ---------------------------------------------------------------------------------------------------

    def plan(self, running: Mapping[str, Mapping[str, Any]] | None = None, *, reread: bool = False) -> DeploymentPlan:
        """
        Return what `deploy` and `apply` would do, which plugins decide it, and how it differs from what runs.

        Starts nothing.

        Args:
            running: Services that run in another process, by name, as `running()` returned them there.
            reread: Whether to read the loaded files again for this plan.

        Raises:
            PlanError, ConfigError, UnknownPluginError: As `deploy` would.
            PluginError: A plugin cannot describe its choice, or where replicas would run.
        """
        from sage_plugins.planning.planner import plan_all

        catalogue = self._services.catalogue.snapshot()
        for source in self._read_again() if reread else ():
            catalogue.load(source)
        return plan_all(catalogue, self.registry, {**(running or {}), **self.running()}, self._services.plan_update)

    def check(
        self, file: str | PathLike[str] | None = None, *, profile: str | None = None, import_classes: bool = True
    ) -> list[Problem]:
        """
        Return all errors and warnings of all services. Starts and places nothing.

        Args:
            file: A deployment file to check as if it was loaded. All its problems are reported, even if it cannot be
                loaded.
            profile: Which of the file's `profiles` to apply.
            import_classes: Whether to import the classes that files name, which runs their modules. If false, checks
                that need a class are skipped.

        Raises:
            PluginError: A plugin breaks its contract.
        """
        catalogue = self._services.catalogue.snapshot()
        if file is not None:
            catalogue.load(self._reader().examine(file, profile=profile))
        return catalogue.check(self.registry, import_classes=import_classes)

    def running(self) -> dict[str, dict[str, Any]]:
        """
        Return the settings of the running services, as plain values, for `plan` in this or another process.

        Secrets and constructor arguments are digests.
        """
        from sage_plugins.config.origins import ARGUMENT
        from sage_plugins.planning.plan import comparable
        from sage_plugins.planning.planner import describe

        with self._services.lock:
            tasks = {name: task for name, task in self._services.tasks.items() if task.state not in NOT_RUNNING}
        found = {
            name: comparable(describe(task.composition, lambda _: ARGUMENT)) | task.drift
            for name, task in tasks.items()
        }
        for name, factory in self.service_factories.items():
            if name in found and _is_redefined(tasks[name].composition.factory.service_class, factory.service_class):
                found[name]["class"] += " as it was defined before"
        return found

    def deploy(self, timeout: float | None = None) -> None:
        """
        Start all registered services that do not run, or none; wait until all are ready.

        Args:
            timeout: Seconds for each service; None: its `startup_timeout`.

        Raises:
            TypeError: *timeout* is not a number, such as a service's name.
            PlanError, ConfigError, UnknownPluginError: A service cannot be composed; nothing was started.
            DeployError: A service did not become ready, or an extension did not start. All services that this call had
                started were stopped.
        """
        self._deploying.deploy(timeout, self._start_extensions)

    async def adeploy(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as `deploy`
        """As `deploy`, for coroutines: runs in a separate thread, without blocking the event loop."""
        from sage_plugins.call import aio

        await aio.in_thread(lambda: self.deploy(timeout), name=f"{self.name}-deploy")

    def adopt(self, timeout: float | None = None) -> list[str]:
        """
        Take over the services that an environment of this name left running when its process ended.

        They must be detached, for example by `options: {ray: {lifetime: detached}}`, and this environment needs the
        same options. They keep their settings, whatever is configured here, and their code. Missing replicas are
        started. From now on this environment calls, scales, replaces and stops them. `drain` stops one; `close` leaves
        all running. `deploy` also takes over services that are registered here, but refuses those that run with other
        settings.

        Args:
            timeout: Seconds for replicas that must be started; None: each service's `startup_timeout`.

        Returns:
            The names of the services.

        Raises:
            ConfigError: This environment's services end with its process.
            DeployError: Another living process has the services; or a missing replica did not become ready, and the
                services go on without this environment.
            ClusterUnavailableError: The cluster does not say what runs.
            PlanError, UnknownPluginError, PluginError: The plugins here do not match the services.
        """
        return self._deploying.adopt(timeout)

    def apply(self, timeout: float | None = None) -> None:
        """
        Make the running services match the configuration: start, replace and stop services.

        The plan says how each change is applied. Replicas are replaced a few at a time, as `update` says, or keep
        running if they can take the change. A change that callers would notice, such as other methods, starts a second
        service, which takes over when all its replicas are ready. No call is lost or refused: leaving replicas finish
        accepted calls within `drain_timeout`. Services change in turn; after a failure, the remaining ones stay
        unchanged.

        Args:
            timeout: Seconds for a service or replica to become ready. None: `startup_timeout` of a new service,
                `update.progress_deadline` of a changed one.

        Raises:
            PlanError, ConfigError, UnknownPluginError: A service cannot be composed; nothing changed.
            PluginError: A plugin cannot describe its choice, or where replicas would run; nothing changed.
            DeployError: A service did not become ready; the old one goes on. Or another thread is in `apply`, and this
                is called inside a service's call, for which that thread may wait.
        """
        self._deploying.apply(self.plan, timeout, self._start_extensions)

    def _start_extensions(self) -> None:
        options = self._services.catalogue.environment_options
        if not options:
            return
        from sage_plugins.environment.extensions import Extensions  # most environments have none

        with self._services.lock:
            extensions = self._extensions = self._extensions or Extensions()
        self._logs.keep()
        extensions.start(self.registry, options, self)

    # -- calling -----------------------------------------------------------------------------------------------------

    @overload
    def service(self, name: str) -> ServiceHandle: ...
    @overload
    def service(self, name: str, cls: type[_Service]) -> _Service: ...

    def service(self, name: str, cls: type | None = None) -> Any:  # noqa: ARG002 - only type checkers read it
        """
        Return a handle to a service; starts nothing.

        If this environment's services outlive their process (see `adopt`), also one that another process deployed for
        an environment of this name.

        Args:
            name: The service's name.
            cls: Its class, for type checkers and editors.

        Raises:
            ServiceNotFoundError: No such service.
            ServiceStoppedError: The environment is closed.
        """
        return self._services.handle(name)

    @cached_property
    def call_service(self) -> ServiceCaller:
        """
        Calls a service and waits: `call_service("kv", "k", method="get", timeout=5)`, or `call_service["kv"].get("k")`.

        Without `method` it calls the first of `process`, `execute` and `call` that the service has. Raises the errors
        of `ServiceHandle.call`, where possible as RuntimeErrors too. See `ServiceCaller`.
        """
        from sage_plugins.service.callers import ServiceCaller

        return ServiceCaller(self.service)

    @cached_property
    def call_service_async(self) -> AsyncServiceCaller:
        """Like `call_service`, but returns a `concurrent.futures.Future` at once."""
        from sage_plugins.service.callers import AsyncServiceCaller

        return AsyncServiceCaller(self.service)

    # -- changing what runs ------------------------------------------------------------------------------------------

    def scale(self, name: str, replicas: int) -> None:
        """
        Change the number of replicas of a service. No call is refused or lost.

        A second replica gets the default load balancer if there is none. See `ServiceTask.scale`.

        Args:
            name: The service's name.
            replicas: 1 or more.

        Raises:
            ServiceNotFoundError: No such service.
            ConfigError: *replicas* is below 1, or outside the bounds of `autoscale`.
            DeployError: The service does not run, or a new replica did not become ready; the others go on.
        """
        self.task(name).scale(replicas)

    def restart(self, name: str, replica: str | None = None) -> None:
        """
        Replace one replica of a service, or all in turn. No call is refused or lost.

        Args:
            name: The service's name.
            replica: The replica's ID, such as `"kv#1"`; None for all. See `ServiceTask.restart`.

        Raises:
            ServiceNotFoundError: No such service.
            DeployError: The service does not run, has no such replica, or a new replica did not become ready; the old
                one goes on.
        """
        self.task(name).restart(replica)

    def drain(self, name: str, timeout: float | None = None) -> None:
        """
        Stop a service after its accepted calls; it accepts no new ones. `deploy` starts it again.

        Does nothing if it does not run. Returns at once inside a service's call.

        Args:
            name: The service's name.
            timeout: Seconds for accepted calls; None: its `drain_timeout`.

        Raises:
            ServiceNotFoundError: No such service.
            TypeError: *timeout* is no number. Nothing was stopped.
        """
        self.task(name).drain(timeout)

    def set_load_balancer(self, name: str, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Use another load balancer from now on. Waiting calls stay in the queue.

        Args:
            name: The service's name.
            id: The balancer's ID.
            options: Its options; None: those in the service's configuration.

        Raises:
            ServiceNotFoundError: No such service.
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError, PluginError: The balancer refuses its options or cannot be made.
            DeployError: The service does not run.
        """
        self.task(name).set_load_balancer(id, options)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, drain_timeout: float | None = None) -> None:
        """
        Accept no more calls, let accepted calls finish, then stop all services, the last deployed first.

        Idempotent. Accepted calls may call other services until all have finished. Inside a service's call, it returns
        at once and closes in the background.

        Args:
            drain_timeout: Seconds for the accepted calls of all services; None: the longest of their own.

        Raises:
            TypeError: *drain_timeout* is no number. Nothing was stopped.
        """
        if drain_timeout is not None:
            drain_timeout = checked_seconds(drain_timeout, "drain_timeout")
        if self._extensions is not None:
            self._extensions.close()
        self._deploying.close(drain_timeout, self._on_closed)

    def _on_closed(self) -> None:
        self._logs.close()
        self._detached.close()
        forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `close`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `close`, in a separate thread, because running calls may need this event loop."""
        from sage_plugins.call import aio

        await aio.in_thread(self.close, name=f"{self.name}-close")

    def after_fork(self) -> None:
        """In a forked child: refuse everything that needs services; they run in the parent."""
        self._services.after_fork()
        self._deploying.after_fork()
        if self._extensions is not None:
            self._extensions.after_fork()

    def __repr__(self) -> str:
        return f"<Environment {self.name!r} with {counted(len(self._services.catalogue.names), 'service')}>"


def _is_redefined(runs: type, registered: type) -> bool:
    """Whether a class has a new definition under its old name, as after a cell of a notebook was run again."""
    return runs is not registered and (runs.__module__, runs.__qualname__) == (
        registered.__module__,
        registered.__qualname__,
    )
