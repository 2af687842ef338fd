"""Puts the parts of one deployed service together: replicas, router and monitors, from start to stop."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_plugins.call.current import current_call
from sage_plugins.clock import checked_seconds
from sage_plugins.deployment.balancing import Balancing, create_balancer
from sage_plugins.deployment.changes import Changes
from sage_plugins.deployment.first_calls import FirstCalls
from sage_plugins.deployment.lifecycle import ServiceLifecycle
from sage_plugins.deployment.measuring import Measuring
from sage_plugins.deployment.monitors import MonitoredService, ServiceMonitors
from sage_plugins.deployment.reach import InProcessReach, Reachable
from sage_plugins.deployment.replicas.replica_set import ReplicaSet
from sage_plugins.deployment.replicas.starting import Launcher
from sage_plugins.deployment.replicas.stopper import ReplicaStopper
from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor
from sage_plugins.deployment.replicas.waiting import Readiness
from sage_plugins.deployment.status import Instances, Status
from sage_plugins.deployment.stopping import ServiceStopper
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
    One service, deployed or not yet. Thread-safe.

    Attributes:
        service_name: The service's name.
        clock: Clock of the service.
        reach: How other processes call the service.
        handle: Calls the service; the first call starts the task if necessary.
        measuring: Returns the metrics.
        status_view: Returns the status.
        instances: Sends questions to the instances.
        changes: Changes the running service.
        replicas: The replicas.
        launcher: Starts the replicas; holds the target.
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
            find_service: Returns handles to other services, for the instances.
            clock: For deadlines.
            on_event: Called with every event, from any thread; must not block.
            reach: `reach(get_target, service)` makes the `Reach`. None if other processes cannot call the service.
        """
        self.service_name = composition.name
        self.find_service = find_service
        self.clock = clock
        self._config = composition.config
        self._has_left = False  # whether an earlier process left replicas
        self._lifecycle = ServiceLifecycle(composition.name)
        self._monitors = ServiceMonitors(
            composition.name, composition.monitors, tuple(method.name for method in composition.methods), on_event
        )
        balancer, observe = create_balancer(composition.balancer, composition.where)
        self._router = router_class(composition.methods)(
            composition.name,
            clock,
            queue_size=self._config.queue_size,
            **when_full(self._config.overload),
            guards=guards_for(self._config, self._monitors.tell),
            count=self._monitors.count,
            refused=self._monitors.refused,
            given_up=self._monitors.given_up,
            balancer=balancer,
            key_of=composition.key_of,
            observe=observe,
            on_balancer_error=lambda error: self._balancing.failed(error),  # noqa: PLW0108 - _balancing is made later
            overloaded=lambda why: self._monitors.tell("overloaded", why),
        )
        replicas = self.replicas = ReplicaSet(composition, self._router, self._monitors, clock, self._lifecycle)
        self._balancing = Balancing(replicas)
        self._readiness = Readiness(replicas)
        stopper = ReplicaStopper(replicas)
        launcher = self.launcher = Launcher(replicas, stopper, self._readiness, find_service)
        self.reach: Reach = (
            InProcessReach() if reach is None else reach(launcher.target, Reachable(replicas, self._balancing))
        )
        replicas.reach = self.reach
        self._router.on_change = self.reach.changed
        supervisor = self._supervisor = ReplicaSupervisor(
            replicas, launcher, stopper, self._readiness, self._lifecycle.in_background
        )
        self.changes = Changes(replicas, launcher, stopper, supervisor, self._balancing, self._readiness)
        self._service_stopper = ServiceStopper(replicas, launcher, stopper, supervisor)
        undo = lambda: self._service_stopper.end(0, background=True, detaches=self._has_left)  # noqa: E731 - no method for one line
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
            timeout: Seconds; None: the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica did not become ready, and all started ones were stopped. Raised from the
                constructor's error.
            TypeError: *timeout* is no number.
        """
        if timeout is not None:
            timeout = checked_seconds(timeout, "timeout")
        self.begin()
        try:
            self.wait_ready(timeout)
        except DeployError:
            self.undo_start()
            raise

    def begin(self) -> None:
        """
        Start every replica and return at once; does nothing if the service was started before.

        Takes over all replicas that an earlier process has left.

        Raises:
            DeployError: The target has no place for a replica; nothing was started. Or another process has the service,
                or it runs with other settings.
            ClusterUnavailableError: It is unknown whether the service runs.
        """
        with self.replicas.starting:  # stopping takes this lock too, so that it misses no replica
            if not self._lifecycle.begin():
                return
            cls = self.composition.factory.service_class
            hooks = frozenset(hook for hook in LIFECYCLE_HOOKS if callable(getattr(cls, hook, None)))
            self._monitors.attach(
                partial(
                    MonitoredService,
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
        """Stop what this task started, after a failure. Replicas of an earlier process go on."""
        self._service_stopper.end(0, background=False, detaches=self._has_left)

    def wait_ready(self, timeout: float | None = None) -> None:
        """
        Wait until every replica is ready; return at once if all have been before.

        Args:
            timeout: Seconds; None: the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica failed, or was not ready in time.
        """
        with self._lifecycle.condition:
            if self._lifecycle.state is not ReplicaState.READY:
                self._readiness.wait(
                    self.replicas.members,
                    self.composition.config.startup_timeout if timeout is None else timeout,
                    over=lambda: self._lifecycle.state is ReplicaState.READY,
                )
        self.reach.wait_found()  # the caller may now tell another process to call the service

    def wait_healthy(self, timeout: float | None = None) -> None:
        """
        Wait until every replica has started and passes `check_health()` and `check_ready()`, if the class has them.

        Replacements of dead replicas count too. Repeats each check until it passes, even if a monitor runs it too.

        Args:
            timeout: Seconds; None: the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica did not pass in time, or left; raised from the error of its last check.
        """
        self.instances.wait_healthy(self.composition.config.startup_timeout if timeout is None else timeout)

    def bind(self, failed: Callable[[], None] = lambda: None) -> Binding:
        """
        Start the service for a handle's first call, and return the binding once the replicas are ready.

        For a call from a start hook, returns at once; calls *failed* if the service then does not become ready.
        """
        self._first_calls.prepare(self.start_running, failed)
        return self._binding

    # -- stopping ----------------------------------------------------------------------------------------------------

    def stop(self, drain_timeout: float | None = None) -> None:
        """
        Accept no more calls, let accepted calls finish, run the stop hooks and end the workers.

        Idempotent; does nothing before `start_running`. Inside a call of any service it returns at once, because it
        might wait for that very call; the service then stops when its calls have ended.

        Args:
            drain_timeout: Seconds for accepted calls; None: the configuration's. After that, waiting and running calls
                end with ServiceStoppedError; running methods go on.
        """
        limit = self.drain_timeout if drain_timeout is None else drain_timeout
        self._service_stopper.end(limit, background=current_call() is not None)

    def close(self, drain_timeout: float | None = None) -> None:
        """
        As `stop`. A task that was never started can no longer start.

        A service whose replicas outlive this process is not stopped: calls accepted here finish, then this process
        detaches.
        """
        limit = self.drain_timeout if drain_timeout is None else drain_timeout
        self._service_stopper.close(limit, background=current_call() is not None)

    def close_to_outsiders(self, watch: Callable[[], None]) -> None:
        """Accept only calls from inside other services' calls. Calls *watch* when `idle` may have changed."""
        self._service_stopper.close_to_outsiders(watch)

    @property
    def idle(self) -> bool:
        """Whether no call waits or runs, apart from abandoned ones."""
        return self._router.idle

    @property
    def drain_timeout(self) -> float:
        """Seconds that accepted calls get when the service stops."""
        return self.composition.config.drain_timeout

    def owns(self, call: Call | None) -> bool:
        """Whether *call* is a call of this service."""
        return call is not None and call.owner is self._router

    def cleanup(self) -> None:
        """Stop the service if it runs, including the instances' cleanup hooks. Idempotent."""
        self.stop()
        rest()

    def terminate(self) -> None:
        """
        Call `terminate()` of every instance that has it, then stop the service; logs what `terminate()` raises.

        It runs while calls run, in this thread or one of the replica's process, so it can tell a hanging method to end.
        """
        self.instances.terminate()
        self.stop()

    def __enter__(self) -> Self:
        """Return the task; its first call starts it, or `start_running` does."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `cleanup`."""
        self.cleanup()

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: refuse every call. Touch nothing else."""
        self._router.after_fork(error)
        self.changes.after_fork()
        self._lifecycle.after_fork()

    def drain(self, timeout: float | None = None) -> None:
        """As `stop`, under the name that operators know."""
        self.stop(timeout)

    # -- changing what runs ------------------------------------------------------------------------------------------

    def scale(self, replicas: int) -> None:
        """
        Change the number of replicas. No call is refused or lost.

        More: new replicas get calls once all are ready. A service without a load balancer gets the default one. Fewer:
        the last replicas get no new calls, finish theirs within `drain_timeout`, and stop. A replica that has ended and
        will be replaced counts too, and goes first. The configuration does not change, so the next deployment uses its
        number again. An autoscaler continues from the new number.

        Waits for a change by another thread, and until its own is complete. Inside a service's call, it does not wait
        for replicas that leave, because one may be running that call.

        Args:
            replicas: 1 or more.

        Raises:
            ConfigError: *replicas* is below 1, or outside the bounds of `autoscale`.
            DeployError: A new replica did not become ready (raised from its constructor's error); none is added, and
                the service goes on. Or the service does not run. Or another thread is changing it, and this is called
                inside a service's call.
        """
        self.changes.scale(replicas)

    def restart(self, replica: str | None = None) -> None:
        """
        Replace one replica, or all in turn. No call is refused or lost.

        The new replica starts first and gets calls once it is ready. Then the old one gets no new calls, finishes its
        own within `drain_timeout`, and stops. A replica that has ended is replaced now, even after a crash loop.

        Waits for a change by another thread, and until its own is complete. Inside a service's call, it returns at once
        and continues in the background; the event `restart_failed` and the log then report a failure.

        Args:
            replica: The replica's ID; None for all.

        Raises:
            DeployError: A new replica did not become ready (raised from its constructor's error). Its old replica goes
                on; replacements before it stay. Or no replica has that ID, or the service does not run. Or another
                thread is changing it, and this is called inside a service's call.
        """
        self.changes.restart(replica)

    def set_load_balancer(self, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Use another load balancer from now on. Waiting calls stay in the queue.

        Args:
            id: The balancer's ID.
            options: Its options; None: those in the configuration.

        Raises:
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError: The options are wrong; the message says which.
            PluginError: The balancer cannot be made.
            DeployError: The service does not run. Or another thread is changing it, and this is called inside a
                service's call.
        """
        self.changes.set_load_balancer(id, options)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service_name

    @property
    def service_factory(self) -> Any:
        """The factory that builds its instances."""
        return self.composition.factory

    @property
    def logger(self) -> logging.Logger:
        """The service's logger, the same as its instances use."""
        return logging.getLogger(f"sage.service.{self.service_name}")

    @property
    def composition(self) -> Composition:
        """The service's composition."""
        return self.replicas.composition

    @property
    def is_running(self) -> bool:
        """Whether the service has become ready and is not stopping; `state` is more exact."""
        return self.state in {ReplicaState.READY, ReplicaState.CRASH_LOOP}

    @property
    def state(self) -> str:
        """
        `pending`, `starting`, `ready`, `crash_loop`, `draining` or `stopped`.

        `crash_loop`: at least one replica is in a crash loop; the others may serve.
        """
        return self.replicas.state

    @property
    def drift(self) -> dict[str, Any]:
        """Settings changed since the deployment: the number of replicas, the load balancer."""
        return self.status_view.drift()

    def status(self) -> dict[str, Any]:
        """Return the service's status; see `Environment.get_service_status`."""
        return self.status_view.as_dict()

    def get_statistics(self) -> dict[str, Any]:
        """As `status`, with the keys of SAGE's tasks, see `Status.statistics`."""
        return self.status_view.statistics(type(self).__name__)

    # -- calling -----------------------------------------------------------------------------------------------------

    def call_method(self, method_name: str, /, *args: Any, **kwargs: Any) -> Any:
        """As `handle.call`, under SAGE's name. MethodNotFoundError is an AttributeError."""
        return self.handle.call(method_name, *args, **kwargs)

    def get_attribute(self, attr_name: str) -> Any:
        """
        Return an attribute of the (first) instance.

        It is read while calls run. A value from another process is a copy.

        Raises:
            AttributeError: It does not exist, or its name starts with an underscore.
            DeployError: The service does not run.
            Exception: The replica did not answer, or the value cannot be sent to this process.
        """
        return self.instances.get(attr_name)

    def set_attribute(self, attr_name: str, value: Any) -> None:
        """
        Set an attribute of every instance. Replicas that start later do not have it.

        It is written while calls run. Raises as `get_attribute`.
        """
        self.instances.set(attr_name, value)

    def get_object(self) -> Self:
        """Return the task itself, as SAGE's tasks and their wrappers do."""
        return self

    def handle_request(self, request: Mapping[str, Any]) -> None:
        """
        Start the call that *request* describes and return at once; the response goes into its `response_queue`.

        Args:
            request: A dictionary with `method_name`, `response_queue` (anything with `put`) and, optionally,
                `request_id`, `args`, `kwargs` and `timeout` (seconds).

        The response is a dictionary with `request_id` (or None), `result`, `error` (text or None), `success`,
        `execution_time` (seconds) and `timestamp` (seconds, wall clock). All other errors of the request are in its
        response.

        Raises:
            ConfigError: *request* has no `response_queue` with `put`.
        """
        from sage_plugins.deployment.requests import start_request

        start_request(request, self.handle, self.clock, self.service_name)

    def __repr__(self) -> str:
        return f"<ServiceTask {self.service_name!r} {self.state}>"
