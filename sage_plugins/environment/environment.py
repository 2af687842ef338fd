"""Where services are registered, deployed, called and stopped."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sage_plugins.clock import SYSTEM
from sage_plugins.environment.deploying import Deploying
from sage_plugins.environment.detached import Elsewhere
from sage_plugins.environment.logs import Logs
from sage_plugins.environment.registering import Registering
from sage_plugins.environment.services import AT_REST, Services
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
    A set of services: registered, deployed, called and stopped together.

    Registering starts nothing. `deploy` starts everything or nothing; a service that is called before that is deployed
    by the call. As a context manager, sync or async, it closes itself. All methods are safe from any thread.

    Attributes:
        name: Name of the environment.
        id: Tells it from every other environment, of whatever name and process.

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
            name: Its name, for messages.
            registry: The plugins to choose from; by default the installed ones, discovered when first needed.
            clock: For deadlines.
            on_event: Told of every event of every service, such as a replica that got ready; from any thread, so it
                must not wait. One that raises is left out from then on.
            options: Options of plugins for all services together, by ID, such as `{"ray": {"address": "auto"}}`; each
                beats the same one of a file. What they say is checked when a service is planned or deployed.

        Raises:
            ConfigError: *options* is no mapping of IDs to mappings.
        """
        self.name = name
        self.id = os.urandom(16).hex()
        Views.__init__(self, on_event)
        self._services = Services(self, name, registry, clock, self._events.tell, options)
        self._logs = Logs(self._services)
        self._elsewhere = Elsewhere(self._services)
        self._deploying = Deploying(self._services)
        self._extensions: Extensions | None = None  # guarded by Services.lock

    # -- resolving ---------------------------------------------------------------------------------------------------

    @property
    def registry(self) -> Registry:
        """The plugins of this environment."""
        return self._services.registry

    @property
    def service_factories(self) -> dict[str, Any]:
        """The factories that were registered, by the service's name."""
        return self._services.catalogue.factories

    # -- deploying ---------------------------------------------------------------------------------------------------

    def plan(self, running: Mapping[str, Mapping[str, Any]] | None = None, *, reread: bool = False) -> DeploymentPlan:
        """
        What `deploy` and `apply` would do, which plugin decides it, and what is different from what runs.

        Starts nothing.

        Args:
            running: What else is known to run, by service, as `running()` of that environment gave it; for those who
                plan for another process.
            reread: Whether to plan for what the files say now, rather than for what they said when they were loaded.

        Raises:
            PlanError, ConfigError, UnknownPluginError: As `deploy` would.
            PluginError: A plugin fails to explain itself, or to say where replicas go.
        """
        from sage_plugins.planning.planner import plan_all

        catalogue = self._services.catalogue.snapshot()
        for source in self._read_again() if reread else ():
            catalogue.load(source)
        return plan_all(catalogue, self.registry, {**(running or {}), **self.running()}, self._services.way)

    def check(
        self, file: str | PathLike[str] | None = None, *, profile: str | None = None, import_classes: bool = True
    ) -> list[Problem]:
        """
        Everything that is wrong or doubtful with any service, errors and warnings; starts and places nothing.

        Args:
            file: A deployment file to check as if it was loaded, whatever is wrong with it.
            profile: Which of the file's `profiles` to apply.
            import_classes: Whether to import the classes that files name, which runs their modules; if not, what can
                only be told from a class is left out.

        Raises:
            PluginError: A plugin breaks its contract.
        """
        catalogue = self._services.catalogue.snapshot()
        if file is not None:
            catalogue.load(self._reader().examine(file, profile=profile))
        return catalogue.check(self.registry, import_classes=import_classes)

    def running(self) -> dict[str, dict[str, Any]]:
        """
        What runs, by service: plain values by the keys of its plan's settings, for `plan` to compare with.

        Secrets and constructor's arguments are in it by a digest only.
        """
        from sage_plugins.config.origins import ARGUMENT
        from sage_plugins.planning.plan import comparable
        from sage_plugins.planning.planner import describe

        with self._services.lock:
            tasks = {name: task for name, task in self._services.tasks.items() if task.state not in AT_REST}
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
        Start every registered service that does not run yet, and wait until all are ready: all or nothing.

        Args:
            timeout: Seconds to wait for each service; None for each service's own `startup_timeout`.

        Raises:
            TypeError: *timeout* is no number, such as the name of a service.
            PlanError, ConfigError, UnknownPluginError: A service cannot be composed; nothing was started.
            DeployError: A service did not become ready, or an extension did not start; what this call had started was
                stopped.
        """
        self._deploying.deploy(timeout, self._start_extensions)

    async def adeploy(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as `deploy`
        """`deploy` for coroutines: it runs in a thread of its own, and the loop goes on meanwhile."""
        from sage_plugins.call import aio

        await aio.in_thread(lambda: self.deploy(timeout), name=f"{self.name}-deploy")

    def adopt(self, timeout: float | None = None) -> list[str]:
        """
        Take over the services that an environment of this name has left running when its process ended.

        They must be detached, such as by `options: {ray: {lifetime: detached}}`, which this environment must say too.
        They go on as they are, whatever is configured here, with the code that they were started with; replicas
        that are missing are started. From then on this environment calls, scales, replaces and stops them: `drain`
        stops one, `close` leaves all running. `deploy` does the same for services that are registered here, and refuses
        those that run otherwise.

        Args:
            timeout: Seconds to wait for replicas that have to be started; None for each service's `startup_timeout`.

        Returns:
            Their names.

        Raises:
            ConfigError: This environment's services end with its process.
            DeployError: Another process has them, one that lives; or a replica that was missing did not become ready,
                and then the others go on without this environment.
            ClusterUnavailableError: The cluster does not say what runs.
            PlanError, UnknownPluginError, PluginError: The plugins here are not those that the services need.
        """
        return self._deploying.adopt(timeout)

    def apply(self, timeout: float | None = None) -> None:
        """
        Make the running services match the configuration: start, replace and stop services.

        The replicas of a service that changed are replaced a few at a time, as its `update` says, or keep running if
        they can take the change; the plan says which. A change that callers would notice in the middle, such as other
        methods, starts a new service beside the old one, which hands over when all replicas of the new one are ready.
        No call is lost or refused: replicas that leave finish what they have accepted, within `drain_timeout`. One
        service after the other, so a failure leaves what comes after it as it was.

        Args:
            timeout: Seconds for a service, or a replica, to become ready; None for `startup_timeout` of a service that
                is new and `update.progress_deadline` of one that changes.

        Raises:
            PlanError, ConfigError, UnknownPluginError: Something cannot be composed; nothing was changed.
            PluginError: A plugin fails to explain itself, or to say where replicas go; nothing was changed.
            DeployError: A service did not become ready; the one that ran goes on. Or another thread applies and this
                comes from within a service's call, for which that thread may be waiting.
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
        A handle to a service; starts nothing.

        If services outlive the process that deploys them, see `adopt`, one that is not registered here is looked for
        among those that another process has deployed for an environment of this name.

        Args:
            name: Name of the service.
            cls: Its class, so that type checkers and editors see its methods on the handle.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            ServiceStoppedError: The environment is closed.
        """
        return self._services.handle(name)

    @cached_property
    def call_service(self) -> ServiceCaller:
        """
        Calls a service and waits: `call_service("kv", "k", method="get", timeout=5)`, or `call_service["kv"].get("k")`.

        Without `method` it calls the first of `process`, `execute` and `call` that the service has. What it raises is
        what `ServiceHandle.call` raises, and a RuntimeError too where the two go together. See `ServiceCaller`.
        """
        from sage_plugins.service.callers import ServiceCaller

        return ServiceCaller(self.service)

    @cached_property
    def call_service_async(self) -> AsyncServiceCaller:
        """Like `call_service`, but gives a `concurrent.futures.Future` at once."""
        from sage_plugins.service.callers import AsyncServiceCaller

        return AsyncServiceCaller(self.service)

    # -- changing what runs ------------------------------------------------------------------------------------------

    def scale(self, name: str, replicas: int) -> None:
        """
        Run so many replicas of a service from now on; no call is refused or lost.

        More than one of a service without a load balancer turns the default one on. See `ServiceTask.scale`.

        Args:
            name: Name of the service.
            replicas: How many, 1 or more.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            ConfigError: *replicas* is not 1 or more, or not within the bounds of `autoscale`.
            DeployError: The service does not run, or a new replica did not become ready; the others go on as before.
        """
        self.task(name).scale(replicas)

    def restart(self, name: str, replica: str | None = None) -> None:
        """
        Replace one replica of a service by a new one, or every one in turn; no call is refused or lost.

        Args:
            name: Name of the service.
            replica: ID of the one, such as `"kv#1"`; None for all. See `ServiceTask.restart`.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            DeployError: The service does not run or has no such replica, or a new one did not become ready; the old one
                goes on serving.
        """
        self.task(name).restart(replica)

    def drain(self, name: str, timeout: float | None = None) -> None:
        """
        Have a service accept no more calls, finish those accepted, and stop; `deploy` starts it anew.

        Does nothing for a service that does not run. From within a service's call it returns at once.

        Args:
            name: Name of the service.
            timeout: Seconds for the accepted calls; None for the service's `drain_timeout`.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
        """
        self.task(name).drain(timeout)

    def set_load_balancer(self, name: str, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Have another load balancer choose among the replicas of a service from now on; calls that wait are kept.

        Args:
            name: Name of the service.
            id: ID of the balancer.
            options: Its options; None for those that the service's configuration has for it.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError, PluginError: The balancer refuses its options or cannot be made.
            DeployError: The service does not run.
        """
        self.task(name).set_load_balancer(id, options)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, drain_timeout: float | None = None) -> None:
        """
        Accept no more calls, let those accepted finish, then stop every service, the last deployed first.

        Idempotent, from any thread. Accepted calls may go on calling other services until all have finished. Called
        from within a service's own call it returns at once and the rest happens when that call has ended.

        Args:
            drain_timeout: Seconds for the accepted calls of all services; None for the longest of their own.
        """
        if self._extensions is not None:
            self._extensions.close()
        self._deploying.close(drain_timeout, self._closed)

    def _closed(self) -> None:
        self._logs.close()
        self._elsewhere.close()
        forget(self)

    def __enter__(self) -> Self:
        """The environment itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """The environment itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, in a thread, so that coroutines which the services' calls need go on."""
        from sage_plugins.call import aio

        await aio.in_thread(self.close, name=f"{self.name}-close")

    def after_fork(self) -> None:
        """In a forked child: the services are not here; refuse everything that needs them."""
        self._services.after_fork()
        self._deploying.after_fork()
        if self._extensions is not None:
            self._extensions.after_fork()

    def __repr__(self) -> str:
        """Name and number of services."""
        return f"<Environment {self.name!r} with {counted(len(self._services.catalogue.names), 'service')}>"


def _is_redefined(runs: type, registered: type) -> bool:
    """Whether a class has a new definition under its old name, as after a cell of a notebook was run again."""
    return runs is not registered and (runs.__module__, runs.__qualname__) == (
        registered.__module__,
        registered.__qualname__,
    )
