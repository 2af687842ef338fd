"""Where services are registered, deployed, called and stopped."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sage_plugins.call.current import current_call
from sage_plugins.clock import SYSTEM
from sage_plugins.config.service_config import ServiceDeploymentConfig, field_problems, plain
from sage_plugins.deployment.task import ServiceTask
from sage_plugins.errors import (
    CallError,
    ConfigError,
    DeployError,
    ServiceNotFoundError,
    ServiceStoppedError,
    UnknownPluginError,
)
from sage_plugins.planning.catalogue import Catalogue
from sage_plugins.plugins.registry import Registry
from sage_plugins.process_end import forget, forked_error, watch_over
from sage_plugins.service.factory import ServiceFactory
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike
    from types import TracebackType
    from typing import Self

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ConfigReader, Keeper, Target
    from sage_plugins.planning.composition import Composition
    from sage_plugins.planning.plan import DeploymentPlan
    from sage_plugins.reach.listing import Neighbour
    from sage_plugins.routing.binding import Binding
    from sage_plugins.routing.handle import ServiceHandle
    from sage_plugins.service.callers import AsyncServiceCaller, ServiceCaller
    from sage_plugins.values import Event, Problem, ReplicaSpec

__all__ = ["Environment"]

_Service = TypeVar("_Service")

#: States in which a service may be registered again.
_AT_REST = ("pending", "stopped")


class Environment:
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
        self._catalogue = Catalogue(_checked(options), name)
        self._registry = registry  # guarded by _lock, as the next three
        self._clock = clock
        self._on_event = on_event
        self._tasks: dict[str, ServiceTask] = {}
        self._closed = False
        self._forked = False
        self._lock = threading.RLock()
        self._applying = threading.Lock()  # held while `apply` runs, by one thread at a time

    # -- registering -------------------------------------------------------------------------------------------------

    def register_service(self, service_name: str, service_class: type, /, *args: Any, **kwargs: Any) -> ServiceFactory:
        """
        Register a class; every other argument goes to its constructor.

        It is deployed as a loaded file says, else as one replica in this process that runs one call at a time.

        Raises:
            ValueError: The name is empty or the class is no class.
            DeployError: A service of that name is deployed.
        """
        factory = ServiceFactory(service_name, service_class, args, kwargs)
        self._register(service_name, factory, None)
        return factory

    def register_service_with_config(
        self,
        service_name: str,
        service_class: type,
        /,
        *args: Any,
        deployment_config: ServiceDeploymentConfig,
        **kwargs: Any,
    ) -> ServiceFactory:
        """
        Register a class and how it is deployed; every other argument goes to its constructor.

        The configuration given here beats any file.

        Raises:
            ValueError: The name is empty or the class is no class.
            ConfigError: *deployment_config* is no `ServiceDeploymentConfig`.
            DeployError: A service of that name is deployed.
        """
        if not isinstance(deployment_config, ServiceDeploymentConfig):
            msg = f"deployment_config must be a ServiceDeploymentConfig, got {deployment_config!r}"
            raise ConfigError(msg)
        factory = ServiceFactory(service_name, service_class, args, kwargs)
        self._register(service_name, factory, deployment_config)
        return factory

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
        """
        Register a class with one replica on each of *nodes*, and balancing if there are several.

        Args:
            service_name: Name of the service.
            service_class: Its class.
            *args: For its constructor.
            nodes: Names, IDs or addresses of the nodes.
            threads: Threads of each replica; more than one is strategy `pool`.
            **rest: Names of configuration fields, such as `memory_mb`, set these; all others go to the constructor.

        Raises:
            ValueError: The name is empty or the class is no class.
            ConfigError: A setting is not valid, or *nodes* decides it already.
            DeployError: A service of that name is deployed.
        """
        from sage_plugins.config.shorthand import on_nodes, split

        settings, kwargs = split(rest)
        config = on_nodes(nodes, threads, settings)
        return self.register_service_with_config(service_name, service_class, *args, deployment_config=config, **kwargs)

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
        """
        Register a class with several replicas in this process, and balancing if there are several.

        Args:
            service_name: Name of the service.
            service_class: Its class.
            *args: For its constructor.
            pool_size: Number of replicas.
            max_threads: Threads of all replicas together: each gets an equal part, rounded down, but at least one.
                More than one is strategy `pool`. None for one each.
            **rest: Names of configuration fields, such as `gpu_count`, set these; all others go to the constructor.

        Raises:
            ValueError: The name is empty or the class is no class.
            ConfigError: A setting is not valid, or *pool_size* decides it already.
            DeployError: A service of that name is deployed.
        """
        from sage_plugins.config.shorthand import local_pool, split

        settings, kwargs = split(rest)
        config = local_pool(pool_size, max_threads, settings)
        return self.register_service_with_config(service_name, service_class, *args, deployment_config=config, **kwargs)

    def register_service_factory(self, service_name: str, service_factory: Any) -> Any:
        """
        Register a factory: anything with `create_service(ctx)`, `service_name` and `service_class`; returns it.

        Raises:
            TypeError: It lacks one of these.
            DeployError: A service of that name is deployed.
        """
        missing = [
            part for part in ("create_service", "service_name", "service_class") if not hasattr(service_factory, part)
        ]
        if missing:
            msg = f"the factory of service {service_name!r} lacks {', '.join(missing)}: {service_factory!r}"
            raise TypeError(msg)
        self._register(service_name, service_factory, None)
        return service_factory

    def _register(self, name: str, factory: Any, config: ServiceDeploymentConfig | None) -> None:
        with self._lock:
            self._check_open(name)
            task = self._tasks.get(name)
            if task is not None and task.state not in _AT_REST:
                msg = (
                    f"service {name!r} is deployed ({task.state}) and cannot be registered again: close "
                    "the environment first"
                )
                raise DeployError(msg, service=name)
            self._tasks.pop(name, None)
            self._catalogue.register(name, factory, config)

    def load_service_deployment_config(self, path: str | PathLike[str], *, profile: str | None = None) -> None:
        """
        Read a deployment file; its entries apply to services registered before or after.

        An entry with `class:` is a service of its own. A configuration given in code beats the file. Services that run
        go on as they are; `apply` has them run as the file says. Loading a file again replaces what it said before.

        Args:
            path: The YAML file.
            profile: Which of its `profiles` to apply.

        Raises:
            ConfigError: With every problem of the file, each as `file:line:column: error E101: what (fix)`.
        """
        reader: ConfigReader = self.registry.find("file reader", "yaml").registration.create(None)
        file = reader.read(path, profile=profile)
        with self._lock:
            for name in file.services:
                self._check_open(name)
            self._catalogue.load(file)
            for name in file.services:
                task = self._tasks.get(name)
                if task is not None and task.state in _AT_REST:
                    del self._tasks[name]

    # -- resolving ---------------------------------------------------------------------------------------------------

    @property
    def registry(self) -> Registry:
        """The plugins of this environment."""
        with self._lock:
            if self._registry is None:
                self._registry = Registry.discover()
            return self._registry

    @property
    def service_factories(self) -> dict[str, Any]:
        """The factories that were registered, by the service's name."""
        return self._catalogue.factories

    def _new_task(self, name: str, *, takes_over: bool = True) -> ServiceTask:
        composition, warnings = self._catalogue.compose(name, self.registry)
        if warnings:
            import logging

            log = logging.getLogger("sage_plugins")
            for warning in warnings:
                log.info("service '%s': %s", name, warning)
        return self._task_for(composition, takes_over=takes_over)

    def _task_for(self, composition: Composition, *, takes_over: bool = True) -> ServiceTask:
        watch_over(self)
        reach = None
        if "reachable" in composition.target.registration.capabilities:
            from sage_plugins.environment.adoption import refuse_another
            from sage_plugins.reach.publication import Home, Publication  # services of this process need nothing of it

            home = Home(self.id, self.name, self._known)
            reach = partial(Publication, home, accepts=partial(refuse_another, composition) if takes_over else None)
        return ServiceTask(composition, self.service, self._clock, self._on_event, reach=reach)

    def _known(self) -> dict[str, Neighbour]:
        """What replicas in other processes are told of the services that there are."""
        from sage_plugins.reach.listing import Neighbour

        with self._lock:
            configs = {name: task.composition.config for name, task in self._tasks.items()}
        for name in self._catalogue.names:
            if name not in configs:
                configs[name] = self._catalogue.config(name)
        targets = {config.target: self._is_reachable(config.target) for config in configs.values()}
        return {
            name: Neighbour(config.target, targets[config.target], config.startup_timeout)
            for name, config in configs.items()
        }

    def _is_reachable(self, target: str) -> bool:
        try:
            return "reachable" in self.registry.find("target", target).registration.capabilities
        except UnknownPluginError:  # whoever deploys a service there is told
            return False

    def _check_open(self, name: str) -> None:
        if self._forked:
            raise forked_error(name)
        if self._closed:
            msg = f"environment {self.name!r} is closed; service {name!r} cannot be used any more"
            raise ServiceStoppedError(msg, service=name)

    def _names(self) -> list[str]:
        with self._lock:  # what runs is known, also if no file names it any more
            return list(dict.fromkeys([*self._catalogue.names, *self._tasks]))

    def _check_known(self, name: str) -> None:
        names = self._names()
        if name not in names:
            from sage_plugins.texts import did_you_mean

            near = did_you_mean(name, names)
            hint = f"did you mean {near!r}?" if near else f"registered: {', '.join(names) or 'none'}"
            if self._keepers():
                hint += "; services that another process has left running are taken over with `adopt()`"
            msg = f"no service {name!r} in environment {self.name!r}: {hint}"
            raise ServiceNotFoundError(msg, service=name)

    # -- deploying ---------------------------------------------------------------------------------------------------

    def plan(self, running: Mapping[str, Mapping[str, Any]] | None = None) -> DeploymentPlan:
        """
        What `deploy` and `apply` would do, which plugin decides it, and what is different from what runs.

        Starts nothing.

        Args:
            running: What else is known to run, by service, as `running()` of that environment gave it; for those who
                plan for another process.

        Raises:
            PlanError, ConfigError, UnknownPluginError: As `deploy` would.
            PluginError: A plugin fails to explain itself, or to say where replicas go.
        """
        from sage_plugins.planning.plan import DeploymentPlan, ServicePlan, plan_service

        catalogue = self._catalogue.snapshot()
        names = catalogue.names
        known = {**(running or {}), **self.running()}
        services = [
            plan_service(composition, warnings, catalogue.origin(name), known.get(name))
            for name, (composition, warnings) in zip(names, catalogue.compose_all(names, self.registry), strict=True)
        ]
        gone = [ServicePlan(name, "remove", str(known[name].get("class", ""))) for name in known if name not in names]
        return DeploymentPlan((*services, *gone), tuple(catalogue.notes(self.registry)))

    def check(self, *, import_classes: bool = True) -> list[Problem]:
        """
        Everything that is wrong or doubtful with any service, errors and warnings; starts and places nothing.

        Args:
            import_classes: Whether to import the classes that files name, which runs their modules; if not, what can
                only be told from a class is left out.

        Raises:
            PluginError: A plugin breaks its contract.
        """
        return self._catalogue.snapshot().check(self.registry, import_classes=import_classes)

    def running(self) -> dict[str, dict[str, Any]]:
        """
        What runs, by service: plain values by the keys of its plan's settings, for `plan` to compare with.

        Secrets and constructor's arguments are in it by a digest only.
        """
        from sage_plugins.config.origins import ARGUMENT
        from sage_plugins.planning.plan import comparable, describe

        with self._lock:
            tasks = {name: task for name, task in self._tasks.items() if task.state not in _AT_REST}
        return {
            name: comparable(describe(task.composition, lambda _: ARGUMENT)) | task.drift
            for name, task in tasks.items()
        }

    def deploy(self, timeout: float | None = None) -> None:
        """
        Start every registered service that does not run yet, and wait until all are ready: all or nothing.

        Args:
            timeout: Seconds to wait for each service; None for each service's own `startup_timeout`.

        Raises:
            PlanError, ConfigError, UnknownPluginError: A service cannot be composed; nothing was started.
            DeployError: A service did not become ready; what this call had started was stopped.
        """
        names = self._catalogue.names
        with self._lock:
            for name in names:
                self._check_open(name)
                if name in self._tasks and self._tasks[name].state == "stopped":
                    del self._tasks[name]  # a stopped task does not start again
        self._catalogue.compose_all((name for name in names if name not in self._tasks), self.registry)
        tasks = [self.task(name) for name in names]
        self._start_all(tasks, timeout)

    def _start_all(self, tasks: Sequence[ServiceTask], timeout: float | None) -> None:
        # Taken now: a constructor that calls another of these services starts that one before its turn comes.
        started = [task for task in tasks if task.state == "pending"]
        try:
            for task in started:
                task.begin()
            for task in tasks:
                task.wait_ready(timeout)
        except BaseException:
            for task in reversed(started):
                task.undo_start()
            with self._lock:
                # A stopped task does not start again: the next deploy makes new ones.
                for task in started:
                    if self._tasks.get(task.service_name) is task:
                        del self._tasks[task.service_name]
            raise

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
        with ExitStack() as stack:
            found: dict[str, ReplicaSpec] = {}
            keepers = self._keepers()
            if not keepers:
                msg = (
                    f"the services of environment {self.name!r} end with the process that deploys them, so none can be "
                    "taken over: make it with options={'ray': {'lifetime': 'detached', 'address': ...}}, as the "
                    "process that deploys them does"
                )
                raise ConfigError(msg)
            for target, keeper in keepers:
                stack.callback(target.close)
                found |= keeper.deployed()
            tasks = []
            with self._lock:
                self._check_open(next(iter(found), self.name))
                for name, spec in found.items():
                    task = self._tasks.get(name)
                    if task is None or task.state in _AT_REST:
                        composition = self._catalogue.compose_as(name, spec.factory, spec.config, self.registry)
                        tasks.append(self._task_for(composition))
                self._tasks.update((task.service_name, task) for task in tasks)
            self._start_all(tasks, timeout)
        return list(found)

    def _keepers(self) -> list[tuple[Target, Keeper]]:
        """What is kept of services of this environment, with the targets that it must not outlive."""
        from sage_plugins.environment.adoption import keeping_targets

        found = []
        for target in keeping_targets(self.registry, self._catalogue.environment_options):
            keeper = target.keeper(self.id, self.name)  # type: ignore[attr-defined] # as declared
            if keeper is None:
                target.close()
            else:
                found.append((target, keeper))
        return found

    def apply(self, timeout: float | None = None) -> None:
        """
        Have run what is configured: start what does not run, replace what runs otherwise, stop what is not configured.

        A service that changed is started anew before the old one is stopped, so that there is always one to answer;
        the old one refuses new calls then, which go to the new one, and finishes those that it has accepted, within its
        `drain_timeout`. One change after the other, so a failure leaves what comes after it as it was.

        Args:
            timeout: Seconds to wait for each service to be ready; None for each service's own `startup_timeout`.

        Raises:
            PlanError, ConfigError, UnknownPluginError: Something cannot be composed; nothing was changed.
            PluginError: A plugin fails to explain itself, or to say where replicas go; nothing was changed.
            DeployError: A service did not become ready; the one that ran goes on. Or another thread applies and this
                comes from within a service's call, for which that thread may be waiting.
        """
        if not self._applying.acquire(blocking=current_call() is None):
            msg = (
                f"environment {self.name!r} is being changed by another thread; from within a service's call that "
                "cannot be waited for: apply again later"
            )
            raise DeployError(msg)
        try:
            plan = self.plan()
            for service in plan.services:
                if service.action == "change":
                    self._replace(service.name, timeout)
            self.deploy(timeout)
            for service in plan.services:
                if service.action == "remove":
                    with self._lock:
                        task = self._tasks.pop(service.name, None)
                    if task is not None:
                        task.stop()
        finally:
            self._applying.release()

    def _replace(self, name: str, timeout: float | None) -> None:
        new = self._new_task(name, takes_over=False)  # what the old one has goes with it
        try:
            new.start_running(timeout)
        except BaseException:  # KeyboardInterrupt too: nobody else knows of it
            new.stop(drain_timeout=0)
            raise
        with self._lock:
            closed = self._closed
            old = self._tasks.get(name)
            if not closed:
                self._tasks[name] = new
        if closed:
            new.stop(drain_timeout=0)
            self._check_open(name)
        if old is not None:
            old.stop()

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
        from sage_plugins.routing.handle import ServiceHandle

        with self._lock:
            task = self._tasks.get(name)
            if task is None or task.state == "stopped":  # those that run may be found: accepted calls need them
                self._check_open(name)
                if name not in self._names() and (keepers := self._keepers()):
                    return self._find_elsewhere(name, keepers)
                self._check_known(name)
        return ServiceHandle(
            name,
            lambda: self._bind(name),
            travels=lambda: self._travelling(name),
            service_class=lambda: self._class_of(name),
            waits_to_bind=lambda: self._waits_to_bind(name),
        )

    def _find_elsewhere(self, name: str, keepers: Sequence[tuple[Target, Keeper]]) -> ServiceHandle:
        """A handle to a service of an environment of this name that another process has deployed."""
        from sage_plugins.reach.guest import look_up

        handle = None
        for target, keeper in keepers:
            directory = target.directory(keeper.environment)  # type: ignore[attr-defined] # as declared
            target.close()
            handle = handle or look_up(directory, self.name, name)
        assert handle is not None  # noqa: S101 - for the type checker: it is asked with one or more
        return handle

    def _travelling(self, name: str) -> tuple[Callable[..., ServiceHandle], tuple[Any, ...]]:
        """What a pickled handle consists of; the service need not be deployed."""
        task = self.task(name)
        parts = task.reach.handle_parts()
        if parts is None:
            msg = (
                f"the handle to {name!r} cannot be pickled: target '{task.composition.target.id}' runs the service in "
                "this process, where no other can call it. Give it a target that other processes reach, such as "
                "'remote_any', or hand over what is needed of the service"
            )
            raise CallError(msg, service=name)
        watch_over(self)  # so that the handle finds the way home
        return parts

    def _class_of(self, name: str) -> type | None:
        """The class of a service; None for one that a file names and that was not imported yet."""
        task = self._tasks.get(name)
        factory = self._catalogue.factories.get(name) if task is None else task.composition.factory
        cls = getattr(factory, "service_class", None)
        return cls if isinstance(cls, type) else None

    def _waits_to_bind(self, name: str) -> bool:
        """Whether a call of a service has to wait until its replicas have started."""
        task = self._tasks.get(name)
        return task is None or task.state in (*_AT_REST, "starting")

    def _bind(self, name: str) -> Binding:
        """For the first call of a handle: deploys the service if that has not happened."""
        task = self.task(name)
        try:
            return task.bind()
        except DeployError:
            with self._lock:  # a stopped task does not start again: the next call makes a new one
                if self._tasks.get(name) is task:
                    del self._tasks[name]
            raise

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
            ConfigError: *replicas* is not 1 or more.
            DeployError: The service does not run, or a new replica did not become ready; the others go on as before.
        """
        self.task(name).scale(replicas)

    def restart(self, name: str) -> None:
        """
        Replace every replica of a service by a new one, in turn; no call is refused or lost. See `ServiceTask.restart`.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            DeployError: The service does not run, or a new replica did not become ready; the old one goes on serving.
        """
        self.task(name).restart()

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

    # -- looking on --------------------------------------------------------------------------------------------------

    def task(self, name: str) -> ServiceTask:
        """
        The task of a service, composed when first asked for; starts nothing.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            ServiceStoppedError: The environment was closed before the task was made.
            PlanError, ConfigError, UnknownPluginError, PluginError: The service cannot be composed.
        """
        with self._lock:
            task = self._tasks.get(name)
            if task is None:
                self._check_known(name)
                self._check_open(name)
                task = self._tasks[name] = self._new_task(name)
            return task

    def get_service_status(self, name: str) -> dict[str, Any]:
        """
        A service at a glance.

        Returns:
            `service_name`, `state`, `deployment_config` (the object), `metrics` (a `ServiceMetrics`), `health`
            (`healthy`, `ready` of `replicas`, and if any are, which are `missing` and why), `replicas` (a dictionary
            each: id, state, node, inflight, slots, threads, pid, stats_age, error) and `monitors` (what each other
            monitor reports, by its ID).

            Replicas in other processes are asked, for at most 1 s, all at once. What one that does not answer counted
            and ran is what it said last, `stats_age` seconds ago; None if it has never answered. What it says now has
            an age of 0.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
        """
        return self.task(name).status()

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self, drain_timeout: float | None = None) -> None:
        """
        Accept no more calls, let those accepted finish, then stop every service, the last deployed first.

        Idempotent, from any thread. Accepted calls may go on calling other services until all have finished. Called
        from within a service's own call it returns at once and the rest happens when that call has ended.

        Args:
            drain_timeout: Seconds for the accepted calls of all services; None for the longest of their own.
        """
        with self._lock:
            self._closed = True
            tasks = list(self._tasks.values())
        if any(task.owns(current_call()) for task in tasks):
            # A service's own call closes its environment: waiting for that call to end would never end.
            start_thread(lambda: self._close(tasks, drain_timeout), f"{self.name}-close")
        else:
            self._close(tasks, drain_timeout)

    def _close(self, tasks: list[ServiceTask], drain_timeout: float | None) -> None:
        # Accepted calls may need other services to finish, so every service stays open to those until all are idle.
        idle = threading.Event()

        def look() -> None:
            if all(task.idle for task in tasks):
                idle.set()

        for task in tasks:
            task.close_to_outsiders(look)
        look()
        limits = [task.drain_timeout if drain_timeout is None else drain_timeout for task in tasks]
        until = self._clock.monotonic() + max(limits, default=0.0)
        idle.wait(until - self._clock.monotonic())
        for task in reversed(tasks):
            task.close(max(0.0, until - self._clock.monotonic()))
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
        self._lock = threading.RLock()
        self._applying = threading.Lock()
        self._catalogue.after_fork()
        self._closed = self._forked = True
        tasks, self._tasks = self._tasks, {}
        for name, task in tasks.items():
            task.after_fork(partial(forked_error, name))

    def __repr__(self) -> str:
        """Name and number of services."""
        return f"<Environment {self.name!r} with {len(self._catalogue.names)} services>"


def _checked(options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """
    A copy of the environment's options.

    Raises:
        ConfigError: They are no mapping of IDs to mappings.
    """
    given = {} if options is None else options
    problems = field_problems("options", given)
    if problems:
        raise ConfigError("\n".join(map(str, problems)), problems=problems)
    copy: dict[str, dict[str, Any]] = plain(given)
    return copy
