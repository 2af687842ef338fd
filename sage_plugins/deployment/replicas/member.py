"""One replica of a service: its state, its answers to questions, and who manages it."""

from __future__ import annotations

import traceback
from contextlib import suppress
from enum import Enum
from time import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, cast

from sage_plugins.errors import text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.routing.lane import LaneEvents
from sage_plugins.service.logs import RemoteLine, level_of, tell
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.host.lifecycle import Canary
    from sage_plugins.interfaces import Replica, WaitingReplica
    from sage_plugins.interfaces.operations import MethodError
    from sage_plugins.routing.lane import Lane
    from sage_plugins.values import ReplicaSpec

__all__ = ["ANSWER_S", "Claim", "ManagedBy", "Member", "MemberOwner", "Report"]

#: Seconds that a replica gets to answer a question. A status asks all replicas at once and waits no longer than this.
ANSWER_S: Final = 1.0

#: States of a replica that has started and has not been told to leave.
_UP: Final = frozenset({ReplicaState.READY, ReplicaState.UNREADY, ReplicaState.UNHEALTHY})

#: States of a replica that has ended without being told to.
_ENDED: Final = frozenset({ReplicaState.FAILED, ReplicaState.CRASH_LOOP})

#: Statistics of a replica that has never answered.
_NO_STATS: Final[Mapping[str, Any]] = MappingProxyType({"runner": None, "recorders": {}, "pid": None, "age": None})

#: An event of a replica: its kind, its reason and the replica's ID.
Report: TypeAlias = tuple[str, str, str]

#: A change of state: seconds since the epoch, the new state and the reason.
StateChange: TypeAlias = tuple[float, str, str]

#: How many state changes of a replica are kept.
_HISTORY_LENGTH: Final = 20


class ManagedBy(Enum):
    """Who acts when a replica ends."""

    STARTER = "starter"
    """The code that started it and waits for it. It is not part of the service yet."""
    SUPERVISOR = "supervisor"
    """`ReplicaSupervisor`, which replaces it. It is one of the service's replicas."""
    NOBODY = "nobody"
    """Nobody: it is leaving."""


class MemberOwner(Protocol):
    """Receives what targets and monitors report about a replica; from any thread."""

    clock: Clock

    def changed(self, member: Member, state: ReplicaState, cause: BaseException | None) -> None:
        """As `LifeEvents.changed`."""

    def remark(self, member: Member, text: str) -> None:
        """As `LifeEvents.remark`."""

    def lost(self, member: Member, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """As `LifeEvents.lost`."""

    def mark(self, member: Member, state: ReplicaState, reason: str) -> None:
        """As `WatchedReplica.mark`."""

    def wait_started(self, member: Member, limit: float) -> Replica | None:
        """Return the target's `Replica` of *member*; None if the target does not return it within *limit* seconds."""


class Member(LaneEvents):
    """
    One replica of a service.

    Its target uses it as `interfaces.ReplicaEvents`, monitors as `interfaces.WatchedReplica`. Only the methods under
    "transitions" change its state. Only `begin_drain` and `ReplicaSupervisor` change `managed_by`.
    """

    def __init__(
        self,
        owner: MemberOwner,
        spec: ReplicaSpec,
        lane: Lane,
        find_service: Callable[[str], Any],
        *,
        newer: bool = False,
    ) -> None:
        super().__init__(lane)
        self.spec = spec
        self.newer = newer  # whether it has the version that is being rolled out; guarded as below
        self.id = spec.id
        self._find_service = find_service
        # Written under ReplicaSet.condition, except names that start with an underscore, and `may_open`, which is set
        # before its thread reports the replica ready. Reading a single one needs no lock.
        self.state = ReplicaState.PENDING
        self.since = time()
        self.history: list[StateChange] = [(self.since, str(self.state), "")]
        self.managed_by = ManagedBy.STARTER
        self.replacement: object = None  # if set, its replacement is under way, and nothing else may replace it
        self.died = False  # whether its process or node died
        self.ready_at: float | None = None  # the clock's `monotonic()` when it first became ready
        self.cause: BaseException | None = None
        self.reason = ""  # why a monitor marked it, or why it is not replaced yet
        self.replica: Replica | None = None
        self.not_on: Mapping[str, str] = {}  # by node, why it is not or cannot be there
        self.held = False  # whether it gets no calls yet, even when it is ready
        self.recycled = False  # whether it was stopped at a limit of `recycle`
        self.may_open = True  # whether it may get calls as soon as its target reports it ready, without a canary
        self.has_started = False  # whether its target reported it ready before its canary was answered
        self.canary: Canary | None = None  # the canary sent to it
        self._owner = owner
        self._logged = 0  # number of its last line that was logged here
        self._last_stats: tuple[Mapping[str, Any], float] = _NO_STATS, 0.0  # and when it gave them

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """As `LifeEvents.changed`."""
        self._owner.changed(self, state, cause)

    def remark(self, text: str) -> None:
        """As `LifeEvents.remark`."""
        self._owner.remark(self, text)

    def lost(self, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """As `LifeEvents.lost`."""
        if self.canary is not None:  # a canary is no caller's call
            not_started, maybe = ([each for each in works if each is not self.canary] for works in (not_started, maybe))
        self._owner.lost(self, not_started, maybe, cause)

    def service(self, name: str) -> Any:
        """As `Surroundings.service`."""
        return self._find_service(name)

    def mark(self, state: ReplicaState, reason: str) -> None:
        """As `WatchedReplica.mark`."""
        self._owner.mark(self, state, reason)

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`; waits up to *timeout* seconds for a replica that is being started."""
        replica = self._owner.wait_started(self, timeout)
        if replica is None:
            msg = f"replica {self.id} was not started within {timeout:g} s"
            raise RuntimeError(msg)
        return replica.control(op, arg, timeout=timeout)

    @property
    def node(self) -> str | None:
        """As `WatchedReplica.node`."""
        return self.lane.node

    @property
    def inflight(self) -> int:
        """As `WatchedReplica.inflight`."""
        return self.lane.inflight

    # -- transitions; under `ReplicaSet.condition` ------------------------------------------------------------------

    def become(self, state: ReplicaState, cause: BaseException | None) -> bool:
        """
        Take the state that its target reports.

        Returns:
            False if the report came too late: the replica has ended or is leaving.
        """
        leaving = self.state is ReplicaState.DRAINING and state is not ReplicaState.FAILED
        if leaving or self.ended or self.state is ReplicaState.STOPPED:
            return False
        self._enter(state, "" if cause is None else text_of(cause))
        self.cause = cause
        if state is ReplicaState.READY and not self.has_been_ready:
            self.ready_at = self._owner.clock.monotonic()
        return True

    def apply_mark(self, state: ReplicaState, reason: str) -> bool:
        """
        Take the state that a monitor sets. Return False if it is not new, or the replica is starting or leaving.

        Raises:
            ValueError: A monitor cannot set that state.
        """
        if state not in _UP:
            msg = f"a replica can be marked ready, unready or unhealthy, not '{state}'"
            raise ValueError(msg)
        if not self.up or self.state is state:
            return False
        self._enter(state, reason)
        self.reason = "" if state is ReplicaState.READY else reason
        return True

    def give_up(self) -> None:
        """Enter `crash_loop`: it ended and will not be replaced."""
        self._enter(ReplicaState.CRASH_LOOP)

    def begin_drain(self) -> bool:
        """Begin to leave: no more calls, no replacement. Return False if it has already ended."""
        self.managed_by = ManagedBy.NOBODY
        if self.ended:
            return False
        self._enter(ReplicaState.DRAINING)
        return True

    def begin_stop(self) -> None:
        """Enter `draining` before its stop hooks run, so that nothing checks its health meanwhile."""
        if self.up:
            self._enter(ReplicaState.DRAINING)

    def end_stop(self) -> bool:
        """Enter `stopped`. Return False if it had stopped before."""
        first = self.state is not ReplicaState.STOPPED
        self._enter(ReplicaState.STOPPED)
        return first

    def _enter(self, state: ReplicaState, reason: str = "") -> None:
        if state is not self.state:
            self.history = [*self.history[1 - _HISTORY_LENGTH :], (time(), str(state), reason)]
        self.state = state

    # -- state and answers -------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many calls it can run at once; 0 until it gets calls."""
        return self.lane.slots

    @property
    def abandoned(self) -> int:
        """Number of slots held by calls whose callers have given up."""
        return self.lane.abandoned

    @property
    def has_been_ready(self) -> bool:
        """Whether it has ever been ready."""
        return self.ready_at is not None

    @property
    def up(self) -> bool:
        """Whether it has started, has not ended and was not told to leave."""
        return self.state in _UP

    @property
    def in_service(self) -> bool:
        """Whether it is up and its lane is open: it gets calls, or would if it were ready."""
        return self.up and self.lane.slots > 0

    @property
    def ended(self) -> bool:
        """Whether it failed or died, and was not replaced yet."""
        return self.state in _ENDED

    @property
    def is_leaving(self) -> bool:
        """Whether it drains, or has ended and nobody manages it."""
        return self.state is ReplicaState.DRAINING or (self.ended and self.managed_by is ManagedBy.NOBODY)

    @property
    def is_coming(self) -> bool:
        """Whether calls may wait for it or for its replacement."""
        if self.managed_by is ManagedBy.NOBODY:
            return False
        replaced = self.state is ReplicaState.FAILED and self.managed_by is ManagedBy.SUPERVISOR
        return replaced or self.up or self.state in {ReplicaState.PENDING, ReplicaState.STARTING}

    def progress(self) -> str:
        """As `WaitingReplica.progress`, for targets that declare `reports_progress`; "" before its start."""
        if self.replica is None:
            return ""
        try:
            return cast("WaitingReplica", self.replica).progress(timeout=ANSWER_S)
        except Exception as error:  # noqa: BLE001 - whatever the target raises, it becomes part of the error
            return f"its progress is unknown: {text_of(error)}"

    def stats(self) -> Mapping[str, Any]:
        """
        Return `ControlOp.STATS` with `age`. If it does not answer within a second, return its last statistics.

        If it has never answered, `age` and `pid` are None.
        """
        if self.replica is None:
            return self.last_stats
        try:
            stats: Mapping[str, Any] = self.replica.control(ControlOp.STATS, timeout=ANSWER_S)
        except Exception:  # noqa: BLE001 - its process may be gone
            return self.last_stats
        self._last_stats = stats, self._owner.clock.monotonic() - stats.get("age", 0.0)
        return {"pid": None, "age": 0.0, **stats}

    @property
    def last_stats(self) -> Mapping[str, Any]:
        """Its last statistics."""
        stats, answered_at = self._last_stats
        if stats is _NO_STATS:
            return stats
        gone = self.ended or self.state is ReplicaState.STOPPED
        runner = None if gone else stats["runner"]
        return {"pid": None, **stats, "runner": runner, "age": self._owner.clock.monotonic() - answered_at}

    def logs(self) -> Sequence[RemoteLine]:
        """Return its new log lines, above the last line of `tell_log`; none if it does not answer within a second."""
        if self.replica is None:
            return ()
        wanted = self._logged, level_of(self.spec.service)
        try:
            lines: Sequence[RemoteLine] = self.replica.control(ControlOp.LOGS, wanted, timeout=ANSWER_S)
        except Exception:  # noqa: BLE001 - its process may be gone
            return ()
        return lines

    def errors(self) -> Sequence[MethodError]:
        """Return the latest error of each type from its methods; none if it does not answer within a second."""
        if self.replica is None:
            return ()
        try:
            found: Sequence[MethodError] = self.replica.control(ControlOp.ERRORS, timeout=ANSWER_S)
        except Exception:  # noqa: BLE001 - its process may be gone, or run an earlier version
            return ()
        return found

    def tell_log(self, line: RemoteLine) -> None:
        """Log one of its lines in this process, unless another thread already has."""
        if line.number > self._logged:
            self._logged = line.number
            tell(self.spec.service, self.id, line)

    def local_counts(self) -> Mapping[str, Any]:
        """Return `ControlOp.COUNTS` of a replica in this process; its last counts if it does not answer."""
        found: Mapping[str, Any] = self.last_stats["recorders"]
        if self.replica is not None:
            with suppress(Exception):  # of any kind, from its target
                found = self.replica.control(ControlOp.COUNTS, timeout=ANSWER_S)
        return found

    def counts(self) -> Mapping[str, Any]:
        """Return the snapshots of its recorders, by monitor ID."""
        counts: Mapping[str, Any] = self.stats()["recorders"]
        return counts

    @property
    def error(self) -> str | None:
        """Why it is not healthy, with the traceback, for a status."""
        cause = "" if self.cause is None else "".join(traceback.format_exception(self.cause))
        return "\n".join(filter(None, (self.reason, cause))) or None

    @property
    def reason_line(self) -> str:
        """Why its place is empty, or it is not ready, in one line."""
        return self.reason or ("" if self.cause is None else text_of(self.cause))


class Claim(NamedTuple):
    """
    The right to replace a replica.

    Attributes:
        old: The replica.
        token: `Member.replacement` of *old* while the claim is valid.
    """

    old: Member
    token: object
