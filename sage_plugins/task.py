"""One deployed service: its replicas, its router, its monitors, from start to stop."""

from __future__ import annotations

import logging
import threading
import traceback
from pathlib import Path
from time import time as wall_clock
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_plugins.call import current_call
from sage_plugins.errors import DeployError, NoReplicaError, SageDeployError, text_of
from sage_plugins.handle import Binding, ServiceHandle
from sage_plugins.interfaces import ControlOp
from sage_plugins.router import Router
from sage_plugins.values import (
    Choice,
    Event,
    Limits,
    MethodPlan,
    Refused,
    ReplicaInfo,
    ReplicaSpec,
    ReplicaState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.config import ServiceDeploymentConfig
    from sage_plugins.interfaces import Monitor, Replica, Target
    from sage_plugins.keys import KeyOf
    from sage_plugins.lane import Lane
    from sage_plugins.metrics import ServiceMetrics

__all__ = ["Composition", "ServiceTask"]

_HERE = str(Path(__file__).parent)

#: Seconds that stop hooks and workers get when draining used up its time.
_LAST_GRACE_S = 1.0


def _router_class(methods: Sequence[MethodPlan]) -> type[Router]:
    if any(method.max_concurrency is not None or method.batch is not None for method in methods):
        from sage_plugins.method_router import MethodRouter  # few services need it

        return MethodRouter
    return Router


class Composition(NamedTuple):
    """
    A service with every decision made: what `plan` shows and `ServiceTask` starts.

    Attributes:
        name: Name of the service.
        factory: Builds its instances.
        config: Its configuration.
        target: Where replicas run.
        strategy: How a replica runs calls.
        balancer: Who gets the next call, or None with one replica or without balancing.
        monitors: Who watches.
        methods: What is served.
        limits: What the strategy may use.
        key_of: The key of a call by its arguments, or None without a balancer that names an argument.
    """

    name: str
    factory: Any
    config: ServiceDeploymentConfig
    target: Choice
    strategy: Choice
    balancer: Choice | None
    monitors: tuple[Choice, ...]
    methods: tuple[MethodPlan, ...]
    limits: Limits
    key_of: KeyOf | None = None

    def spec(self, index: int) -> ReplicaSpec:
        """What replica *index* needs to run."""
        return ReplicaSpec(
            service=self.name,
            index=index,
            factory=self.factory,
            strategy=self.strategy,
            limits=self.limits,
            methods=self.methods,
            monitors=self.monitors,
            config=self.config,
        )


class _Member:
    """One replica of a task, and what the target reports of it: `interfaces.ReplicaEvents`."""

    def __init__(self, task: ServiceTask, spec: ReplicaSpec, lane: Lane) -> None:
        self.spec = spec
        self.lane = lane
        self.freed = lane.freed
        self.follow = lane.follow
        self.service = task.find_service
        self.state = ReplicaState.PENDING  # this and the next two are guarded by the task's condition
        self.cause: BaseException | None = None
        self.replica: Replica | None = None
        self._task = task

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        self._task.member_changed(self, state, cause)

    def lost(self, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        self._task.member_lost(self, not_started, maybe, cause)


class ServiceTask:
    """
    One service, deployed or about to be.

    All methods are safe from any thread.

    Attributes:
        service_name: Name of the service.
        composition: What was decided for it.
        handle: Calls it; the first call starts the task if need be.
    """

    def __init__(self, composition: Composition, find_service: Callable[[str], Any], clock: Clock) -> None:
        """
        Prepare the task; builds and starts nothing.

        Args:
            composition: What to run.
            find_service: Gives the instances handles to other services.
            clock: For deadlines.
        """
        self.composition = composition
        self.service_name = composition.name
        self.find_service = find_service
        self._config = composition.config
        self._clock = clock
        self._condition = threading.Condition()
        self._state = ReplicaState.PENDING  # guarded by _condition
        self._members: tuple[_Member, ...] = ()  # guarded by _condition; replaced, never changed
        self._target: Target | None = None
        self._starting = threading.RLock()
        self._closing = False  # whether outsiders' calls are refused
        self._stopped = threading.Event()
        self._monitors: tuple[tuple[Choice, Monitor], ...] = tuple(
            (choice, choice.create()) for choice in composition.monitors
        )
        self._failed_monitors: set[str] = set()
        names = tuple(method.name for method in composition.methods)
        who = ReplicaInfo(composition.name, None)
        self._recorders = {choice.id: monitor.recorder(who, names) for choice, monitor in self._monitors}
        self._writers = {id: recorder.writer() for id, recorder in self._recorders.items() if recorder is not None}
        self._writing = threading.RLock()  # writers are for one thread at a time
        self._router = _router_class(composition.methods)(
            composition.name,
            clock,
            queue_size=self._config.queue_size,
            reject=self._config.overload == "reject",
            retry_lost=self._config.failover_enabled,
            count=self._count,
            refused=self._refused,
            balancer=None if composition.balancer is None else composition.balancer.create(),
            key_of=composition.key_of,
            on_balancer_error=self._balancer_failed,
        )
        self._binding = Binding(
            self._router,
            composition.methods,
            queue_timeout=self._config.queue_timeout,
            runs_here="in_callers_thread" in composition.strategy.registration.capabilities,
        )
        self.handle = ServiceHandle(composition.name, self.bind)

    # -- what monitors are told --------------------------------------------------------------------------------------

    def _count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        with self._writing:
            for choice, _ in self._monitors:
                if choice.id in self._writers:
                    self._fenced(choice, self._writers[choice.id], method, outcome, wait_s, run_s)

    def _refused(self, method: int, reason: str) -> None:
        for choice, monitor in self._monitors:
            self._fenced(choice, monitor.refused, method, reason)

    def _tell(self, kind: str, reason: str, replica: str | None = None) -> None:
        event = Event(self.service_name, kind, reason, replica)
        for choice, monitor in self._monitors:
            self._fenced(choice, monitor.event, event)

    def _fenced(self, choice: Choice, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What a monitor answers, or None: its fault must neither stop the service nor fill the log."""
        try:
            return ask(*arguments)
        except Exception:
            if choice.id not in self._failed_monitors:
                self._failed_monitors.add(choice.id)
                logging.getLogger("sage_plugins").exception(
                    "service '%s': monitor '%s' from %s raised; further faults of it are not reported",
                    self.service_name,
                    choice.id,
                    choice.source,
                )
            return None

    def _balancer_failed(self, error: BaseException) -> None:
        balancer = self.composition.balancer
        name = "" if balancer is None else f"'{balancer.id}' from {balancer.source} "
        reason = f"load balancer {name}failed and is replaced by turns: {text_of(error)}"
        logging.getLogger("sage_plugins").warning("service '%s': %s", self.service_name, reason)
        self._tell("balancer_fenced", reason)

    # -- starting ----------------------------------------------------------------------------------------------------

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
            self.stop(drain_timeout=0)
            raise

    def begin(self) -> None:
        """
        Have every replica start; returns at once. Does nothing if that has happened.

        Raises:
            DeployError: The target can place a replica nowhere; nothing was started.
        """
        with self._starting:  # whoever stops the task waits until all is started that must be stopped
            with self._condition:
                if self._state is not ReplicaState.PENDING:
                    return
                self._state = ReplicaState.STARTING
            self._start()

    def _start(self) -> None:
        composition = self.composition
        specs = [composition.spec(index) for index in range(self._config.replicas)]
        try:
            self._target = target = composition.target.create()
            places = target.place(specs)
            for spec, place in zip(specs, places, strict=True):
                if isinstance(place, Refused):
                    nodes = "".join(f"\n  {node}: {reason}" for node, reason in place.nodes.items())
                    msg = f"replica {spec.id} cannot be placed: {place.reason}{nodes}"
                    raise DeployError(msg, service=spec.service, replica=spec.id)  # noqa: TRY301 - cleaned up below
            members = tuple(_Member(self, spec, self._router.lane(spec.id, spec.index)) for spec in specs)
            with self._condition:
                self._members = members
            for member, place in zip(members, places, strict=True):
                replica = target.start(member.spec, place, member, self._clock)
                with self._condition:
                    member.replica = replica
                self._open_if_ready(member)
        except BaseException as error:
            self.stop(drain_timeout=0)
            if isinstance(error, SageDeployError) or not isinstance(error, Exception):
                raise
            msg = (
                f"service '{self.service_name}': target '{composition.target.id}' from {composition.target.source} "
                f"failed to start it: {text_of(error)}"
            )
            raise DeployError(msg, service=self.service_name) from error

    def member_changed(self, member: _Member, state: ReplicaState, cause: BaseException | None) -> None:
        """A replica reports its state."""
        with self._condition:
            if member.state is ReplicaState.STOPPED:  # a constructor that nobody waited for has ended
                return
            member.state = state
            member.cause = cause
            self._condition.notify_all()
        self._tell(f"replica_{state}", "" if cause is None else text_of(cause), member.spec.id)
        if state is ReplicaState.READY:
            self._open_if_ready(member)

    def _open_if_ready(self, member: _Member) -> None:
        """Send calls to a replica once it is ready and known here; either may come first."""
        with self._condition:
            if member.state is not ReplicaState.READY or member.replica is None or member.lane.slots:
                return
            if self._state not in (ReplicaState.STARTING, ReplicaState.READY):
                return
            self._router.open(member.lane, member.replica)
            if all(each.lane.slots for each in self._members):
                self._state = ReplicaState.READY
            self._condition.notify_all()

    def member_lost(
        self, member: _Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException
    ) -> None:
        """A replica died: its calls move on or end, and with the last one the service is out of replicas."""
        self._router.lost(member.lane, not_started, maybe, cause)
        self.member_changed(member, ReplicaState.FAILED, cause)
        if not self._router.lanes:
            msg = f"service '{self.service_name}' has no replica left: {member.spec.id} died ({text_of(cause)})"
            self._router.unavailable(lambda: NoReplicaError(msg, service=self.service_name))

    def wait_ready(self, timeout: float | None = None) -> None:
        """
        Wait until every replica is ready.

        Args:
            timeout: Seconds; None for the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica failed, or was not ready in time.
        """
        limit = self._config.startup_timeout if timeout is None else timeout
        until = self._clock.monotonic() + limit
        with self._condition:
            while self._state is not ReplicaState.READY:
                failed = next((each for each in self._members if each.state is ReplicaState.FAILED), None)
                if failed is not None:
                    raise self._constructor_failed(failed) from failed.cause
                if self._state is not ReplicaState.STARTING:
                    msg = f"service '{self.service_name}' was stopped before it was ready"
                    raise DeployError(msg, service=self.service_name)
                remaining = until - self._clock.monotonic()
                if remaining <= 0:
                    late = ", ".join(each.spec.id for each in self._members if each.state is not ReplicaState.READY)
                    msg = (
                        f"service '{self.service_name}': {late} not ready after {limit:g} s; the constructor or a "
                        "start hook still runs. Raise `startup_timeout` if it needs that long"
                    )
                    raise DeployError(msg, service=self.service_name)
                self._condition.wait(min(remaining, threading.TIMEOUT_MAX))

    def _constructor_failed(self, member: _Member) -> DeployError:
        cause = member.cause
        frames = traceback.extract_tb(cause.__traceback__) if cause is not None else []
        own = [frame for frame in frames if not frame.filename.startswith(_HERE)]
        where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
        hints = "".join(f"; {note}" for note in getattr(cause, "__notes__", ()))
        who = f"service '{self.service_name}' replica {member.spec.index}"
        msg = f"while constructing {who}: {text_of(cause)}{where}{hints}"
        return DeployError(msg, service=self.service_name, replica=member.spec.id)

    def bind(self) -> Binding:
        """For the first call of a handle: the way to the replicas, once they are there."""
        if self._state is not ReplicaState.READY:
            self.begin()
            with self._condition:
                waits = self._state is ReplicaState.STARTING
            if waits:
                self.start_running()
        return self._binding

    # -- stopping ----------------------------------------------------------------------------------------------------

    def stop(self, drain_timeout: float | None = None) -> None:
        """
        Accept no more calls, let those accepted finish, run the stop hooks, end the workers.

        Idempotent; does nothing before `start_running`. Called from within one of the service's own calls it returns at
        once and the service stops when that call has ended.

        Args:
            drain_timeout: Seconds for the accepted calls; None for the configuration's. Calls that still wait then end
                with ServiceStoppedError, and so do those that still run: their methods go on.
        """
        with self._condition:
            if self._state in (ReplicaState.PENDING, ReplicaState.STOPPED):
                return
            first = self._state is not ReplicaState.DRAINING
            self._state = ReplicaState.DRAINING
            self._condition.notify_all()
        inside = self.owns(current_call())
        if not first:
            if not inside:
                self._stopped.wait()
            return
        limit = self._config.drain_timeout if drain_timeout is None else drain_timeout
        if inside:
            threading.Thread(target=self._drain, args=(limit,), name=f"{self.service_name}-stop", daemon=True).start()
        else:
            self._drain(limit)

    def _drain(self, limit: float) -> None:
        with self._starting:  # see `begin`
            until = self._clock.monotonic() + limit
        idle = threading.Event()
        try:
            self._router.drain("is stopping", idle.set)
            idle.wait(limit)
            self._router.end()
            grace = max(until - self._clock.monotonic(), _LAST_GRACE_S)
            self._stop_replicas(grace)
        finally:
            for choice, monitor in self._monitors:
                self._fenced(choice, monitor.close)
            with self._condition:
                self._state = ReplicaState.STOPPED
                self._condition.notify_all()
            self._stopped.set()

    def _stop_replicas(self, grace: float) -> None:
        """Stop all replicas, in reverse order, within *grace* seconds together."""
        until = self._clock.monotonic() + grace
        started = [(member, member.replica) for member in reversed(self._members) if member.replica is not None]
        # Asked first and waited for afterwards, so that one that is stuck takes no time from the others.
        for _, replica in started:
            replica.stop(0)
        for member, replica in started:
            left = replica.stop(max(0.0, until - self._clock.monotonic()))
            with self._condition:
                member.state = ReplicaState.STOPPED
            self._tell("replica_stopped", f"{left} calls still run" if left else "", member.spec.id)
        if self._target is not None:
            self._target.close()

    def close(self, drain_timeout: float | None = None) -> None:
        """`stop`, also for a task that was never started: it will not start any more."""
        with self._condition:
            never = self._state is ReplicaState.PENDING
            if never:
                self._state = ReplicaState.STOPPED
                self._stopped.set()
        if never:
            self._router.drain("was never started and is closed", lambda: None)
        else:
            self.stop(drain_timeout)

    def close_to_outsiders(self, watch: Callable[[], None]) -> None:
        """
        Accept only calls that come from within other services' calls; *watch* is told when `idle` may have changed.
        """
        if self._state in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING):
            self._closing = True
            self._router.close_to_outsiders("is stopping", watch)

    @property
    def idle(self) -> bool:
        """Whether no call waits or runs, abandoned ones aside."""
        return self._router.idle

    @property
    def drain_timeout(self) -> float:
        """Seconds that accepted calls get when the service stops."""
        return self._config.drain_timeout

    def owns(self, call: Call | None) -> bool:
        """Whether *call* is one of this service's."""
        return call is not None and call.owner is self._router

    def cleanup(self) -> None:
        """Stop if need be; the instances' own cleanup hooks run as part of that. Idempotent."""
        self.stop()

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: refuse every call, and touch nothing else."""
        self._router.after_fork(error)
        self._condition = threading.Condition()
        self._state = ReplicaState.STOPPED

    # -- looking on --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """`pending`, `starting`, `ready`, `draining` or `stopped`."""
        if self._closing and self._state in (ReplicaState.STARTING, ReplicaState.READY):
            return str(ReplicaState.DRAINING)
        return str(self._state)

    def status(self) -> dict[str, Any]:
        """The service at a glance; see `Environment.get_service_status`."""
        members = self._members
        stats = [self._stats(member) for member in members]
        ready = sum(member.state is ReplicaState.READY for member in members)
        threads = [0 if each["runner"] is None else each["runner"].threads for each in stats]
        summaries = self._summaries(stats)
        return {
            "service_name": self.service_name,
            "state": self.state,
            "deployment_config": self._config,
            "metrics": self._metrics(summaries.pop("metrics", {}), sum(threads)),
            "health": {"healthy": bool(members) and ready == len(members), "ready": ready, "replicas": len(members)},
            "replicas": [
                {
                    "id": member.spec.id,
                    "state": str(member.state),
                    "node": member.lane.node,
                    "inflight": member.lane.inflight,
                    "slots": member.lane.slots,
                    "threads": number,
                    "error": None if member.cause is None else "".join(traceback.format_exception(member.cause)),
                }
                for member, number in zip(members, threads, strict=True)
            ],
            "monitors": summaries,
        }

    def _stats(self, member: _Member) -> Mapping[str, Any]:
        if member.replica is None:
            return {"runner": None, "recorders": {}}
        stats: Mapping[str, Any] = member.replica.control(ControlOp.STATS, timeout=1.0)
        return stats

    def _summaries(self, stats: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """What each monitor makes of what was recorded, by its ID."""
        summaries = {}
        for choice, monitor in self._monitors:
            own = self._recorders[choice.id]
            snapshots = [each["recorders"][choice.id] for each in stats if choice.id in each["recorders"]]
            mine = None if own is None else self._fenced(choice, own.snapshot)
            summary = self._fenced(choice, monitor.summary, snapshots if mine is None else [*snapshots, mine])
            summaries[choice.id] = summary or {}
        return summaries

    def _metrics(self, measured: Mapping[str, Any], threads: int) -> ServiceMetrics:
        from sage_plugins.metrics import ServiceMetrics

        return ServiceMetrics(
            service_name=self.service_name,
            active_threads=threads,
            queue_size=self._router.waiting,
            abandoned_count=sum(member.lane.abandoned for member in self._members),
            **measured,
        )

    # -- SAGE's dictionaries -----------------------------------------------------------------------------------------

    def handle_request(self, request: Mapping[str, Any]) -> None:
        """
        Start the call that *request* describes and return at once; the response goes into its `response_queue`.

        Args:
            request: A dictionary with `method_name`, `response_queue` (anything with `put`) and, optionally,
                `request_id`, `args`, `kwargs` and `timeout`.

        The response is a dictionary with `request_id`, `result`, `error` (text or None), `success`, `execution_time`
        and `timestamp` (seconds, wall clock).
        """
        queue = request["response_queue"]
        started = self._clock.monotonic()

        def respond(result: Any, error: BaseException | None) -> None:
            queue.put(
                {
                    "request_id": request.get("request_id"),
                    "result": result,
                    "error": None if error is None else text_of(error).partition(": ")[2] or text_of(error),
                    "success": error is None,
                    "execution_time": self._clock.monotonic() - started,
                    "timestamp": wall_clock(),
                }
            )

        def done(call: Call) -> None:
            error = call.exception_now()
            respond(None if error is not None else call.result(), error)

        try:
            handle = self.handle
            if request.get("timeout") is not None:
                handle = handle.with_options(timeout=request["timeout"])
            call = handle.start(
                request["method_name"], tuple(request.get("args", ())), dict(request.get("kwargs") or {})
            )
        except Exception as error:  # noqa: BLE001 - the caller of a request looks for it in the queue
            respond(None, error)
        else:
            call.add_done_callback(done)

    def __repr__(self) -> str:
        """Name and state."""
        return f"<ServiceTask {self.service_name!r} {self.state}>"
