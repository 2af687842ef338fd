"""One deployed service: its replicas, its router, its monitors, from start to stop."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_plugins.call.current import current_call
from sage_plugins.deployment.balancing import Balancing, create_balancer
from sage_plugins.deployment.changes import Changes
from sage_plugins.deployment.first_calls import FirstCalls
from sage_plugins.deployment.life import ServiceLife
from sage_plugins.deployment.measuring import Measuring
from sage_plugins.deployment.monitors import Watched, Watchers
from sage_plugins.deployment.reach import InProcessReach, Reachable
from sage_plugins.deployment.replicas.departure import Departure
from sage_plugins.deployment.replicas.replica_set import ReplicaSet
from sage_plugins.deployment.replicas.starting import Launcher
from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor
from sage_plugins.deployment.replicas.waiting import Readiness
from sage_plugins.deployment.status import Instances, Status
from sage_plugins.deployment.stopping import Stopping
from sage_plugins.errors import DeployError
from sage_plugins.process_end import rest
from sage_plugins.routing.guarding.choice import guards_for
from sage_plugins.routing.handles.binding import Binding
from sage_plugins.routing.handles.handle import ServiceHandle
from sage_plugins.routing.router_choice import router_class, when_full
from sage_plugins.service.methods import LIFECYCLE_HOOKS
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Reach, ReachableService
    from sage_plugins.planning.composition import Composition
    from sage_plugins.values import Event

__all__ = ["ServiceTask"]


class ServiceTask:
    """
    One service, deployed or about to be.

    All methods are safe from any thread.

    Attributes:
        service_name: Name of the service.
        clock: Its time.
        reach: How other processes call it.
        handle: Calls it; the first call starts the task if need be.
        measuring: Measures it when asked.
        status_view: Shows how it is.
        instances: Asks its instances.
        changes: Changes it while it runs.
        replicas: Its replicas.
        launcher: Starts them; has the target.
    """

    def __init__(
        self,
        composition: Composition,
        find_service: Callable[[str], Any],
        clock: Clock,
        on_event: Callable[[Event], None] | None = None,
        *,
        reach: Callable[[Callable[[], Any], ReachableService], Reach] | None = None,
    ) -> None:
        """
        Prepare the task; builds and starts nothing.

        Args:
            composition: What to run.
            find_service: Gives the instances handles to other services.
            clock: For deadlines.
            on_event: Told of every event, from any thread; must not wait.
            reach: Given what makes the target, and the service, makes what other processes call the service by; None if
                they cannot.
        """
        self.service_name = composition.name
        self.find_service = find_service
        self.clock = clock
        self._config = composition.config
        self._has_left = False  # whether replicas were there before
        self._life = ServiceLife(composition.name)
        self._watchers = Watchers(
            composition.name, composition.monitors, tuple(method.name for method in composition.methods), on_event
        )
        balancer, observe = create_balancer(composition.balancer, composition.where)
        self._router = router_class(composition.methods)(
            composition.name,
            clock,
            queue_size=self._config.queue_size,
            **when_full(self._config.overload),
            guards=guards_for(self._config, self._watchers.tell),
            count=self._watchers.count,
            refused=self._watchers.refused,
            given_up=self._watchers.given_up,
            balancer=balancer,
            key_of=composition.key_of,
            observe=observe,
            on_balancer_error=lambda error: self._balancing.failed(error),  # noqa: PLW0108 - that is made later
            overloaded=lambda why: self._watchers.tell("overloaded", why),
        )
        replicas = self.replicas = ReplicaSet(composition, self._router, self._watchers, clock, self._life)
        self._balancing = Balancing(replicas)
        self._readiness = Readiness(replicas)
        departure = Departure(replicas)
        launcher = self.launcher = Launcher(replicas, departure, self._readiness, find_service)
        self.reach: Reach = (
            InProcessReach() if reach is None else reach(launcher.target, Reachable(replicas, self._balancing))
        )
        replicas.reach = self.reach
        self._router.on_change = self.reach.changed
        supervisor = self._supervisor = ReplicaSupervisor(
            replicas, launcher, departure, self._readiness, self._life.in_background
        )
        self.changes = Changes(replicas, launcher, departure, supervisor, self._balancing, self._readiness)
        self._stopping = Stopping(replicas, launcher, departure, supervisor)
        undo = lambda: self._stopping.end(0, background=True, leaves=self._has_left)  # noqa: E731 - no method for one line
        self._first_calls = FirstCalls(replicas, self.begin, self.wait_ready, undo)
        self.status_view = Status(replicas, self._balancing)
        self.measuring = Measuring(replicas)
        self.instances = Instances(replicas)
        self._binding = Binding(
            self._router,
            composition.methods,
            queue_timeout=self._config.queue_timeout,
            runs_here="in_callers_thread" in composition.strategy.registration.capabilities,
            caller_reads="in_process" not in composition.target.registration.capabilities,
            seconds_to_start=self._first_calls.seconds_to_start,
        )
        self.handle = ServiceHandle(
            composition.name,
            self.bind,
            service_class=lambda: self.composition.factory.service_class,
            waits_to_bind=lambda: self.state in {"pending", "starting"},
        )

    def start_running(self, timeout: float | None = None) -> None:
        """
        Start the service and wait until every replica is ready; does nothing if it runs.

        Args:
            timeout: Seconds to wait; None for the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica did not become ready; what had started was stopped. Raised from the constructor's
                error.
        """
        self.begin()
        try:
            self.wait_ready(timeout)
        except DeployError:
            self.undo_start()
            raise

    def begin(self) -> None:
        """
        Have every replica start; returns at once. Does nothing if that has happened.

        Replicas that an earlier process has left are taken over, as many as there are.

        Raises:
            DeployError: The target can place a replica nowhere; nothing was started. Or another process has the
                service, or it runs otherwise.
            ClusterUnavailableError: It is not known whether the service runs.
        """
        with self.replicas.starting:  # whoever stops the task waits until all is started that must be stopped
            if not self._life.begin():
                return
            cls = self.composition.factory.service_class
            hooks = frozenset(hook for hook in LIFECYCLE_HOOKS if callable(getattr(cls, hook, None)))
            self._watchers.attach(
                partial(
                    Watched,
                    self.service_name,
                    self._config,
                    self.clock,
                    hooks,
                    lambda: self.replicas.members,
                    self.composition.environment,
                    lambda: self._router.waiting,
                ),
                self.status_view.counts,
            )
            try:
                earlier = self.reach.take_over()
                if earlier is None:
                    self.launcher.start(range(self._config.first_replicas))
                else:
                    self._has_left = bool(earlier.replicas)
                    if earlier.balancer is not None:
                        self._balancing.continue_with(earlier.balancer, earlier.key_of)
                    self.launcher.take_over(earlier)
            except BaseException:
                self.undo_start()
                raise

    def undo_start(self) -> None:
        """Stop what was started, because of a failure; what was there before goes on."""
        self._stopping.end(0, background=False, leaves=self._has_left)

    def wait_ready(self, timeout: float | None = None) -> None:
        """
        Wait until every replica is ready; returns at once if that has been so.

        Args:
            timeout: Seconds; None for the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica failed, or was not ready in time.
        """
        with self._life.condition:
            if self._life.state is not ReplicaState.READY:
                self._readiness.wait(
                    self.replicas.members,
                    self.composition.config.startup_timeout if timeout is None else timeout,
                    over=lambda: self._life.state is ReplicaState.READY,
                )
        self.reach.wait_found()  # else another process that is told of it now might not find it

    def wait_healthy(self, timeout: float | None = None) -> None:
        """
        Wait until every replica says that it is well: passes `check_health()` and `check_ready()`, if it has them.

        Each is asked again and again, whether or not a monitor asks it as well.

        Args:
            timeout: Seconds; None for the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica was not well in time, or left; raised from what it said last.
        """
        self.instances.wait_healthy(self.composition.config.startup_timeout if timeout is None else timeout)

    def bind(self, failed: Callable[[], None] = lambda: None) -> Binding:
        """
        For the first call of a handle: the way to the replicas, once they are there; for a start hook at once.

        *failed* is told if a hook was not kept waiting and the service does not become ready.
        """
        self._first_calls.prepare(self.start_running, failed)
        return self._binding

    # -- stopping ----------------------------------------------------------------------------------------------------

    def stop(self, drain_timeout: float | None = None) -> None:
        """
        Accept no more calls, let those accepted finish, run the stop hooks, end the workers.

        Idempotent; does nothing before `start_running`. Called from within a call of any service it returns at once,
        for that call may be one of those it would have to wait for; the service stops when its calls have ended.

        Args:
            drain_timeout: Seconds for the accepted calls; None for the configuration's. Calls that still wait then end
                with ServiceStoppedError, and so do those that still run: their methods go on.
        """
        limit = self.drain_timeout if drain_timeout is None else drain_timeout
        self._stopping.end(limit, background=current_call() is not None)

    def close(self, drain_timeout: float | None = None) -> None:
        """
        `stop`, also for a task that was never started: it will not start any more.

        A service whose replicas outlive this process is not stopped: calls that were accepted here finish, and then
        this process lets go of it.
        """
        limit = self.drain_timeout if drain_timeout is None else drain_timeout
        self._stopping.close(limit, background=current_call() is not None)

    def close_to_outsiders(self, watch: Callable[[], None]) -> None:
        """
        Accept only calls that come from within other services' calls; *watch* is told when `idle` may have changed.
        """
        self._stopping.close_to_outsiders(watch)

    @property
    def idle(self) -> bool:
        """Whether no call waits or runs, abandoned ones aside."""
        return self._router.idle

    @property
    def drain_timeout(self) -> float:
        """Seconds that accepted calls get when the service stops."""
        return self.composition.config.drain_timeout

    def owns(self, call: Call | None) -> bool:
        """Whether *call* is one of this service's."""
        return call is not None and call.owner is self._router

    def cleanup(self) -> None:
        """Stop if need be; the instances' own cleanup hooks run as part of that. Idempotent."""
        self.stop()
        rest()

    def terminate(self) -> None:
        """
        Have every instance do its own `terminate()`, if it has one, then stop; what it raises is logged.

        It runs beside the calls, in this thread or in one of the replica's process, so that a method which hangs can be
        told to end.
        """
        self.instances.terminate()
        self.stop()

    def __enter__(self) -> Self:
        """The task itself; its first call starts it, as does `start_running`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clean up."""
        self.cleanup()

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: refuse every call, and touch nothing else."""
        self._router.after_fork(error)
        self.changes.after_fork()
        self._life.after_fork()

    def drain(self, timeout: float | None = None) -> None:
        """As `stop`, by the name that operators know."""
        self.stop(timeout)

    # -- changing what runs ------------------------------------------------------------------------------------------

    def scale(self, replicas: int) -> None:
        """
        Run so many replicas from now on.

        More: new ones start, and get calls once all of them are ready. Without a load balancer the service gets the
        default one. Fewer: the last ones get no new calls, finish those that they have and stop; after the
        configuration's `drain_timeout` they stop anyway. A replica that has ended and is about to be replaced counts as
        one, and is the first to go. No call is refused or lost either way. The configuration stays as it is: deployed
        anew, the service has as many replicas as that says. An autoscaler goes on from the new number.

        Waits for a change that another thread is making, and until everything is done. From within a service's call
        it does not wait for replicas that leave, for they may be running that very call.

        Args:
            replicas: How many, 1 or more.

        Raises:
            ConfigError: *replicas* is not 1 or more, or not within the bounds of `autoscale`.
            DeployError: A new replica did not become ready (raised from its constructor's error): none is added, and
                the service goes on as before. Or the service does not run; or it is being changed and this comes from
                within a service's call.
        """
        self.changes.scale(replicas)

    def restart(self, replica: str | None = None) -> None:
        """
        Replace one replica by a new one, or every one in turn.

        The new one starts first and gets calls once it is ready; then the old one gets no more, finishes those that it
        has, within the configuration's `drain_timeout`, and stops. No call is refused or lost. A replica that has ended
        gets its successor now, also if it was in a crash loop.

        Waits for a change that another thread is making, and until everything is done. From within a service's call it
        returns at once and goes on by itself; if it fails then, an event `restart_failed` and the log say so.

        Args:
            replica: ID of the one; None for all.

        Raises:
            DeployError: A new replica did not become ready (raised from its constructor's error): the old one goes on
                serving, as do those that were replaced before it. Or there is no such replica; or the service does not
                run; or it is being changed and this comes from within a service's call.
        """
        self.changes.restart(replica)

    def set_load_balancer(self, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Have another load balancer choose who gets the next call, from now on. Calls that wait are kept.

        Args:
            id: ID of the balancer.
            options: Its options; None for those that the configuration has for it.

        Raises:
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError: The options are wrong; the message says which.
            PluginError: The balancer cannot be made.
            DeployError: The service does not run; or it is being changed and this comes from within a service's call.
        """
        self.changes.set_load_balancer(id, options)

    # -- looking on --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.service_name

    @property
    def service_factory(self) -> Any:
        """What builds its instances."""
        return self.composition.factory

    @property
    def logger(self) -> logging.Logger:
        """The logger of the service, as its instances have it."""
        return logging.getLogger(f"sage.service.{self.service_name}")

    @property
    def composition(self) -> Composition:
        """What is decided for it."""
        return self.replicas.composition

    @property
    def is_running(self) -> bool:
        """Whether it has started and not stopped; what `state` says more exactly."""
        return self.state in {ReplicaState.READY, ReplicaState.CRASH_LOOP}

    @property
    def state(self) -> str:
        """
        `pending`, `starting`, `ready`, `crash_loop`, `draining` or `stopped`.

        In a crash loop is a service if one of its replicas is; the others may serve.
        """
        return self.replicas.state

    @property
    def drift(self) -> dict[str, Any]:
        """The settings that were changed while it runs: its number of replicas, its load balancer."""
        return self.status_view.drift()

    def status(self) -> dict[str, Any]:
        """The service at a glance; see `Environment.get_service_status`."""
        return self.status_view.as_dict()

    def get_statistics(self) -> dict[str, Any]:
        """The service by the keys that SAGE's tasks have, see `Status.statistics`; it asks as `status` does."""
        return self.status_view.statistics(type(self).__name__)

    # -- calling -----------------------------------------------------------------------------------------------------

    def call_method(self, method_name: str, /, *args: Any, **kwargs: Any) -> Any:
        """`handle.call`, by the name that SAGE has for it; a MethodNotFoundError is an AttributeError."""
        return self.handle.call(method_name, *args, **kwargs)

    def get_attribute(self, attr_name: str) -> Any:
        """
        An attribute of the instance; of the first replica, if there are several.

        It is read beside the calls that run. One from another process is a copy.

        Raises:
            AttributeError: There is none, or its name has an underscore in front.
            DeployError: The service does not run.
            Exception: The replica did not answer, or the value cannot travel.
        """
        return self.instances.get(attr_name)

    def set_attribute(self, attr_name: str, value: Any) -> None:
        """
        Set an attribute of the instance, of every replica; those that start later do not have it.

        It is written beside the calls that run. Raises what `get_attribute` raises.
        """
        self.instances.set(attr_name, value)

    def get_object(self) -> Self:
        """The task itself, as from SAGE's tasks and their wrappers."""
        return self

    def handle_request(self, request: Mapping[str, Any]) -> None:
        """
        Start the call that *request* describes and return at once; the response goes into its `response_queue`.

        Args:
            request: A dictionary with `method_name`, `response_queue` (anything with `put`) and, optionally,
                `request_id`, `args`, `kwargs` and `timeout`.

        The response is a dictionary with `request_id`, `result`, `error` (text or None), `success`, `execution_time`
        and `timestamp` (seconds, wall clock).

        A request without `request_id` is answered too, with None for it. Whatever is wrong with a request is in its
        response.

        Raises:
            ConfigError: *request* has no `response_queue` with `put`.
        """
        from sage_plugins.deployment.requests import start

        start(request, self.handle, self.clock, self.service_name)

    def __repr__(self) -> str:
        """Name and state."""
        return f"<ServiceTask {self.service_name!r} {self.state}>"
