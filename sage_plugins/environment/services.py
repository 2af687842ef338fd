"""The services of one environment: what is registered, the tasks of what was deployed, and handles to all of them."""

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
    from sage_plugins.deployment.updating.ways import Way
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

__all__ = ["AT_REST", "Services"]

#: Tasks of one name that are remembered although they have left, until what they counted is added up.
_RETIRED: Final = 4
#: States in which nothing of a service runs.
AT_REST = ("pending", "stopped")


class Services:
    """
    The table of an environment's services. All methods are safe from any thread.

    Attributes:
        name: Name of the environment.
        id: Its ID.
        catalogue: What is registered, in code and by files.
        profiles: Of the files that were loaded, the profile that was chosen, by path.
        tasks: Of services that were composed, by name; guarded by `lock`, as the next two.
        closed: Whether the environment was closed.
        forked: Whether this is a forked child of its process.
        lock: Re-entrant, because composing a service may need another one.
        clock: For deadlines.
        on_event: Told of every event.
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
        """Make an empty table; *environment* is closed at the interpreter's exit once it has services."""
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
        self._retired: dict[str, list[ServiceTask]] = {}  # that left the table, by name; guarded by lock, as the next
        # Of services whose replicas are in this process; and who has announced where others are found, by place.
        self._own: WeakSet[InProcessReach] = WeakSet()  # guarded by lock, as the next two
        self._places: dict[Hashable, Reach] = {}
        self._past: dict[str, Families] = {}  # what those counted that left and have stopped
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
        Have *factory* build a service, deployed as *config* says; None for a file or the default.

        One that runs goes on as it is, until `apply`.
        """
        with self.lock:
            self.check_open(name)
            task = self.tasks.get(name)
            if task is not None and task.state in AT_REST:
                self.retire(name)
            self.catalogue.register(name, factory, config)

    def task(self, name: str, composed: tuple[Composition, list[Problem]] | None = None) -> ServiceTask:
        """
        The task of a service, made when first asked for; starts nothing.

        Args:
            name: Name of the service.
            composed: What the catalogue has composed for it, with the warnings; None to have it composed now.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
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
        """A task for a service as *composed* says, or as it is configured now; nobody else has it yet."""
        composition, warnings = composed or self.catalogue.compose(name, self.registry)
        if warnings:
            import logging

            log = logging.getLogger("sage_plugins")
            for warning in warnings:
                log.info("service '%s': %s", name, warning)
        return self.task_for(composition, takes_over=takes_over)

    def task_for(self, composition: Composition, *, takes_over: bool = True) -> ServiceTask:
        """A task for a service that was composed; with *takes_over* it takes over what an earlier process left."""
        watch_over(self._environment)
        if "reachable" in composition.target.registration.capabilities:
            from sage_plugins.environment.detached import refuse_another  # services of this process need nothing of it
            from sage_plugins.interfaces import EnvironmentView

            view = EnvironmentView(self.id, self.name, self._known, self._announced)
            accepts = partial(refuse_another, composition) if takes_over else None

            def reach(target: Callable[[], ReachableTarget], service: ReachableService) -> Reach:
                return target().reach(service, view, accepts)

            return ServiceTask(composition, self.handle, self.clock, self.on_event, reach=reach)
        return ServiceTask(composition, self.handle, self.clock, self.on_event, reach=self._own_reach)

    def _own_reach(self, _: Callable[[], Any], service: ReachableService) -> Reach:
        """The reach of a service whose replicas are in this process."""
        own = InProcessReach(service)
        with self.lock:
            self._own.add(own)
            places = tuple(self._places.values())
        for other in places:
            own.join(other)
        return own

    def _announced(self, reach: Reach) -> None:
        """Other processes find services where *reach* has announced its own: those of this process are found there."""
        with self.lock:
            self._places[reach.place] = reach
            own = tuple(self._own)
        for each in own:
            each.join(reach)

    def way(self, name: str, new: Composition, keys: Collection[str]) -> Way:
        """How a service comes to be as *new* says, which is different from what runs in these settings."""
        from sage_plugins.deployment.updating.ways import way_of  # most environments are never changed

        with self.lock:
            task = self.tasks.get(name)
        if task is None or task.state in AT_REST:
            return way_of(keys, None, new)
        return way_of(keys, task.composition, new, outlives=task.reach.outlives)

    def _known(self) -> dict[str, KnownService]:
        """What replicas in other processes are told of the services that there are."""
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
        except UnknownPluginError:  # whoever deploys a service there is told
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
        """Every service that can be deployed, or runs."""
        with self.lock:  # what runs is known, also if no file names it any more
            return list(dict.fromkeys([*self.catalogue.names, *self.tasks]))

    def knows(self, name: str) -> bool:
        """Whether the service can be deployed, or runs."""
        with self.lock:
            return name in self.tasks or self.catalogue.knows(name)

    def check_known(self, name: str) -> None:
        """Raise ServiceNotFoundError, with a guess, if there is no such service."""
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
        """What is kept of services of this environment, with the targets that it must not outlive."""
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
        """A handle to a service of an environment of this name that another process has deployed."""
        finders = []
        for target, keeper in keepers:
            finders.append(target.finder(keeper.environment, self.name))
            target.close()
        handle: ServiceHandle = finders[0](name)
        return handle

    def _travelling(self, name: str) -> tuple[Callable[..., ServiceHandle], tuple[Any, ...]]:
        """What a pickled handle consists of; the service need not be deployed."""
        task = self.task(name)
        parts = task.reach.handle_parts()
        if parts is None:  # no service of another process has been deployed, but one may be about to
            for other, known in self._known().items():
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
        watch_over(self._environment)  # so that the handle finds the way home
        return parts

    def _class_of(self, name: str) -> type | None:
        """The class of a service; None for one that a file names and that was not imported yet."""
        task = self.tasks.get(name)
        factory = self.catalogue.factories.get(name) if task is None else task.composition.factory
        cls = getattr(factory, "service_class", None)
        return cls if isinstance(cls, type) else None

    def _waits_to_bind(self, name: str) -> bool:
        """Whether a call of a service has to wait until its replicas have started."""
        task = self.tasks.get(name)
        return task is None or task.state in (*AT_REST, "starting")

    def _bind(self, name: str) -> Binding:
        """For the first call of a handle: deploys the service if that has not happened."""
        task = self.task(name)
        try:
            return task.bind(lambda: self.forget(task))
        except DeployError:
            self.forget(task)
            raise

    def handle(self, name: str) -> ServiceHandle:
        """
        A handle to a service; starts nothing.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            ServiceStoppedError: The environment is closed.
        """
        from sage_plugins.routing.handles.handle import ServiceHandle

        with self.lock:
            task = self.tasks.get(name)
            if task is None or task.state == "stopped":  # those that run may be found: accepted calls need them
                self.check_open(name)
                if not self.knows(name) and (keepers := self.keepers()):
                    return self._find_elsewhere(name, keepers)
                self.check_known(name)
        return ServiceHandle(
            name,
            lambda: self._bind(name),
            travels=lambda: self._travelling(name),
            service_class=lambda: self._class_of(name),
            waits_to_bind=lambda: self._waits_to_bind(name),
        )

    def forget(self, task: ServiceTask) -> None:
        """Drop a task that has stopped: it does not start again, and the next use of the service makes a new one."""
        with self.lock:
            if self.tasks.get(task.service_name) is task:
                self.retire(task.service_name)

    def retire(self, name: str) -> ServiceTask | None:
        """Take a task from the table, if there is one; what it has counted is kept. Under `lock`."""
        task = self.tasks.pop(name, None)
        if task is not None and task.state != "pending":
            retired = self._retired.setdefault(name, [])
            retired.append(task)
            if len(retired) > _RETIRED:  # nobody asks for metrics
                for each in retired:
                    each.measuring.counted()
                self._fold(name)
        return task

    def _fold(self, name: str) -> None:
        """Forget tasks that have stopped, and keep what they counted; under `lock`."""
        for task in [each for each in self._retired.get(name, ()) if each.measuring.final is not None]:
            self._retired[name].remove(task)
            self._past[name] = add_up([self._past.get(name, {}), task.measuring.final or {}])

    def measured(self, name: str, measure: Callable[[Measuring], Families]) -> Families:
        """
        What *measure* gives of a service, and what was counted by those that it has replaced.

        Raises as `task`.
        """
        with self.lock:  # at one moment: who is gone from the one is in the other
            task = self.task(name)
            past, retired = self._past.get(name), tuple(self._retired.get(name, ()))
        if past is None and not retired:
            return measure(task.measuring)
        counts = [past or {}, *(each.measuring.counted() for each in retired)]
        with self.lock:
            self._fold(name)
        return add_up([*counts, measure(task.measuring)])

    def load(self, source: ConfigSource) -> None:
        """Take what a source says; services of it that do not run are composed anew."""
        with self.lock:
            for name in source.services:
                self.check_open(name)
            self.catalogue.load(source)
            for name in source.services:
                task = self.tasks.get(name)
                if task is not None and task.state in AT_REST:
                    self.retire(name)

    def close(self) -> list[ServiceTask]:
        """Have no more tasks made; gives those that there are."""
        with self.lock:
            self.closed = True
            return list(self.tasks.values())

    def after_fork(self) -> None:
        """In a forked child: the services are not here; refuse everything that needs them."""
        self.lock = threading.RLock()
        self.catalogue.after_fork()
        self.closed = self.forked = True
        tasks, self.tasks = self.tasks, {}
        for name, task in tasks.items():
            task.after_fork(partial(forked_error, name))
