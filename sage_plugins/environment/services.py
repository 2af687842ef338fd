"""Holds one environment's services: registrations, tasks of deployed services, and handles."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from sage_plugins.deployment.reach import InProcessReach
from sage_plugins.deployment.task import ServiceTask
from sage_plugins.errors import (
    CallError,
    DeployError,
    ServiceNotFoundError,
    ServiceStoppedError,
    UnknownPluginError,
)
from sage_plugins.interfaces.families import add_up
from sage_plugins.planning.catalogue import Catalogue
from sage_plugins.plugins.registry import Registry
from sage_plugins.process_end import forked_error, watch_over

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.deployment.measuring import Measuring
    from sage_plugins.deployment.updating.update_plan import UpdatePlan
    from sage_plugins.interfaces import (
        ConfigSource,
        DetachingTarget,
        Families,
        Keeper,
        KnownService,
        Reach,
        ReachableService,
        ReachableTarget,
    )
    from sage_plugins.planning.composition import Composition
    from sage_plugins.process_end import LiveEnvironment
    from sage_plugins.routing.handles.binding import Binding
    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.values import Event, Problem

__all__ = ["NOT_RUNNING", "Services"]

#: How many former tasks of one service are kept before their counts are added up.
_FORMER_TASKS: Final = 4
#: States in which nothing of a service runs.
NOT_RUNNING = ("pending", "stopped")


class Services:
    """
    The table of an environment's services. Thread-safe.

    Attributes:
        name: The environment's name.
        id: The environment's ID.
        catalogue: All registrations, from code and files.
        profiles: The chosen profile of each loaded file, by path.
        tasks: The tasks of composed services, by name; guarded by `lock`, as the next two.
        closed: Whether the environment was closed.
        forked: Whether this process is a forked child.
        lock: Re-entrant, because composing a service may need another one.
        clock: For deadlines.
        on_event: Called with every event.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what an environment is made of
        self,
        environment: LiveEnvironment,
        name: str,
        registry: Registry | None,
        clock: Clock,
        on_event: Callable[[Event], None],
        options: Mapping[str, Mapping[str, Any]] | None,
    ) -> None:
        """Make an empty table. Once *environment* has services, the interpreter closes it at exit."""
        self.name = name
        self.id = environment.id
        self.catalogue = Catalogue(options, name)
        self.profiles: dict[str, str | None] = {}
        self.tasks: dict[str, ServiceTask] = {}
        self.closed = False
        self.forked = False
        self.lock = threading.RLock()
        self.clock = clock
        self.on_event = on_event
        # All are guarded by lock.
        self._former: dict[str, list[ServiceTask]] = {}  # former tasks, by name
        self._own_reaches: WeakSet[InProcessReach] = WeakSet()  # of services whose replicas are in this process
        self._announced: dict[Hashable, Reach] = {}  # where services are announced: one `Reach` for each place
        self._former_counts: dict[str, Families] = {}  # sums of the counts of former tasks that have stopped
        self._environment = environment
        self._registry = registry  # guarded by lock

    @property
    def registry(self) -> Registry:
        """The plugins of this environment."""
        with self.lock:
            if self._registry is None:
                self._registry = Registry.discover()
            return self._registry

    def register(self, name: str, factory: Any, config: ServiceDeploymentConfig | None) -> None:
        """
        Register a service that *factory* builds, with the configuration *config*; None for a file's or the default.

        A running service does not change until `apply`.
        """
        with self.lock:
            self.check_open(name)
            task = self.tasks.get(name)
            if task is not None and task.state in NOT_RUNNING:
                self.remove_task(name)
            self.catalogue.register(name, factory, config)

    def task(self, name: str, composed: tuple[Composition, list[Problem]] | None = None) -> ServiceTask:
        """
        Return the task of a service, and make it if there is none; starts nothing.

        Args:
            name: The service's name.
            composed: Its composition from the catalogue, with the warnings; None to compose it now.

        Raises:
            ServiceNotFoundError: No such service.
            ServiceStoppedError: The environment was closed before the task was made.
            PlanError, ConfigError, UnknownPluginError, PluginError: The service cannot be composed.
        """
        with self.lock:
            task = self.tasks.get(name)
            if task is None:
                self.check_known(name)
                self.check_open(name)
                task = self.tasks[name] = self.new_task(name, composed)
            return task

    def new_task(
        self, name: str, composed: tuple[Composition, list[Problem]] | None = None, *, takes_over: bool = True
    ) -> ServiceTask:
        """Make a task from *composed*, or from the present configuration. It is not in the table yet."""
        composition, warnings = composed or self.catalogue.compose(name, self.registry)
        if warnings:
            import logging

            log = logging.getLogger("sage_plugins")
            for warning in warnings:
                log.info("service '%s': %s", name, warning)
        return self.task_for(composition, takes_over=takes_over)

    def task_for(self, composition: Composition, *, takes_over: bool = True) -> ServiceTask:
        """Make a task from a composition. With *takes_over*, it takes over what an earlier process left."""
        watch_over(self._environment)
        if "reachable" in composition.target.registration.capabilities:
            from sage_plugins.environment.detached import check_same_settings  # not needed for services in this process
            from sage_plugins.interfaces import EnvironmentView

            view = EnvironmentView(self.id, self.name, self._known_services, self._on_announced)
            accepts = partial(check_same_settings, composition) if takes_over else None

            def reach(target: Callable[[], ReachableTarget], service: ReachableService) -> Reach:
                return target().reach(service, view, accepts)

            return ServiceTask(composition, self.handle, self.clock, self.on_event, reach=reach)
        return ServiceTask(composition, self.handle, self.clock, self.on_event, reach=self._own_reach)

    def _own_reach(self, _: Callable[[], Any], service: ReachableService) -> Reach:
        """Return the `Reach` of a service whose replicas are in this process."""
        own = InProcessReach(service)
        with self.lock:
            self._own_reaches.add(own)
            places = tuple(self._announced.values())
        for other in places:
            own.join(other)
        return own

    def _on_announced(self, reach: Reach) -> None:
        """Publish the services of this process where *reach* has announced its own, so that they are found there."""
        with self.lock:
            self._announced[reach.place] = reach
            own = tuple(self._own_reaches)
        for each in own:
            each.join(reach)

    def plan_update(self, name: str, new: Composition, keys: Collection[str]) -> UpdatePlan:
        """Return how a service is changed to *new*, which differs from the running one in the settings *keys*."""
        from sage_plugins.deployment.updating.update_plan import plan_update  # most environments are never changed

        with self.lock:
            task = self.tasks.get(name)
        if task is None or task.state in NOT_RUNNING:
            return plan_update(keys, None, new)
        return plan_update(keys, task.composition, new, outlives=task.reach.outlives)

    def _known_services(self) -> dict[str, KnownService]:
        """Return all services of the environment, for replicas in other processes."""
        from sage_plugins.interfaces import KnownService

        with self.lock:
            configs = {name: task.composition.config for name, task in self.tasks.items()}
        for name in self.catalogue.names:
            if name not in configs:
                configs[name] = self.catalogue.config(name)
        targets = {config.target: self._is_reachable(config.target) for config in configs.values()}
        return {
            name: KnownService(config.target, targets[config.target], config.startup_timeout)
            for name, config in configs.items()
        }

    def _is_reachable(self, target: str) -> bool:
        try:
            return "reachable" in self.registry.find("target", target).registration.capabilities
        except UnknownPluginError:  # deploying a service on it will report this
            return False

    def check_open(self, name: str) -> None:
        """Raise ServiceStoppedError, or ForkedRuntimeError in a forked child, if the environment is closed."""
        if self.forked:
            raise forked_error(name)
        if self.closed:
            msg = f"environment {self.name!r} is closed; service {name!r} cannot be used any more"
            raise ServiceStoppedError(msg, service=name)

    @property
    def names(self) -> list[str]:
        """All services that can be deployed, or run."""
        with self.lock:  # a service may still run after the file no longer names it
            return list(dict.fromkeys([*self.catalogue.names, *self.tasks]))

    def knows(self, name: str) -> bool:
        """Whether the service can be deployed, or runs."""
        with self.lock:
            return name in self.tasks or self.catalogue.knows(name)

    def check_known(self, name: str) -> None:
        """Raise ServiceNotFoundError, with a suggestion, if there is no such service."""
        if not self.knows(name):
            from sage_plugins.texts import did_you_mean

            names = self.names
            near = did_you_mean(name, names)
            hint = f"did you mean {near!r}?" if near else f"registered: {', '.join(names) or 'none'}"
            if self.keepers():
                hint += "; services that another process has left running are taken over with `adopt()`"
            msg = f"no service {name!r} in environment {self.name!r}: {hint}"
            raise ServiceNotFoundError(msg, service=name)

    def keepers(self) -> list[tuple[DetachingTarget, Keeper]]:
        """Return the keepers of this environment's services, each with its target. Closing a target ends its keeper."""
        from sage_plugins.environment.detached import keeping_targets

        found = []
        for target in keeping_targets(self.registry, self.catalogue.environment_options):
            keeper = target.keeper(self.id, self.name)
            if keeper is None:
                target.close()
            else:
                found.append((target, keeper))
        return found

    def _find_elsewhere(self, name: str, keepers: Sequence[tuple[DetachingTarget, Keeper]]) -> ServiceHandle:
        """Return a handle to a service that another process has deployed for an environment of this name."""
        finders = []
        for target, keeper in keepers:
            finders.append(target.finder(keeper.environment, self.name))
            target.close()
        handle: ServiceHandle = finders[0](name)
        return handle

    def _pickled_parts(self, name: str) -> tuple[Callable[..., ServiceHandle], tuple[Any, ...]]:
        """Return the parts of a pickled handle; the service need not be deployed."""
        task = self.task(name)
        parts = task.reach.handle_parts()
        if parts is None:  # no service in another process is deployed yet, but one may be soon
            for other, known in self._known_services().items():
                if known.reachable:
                    task.reach.join(self.task(other).reach)
            parts = task.reach.handle_parts()
        if parts is None:
            msg = (
                f"the handle to {name!r} cannot be pickled: target '{task.composition.target.id}' runs the service in "
                "this process, and no other process finds it. Give it, or another service of its environment that ends "
                "with this process, a target that other processes reach, such as 'process' or 'remote_any'"
            )
            raise CallError(msg, service=name)
        watch_over(self._environment)  # so that the unpickled handle finds this environment
        return parts

    def _class_of(self, name: str) -> type | None:
        """Return a service's class; None if a file names it and it was not imported yet."""
        task = self.tasks.get(name)
        factory = self.catalogue.factories.get(name) if task is None else task.composition.factory
        cls = getattr(factory, "service_class", None)
        return cls if isinstance(cls, type) else None

    def _waits_to_bind(self, name: str) -> bool:
        """Whether a call of a service has to wait until its replicas have started."""
        task = self.tasks.get(name)
        return task is None or task.state in (*NOT_RUNNING, "starting")

    def _bind(self, name: str) -> Binding:
        task = self.task(name)
        try:
            return task.bind(lambda: self.forget(task))
        except DeployError:
            self.forget(task)
            raise

    def handle(self, name: str) -> ServiceHandle:
        """
        Return a handle to a service; starts nothing.

        Raises:
            ServiceNotFoundError: No such service.
            ServiceStoppedError: The environment is closed.
        """
        from sage_plugins.routing.handles.handle import ServiceHandle

        with self.lock:
            task = self.tasks.get(name)
            if task is None or task.state == "stopped":  # accepted calls may need running services after the close
                self.check_open(name)
                if not self.knows(name) and (keepers := self.keepers()):
                    return self._find_elsewhere(name, keepers)
                self.check_known(name)
        return ServiceHandle(
            name,
            lambda: self._bind(name),
            travels=lambda: self._pickled_parts(name),
            service_class=lambda: self._class_of(name),
            waits_to_bind=lambda: self._waits_to_bind(name),
        )

    def forget(self, task: ServiceTask) -> None:
        """Drop a task that has stopped. It cannot start again; the next use of the service makes a new task."""
        with self.lock:
            if self.tasks.get(task.service_name) is task:
                self.remove_task(task.service_name)

    def remove_task(self, name: str) -> ServiceTask | None:
        """Remove the task of *name*, if any, and return it. Its counts are kept. Under `lock`."""
        task = self.tasks.pop(name, None)
        if task is not None and task.state != "pending":
            former = self._former.setdefault(name, [])
            former.append(task)
            if len(former) > _FORMER_TASKS:  # nothing reads the metrics, which would add them up
                for each in former:
                    each.measuring.counters()
                self._fold(name)
        return task

    def _fold(self, name: str) -> None:
        """Add up the counts of former tasks that have stopped, and forget these tasks; under `lock`."""
        for task in [each for each in self._former.get(name, ()) if each.measuring.final is not None]:
            self._former[name].remove(task)
            self._former_counts[name] = add_up([self._former_counts.get(name, {}), task.measuring.final or {}])

    def measured(self, name: str, measure: Callable[[Measuring], Families]) -> Families:
        """
        Return the result of *measure* for a service, plus the counts of its former tasks.

        Raises the same errors as `task`.
        """
        with self.lock:  # so that each task is in exactly one of the three
            task = self.task(name)
            former_counts, former = self._former_counts.get(name), tuple(self._former.get(name, ()))
        if former_counts is None and not former:
            return measure(task.measuring)
        counts = [former_counts or {}, *(each.measuring.counters() for each in former)]
        with self.lock:
            self._fold(name)
        return add_up([*counts, measure(task.measuring)])

    def load(self, source: ConfigSource) -> None:
        """Load *source* into the catalogue. Its services that do not run are composed again when needed."""
        with self.lock:
            for name in source.services:
                self.check_open(name)
            self.catalogue.load(source)
            for name in source.services:
                task = self.tasks.get(name)
                if task is not None and task.state in NOT_RUNNING:
                    self.remove_task(name)

    def close(self) -> list[ServiceTask]:
        """Refuse to make new tasks, and return the present ones."""
        with self.lock:
            self.closed = True
            return list(self.tasks.values())

    def after_fork(self) -> None:
        """In a forked child: refuse everything that needs services, because they run in the parent."""
        self.lock = threading.RLock()
        self.catalogue.after_fork()
        self.closed = self.forked = True
        tasks, self.tasks = self.tasks, {}
        for name, task in tasks.items():
            task.after_fork(partial(forked_error, name))
