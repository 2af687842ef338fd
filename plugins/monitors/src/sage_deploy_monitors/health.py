"""
Checks the health of replicas, so that unhealthy ones get no calls.

Each replica with something to check has a probe with its own timer; nothing else waits or polls. A check runs on a new
thread and takes no slot. A check that hangs only costs that thread, and delays no other.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import text_of
from sage_plugins.interfaces import ControlOp, Family, QuietMonitor
from sage_plugins.service.own_metrics import BUCKETS, Histogram
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.clock import Timer
    from sage_plugins.interfaces import WatchedReplica, WatchedService
    from sage_plugins.values import Event

__all__ = ["Health"]

#: The checks, in order.
_ASKED: Final = {ControlOp.CHECK: "check_health", ControlOp.READY: "check_ready"}

#: States in which a replica can be checked.
_UP: Final = frozenset({ReplicaState.READY, ReplicaState.UNREADY, ReplicaState.UNHEALTHY})

#: Seconds that `close` waits for running checks.
_GRACE_S: Final = 0.5


class Health(QuietMonitor):
    """
    Marks replicas as unhealthy, unready, and ready again.

    The first check of a replica runs as soon as it is ready, the next ones every `health_check_interval`. For a service
    without `check_health` and `check_ready`, the monitor only checks slots: it starts after a call was given up, and
    goes on while the replica has abandoned calls or all its slots are taken.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant, as all here: a signal handler may stop the service
        self._service: WatchedService | None = None
        self._probes: dict[str, _Probe] = {}  # by replica ID; guarded by _lock, as the next one
        self._closed = False
        self._durations = Histogram("sage_health_check_duration_seconds", "Time of a check.", ("check",), BUCKETS)

    def attach(self, service: WatchedService) -> None:
        """Start to watch *service*."""
        self._service = service
        service.on_given_up(self._look_for_abandoned)

    def event(self, event: Event) -> None:
        """When a replica becomes ready, start its probe."""
        service = self._service
        if event.kind == "replica_ready" and service is not None and service.hooks.intersection(_ASKED.values()):
            for replica in service.replicas():
                if replica.id == event.replica:
                    self._probe(service, replica, after=0.0)

    def _look_for_abandoned(self) -> None:
        service = self._service
        if service is not None:
            for replica in service.replicas():
                if replica.abandoned or _is_full(replica):
                    self._probe(service, replica, after=service.config.health_check_interval)

    def _probe(self, service: WatchedService, replica: WatchedReplica, *, after: float) -> None:
        with self._lock:
            if self._closed or replica.id in self._probes:
                return
            probe = self._probes[replica.id] = _Probe(service, replica, self._is_over, self._durations)
        probe.schedule(after)

    def _is_over(self, probe: _Probe) -> bool:
        """Whether a replica needs no further checks. If so, forget its probe."""
        replica = probe.replica
        with self._lock:
            reasons = probe.asks or probe.unwell or replica.abandoned or _is_full(replica)
            over = self._closed or replica.state not in _UP or not reasons
            if over:
                self._probes.pop(replica.id, None)
            return over

    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: ARG002 - as in Monitor
        """Return the reasons why replicas are `unhealthy` or `unready`, by replica ID."""
        with self._lock:
            probes = tuple(self._probes.items())
        return {
            "unhealthy": {id: probe.unhealthy for id, probe in probes if probe.unhealthy},
            "unready": {id: probe.unready for id, probe in probes if probe.unready},
        }

    def families(self, snapshots: Sequence[Mapping[str, Any]]) -> tuple[Family, ...]:  # noqa: ARG002 - as in Monitor
        """Return how long checks take, by kind of check."""
        found = self._durations
        return (Family(found.name, found.kind, found.help, found.label_names, found.values(), found.edges),)

    def close(self) -> None:
        """Stop checking. A check that hangs keeps its thread until it ends."""
        with self._lock:
            self._closed = True
            probes, self._probes = tuple(self._probes.values()), {}
        for probe in probes:
            probe.stop(_GRACE_S / len(probes))


class _Round:
    """One run of both checks on one replica."""

    def __init__(self, thread: threading.Thread) -> None:
        self.thread = thread
        self.asked = ControlOp.CHECK  # the running check; this and the next are guarded by _Probe._lock
        self.late = False  # whether its answers are ignored
        self.timer: Timer | None = None


class _Probe:
    """The known health of one replica, and the timer for its next check."""

    def __init__(
        self,
        service: WatchedService,
        replica: WatchedReplica,
        is_over: Callable[[_Probe], bool],
        durations: Histogram,
    ) -> None:
        config = service.config
        self.replica = replica
        self.asks = tuple(op for op, hook in _ASKED.items() if hook in service.hooks)
        self._clock = service.clock
        self._interval: float = config.health_check_interval
        self._timeout: float = config.health_check_timeout
        self._failure_threshold: int = config.failure_threshold
        self._success_threshold: int = config.success_threshold
        self._is_over = is_over
        self._durations = durations
        self._lock = threading.RLock()  # guards all below
        self._timer: Timer | None = None
        self._stopped = False
        self._round: _Round | None = None  # the running check
        self._failures = 0  # of check_health, in a row
        self._successes = 0  # in a row, while unhealthy
        self.unhealthy = ""  # the reason, or ""; other threads read this and the next without the lock
        self.unready = ""
        self._marking = threading.RLock()  # keeps marks in the order of the answers they are based on

    @property
    def unwell(self) -> bool:
        """Whether something is wrong, or was at the last check."""
        return bool(self.unhealthy or self.unready or self._failures)

    def schedule(self, after: float) -> None:
        """Check after *after* seconds."""
        with self._lock:
            if not self._stopped:
                self._timer = self._clock.call_at(self._clock.monotonic() + after, self._check)

    def stop(self, grace: float) -> None:
        """Stop checking, and wait at most *grace* seconds for the running check."""
        with self._lock:
            self._stopped = True
            current = self._round
            timers = (self._timer, None if current is None else current.timer)
        for timer in timers:
            if timer is not None:
                timer.cancel()
        if current is not None and current.thread is not threading.current_thread():
            current.thread.join(grace)

    # -- checking ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._is_over(self):
            return
        self.schedule(self._interval)
        slots, abandoned = self.replica.slots, self.replica.abandoned
        with self._lock:
            hanging = self._round
            if hanging is not None:
                hanging.late = True
        if slots and abandoned >= slots:
            self._judge(ControlOp.CHECK, f"all its {slots} slots are held by calls that were given up and still run")
        elif hanging is not None:
            self._judge(hanging.asked, f"{_ASKED[hanging.asked]}() has not returned since the last check")
        elif self.asks or _is_full(self.replica):
            self._ask()
        else:
            self._judge(ControlOp.CHECK, "")

    def _ask(self) -> None:
        thread = threading.Thread(target=lambda: self._answer(current), name=f"{self.replica.id}-health", daemon=True)
        current = _Round(thread)
        with self._lock:
            if self._stopped:
                return
            try:
                thread.start()  # under the lock, because `stop` joins the thread
            except RuntimeError:  # the machine has no thread to spare, which says nothing about the replica
                return
            self._round = current
            current.timer = self._clock.call_at(self._clock.monotonic() + self._timeout, lambda: self._give_up(current))

    def _answer(self, current: _Round) -> None:
        """Run the checks, on their own thread."""
        try:
            if _is_full(self.replica) and self._does_nothing(current):
                return
            for op in self.asks:
                with self._lock:
                    if current.late:
                        return
                    current.asked = op
                failure, begin = "", self._clock.monotonic()
                try:
                    self.replica.control(op, timeout=self._timeout)
                except BaseException as error:  # noqa: BLE001 - also sys.exit() in a check
                    failure = f"{_ASKED[op]}() failed: {text_of(error)}"
                self._durations.labels(_ASKED[op]).observe(self._clock.monotonic() - begin)
                with self._lock:
                    if current.late:
                        return
                self._judge(op, failure)
            if ControlOp.CHECK not in self.asks:
                self._judge(ControlOp.CHECK, "")
        finally:
            with self._lock:
                self._round = None
            if current.timer is not None:
                current.timer.cancel()

    def _does_nothing(self, current: _Round) -> bool:
        """Whether all slots are taken but no worker runs a call. If so, judge the replica by that."""
        try:
            stats = self.replica.control(ControlOp.STATS, timeout=self._timeout)
        except Exception:  # noqa: BLE001 - a replica that does not answer may be busy; its own checks tell more
            return False
        if stats.get("running") != 0 or "age" in stats or not _is_full(self.replica):
            return False
        idle = stats.get("idle")
        if idle is not None and idle < self._interval:  # it may be between two calls
            return False
        with self._lock:
            if current.late:
                return True
        self._judge(ControlOp.CHECK, f"all its slots ({self.replica.slots}) are taken, but no worker runs anything")
        return True

    def _give_up(self, current: _Round) -> None:
        """Report a timeout of the check. No other check starts before it has ended."""
        with self._lock:
            if self._round is not current or current.late or self._stopped:
                return
            current.late = True
        self._judge(current.asked, f"{_ASKED[current.asked]}() gave no answer in {self._timeout:g} s")

    # -- judging -----------------------------------------------------------------------------------------------------

    def _judge(self, op: ControlOp, failure: str) -> None:
        """Process one answer: *failure*, or "" if it was good. Mark the replica if that changes its state."""
        with self._marking:
            with self._lock:
                before = bool(self.unhealthy), bool(self.unready)
                reason = self._judge_alive(failure) if op is ControlOp.CHECK else self._judge_ready(failure)
                unhealthy, unready = self.unhealthy, self.unready
            if before == (bool(unhealthy), bool(unready)):
                return
            if unhealthy:
                self.replica.mark(ReplicaState.UNHEALTHY, unhealthy)
            elif unready:
                self.replica.mark(ReplicaState.UNREADY, unready)
            else:
                self.replica.mark(ReplicaState.READY, reason)

    def _judge_alive(self, failure: str) -> str:
        """Apply the thresholds, because health is a guess from outside. Return the reason for being healthy again."""
        if failure:
            self._successes = 0
            self._failures += 1
            if self._failures >= self._failure_threshold and not self.unhealthy:
                self.unhealthy = f"{_in_a_row(self._failures)} failed, the last one because {failure}"
            return ""
        self._failures = 0
        if not self.unhealthy:
            return ""
        self._successes += 1
        if self._successes >= self._success_threshold:
            self._successes = 0
            self.unhealthy = ""
        return f"{_in_a_row(self._success_threshold)} passed"

    def _judge_ready(self, failure: str) -> str:
        """Apply the answer at once: the service itself says whether it is ready."""
        self.unready = failure
        return "check_ready() passed"


def _is_full(replica: WatchedReplica) -> bool:
    return 0 < replica.slots <= replica.inflight


def _in_a_row(count: int) -> str:
    return "1 health check" if count == 1 else f"{count} health checks in a row"
