"""One replica of a service: its state, what it says of itself, and who is responsible for it."""

from __future__ import annotations

import traceback
from contextlib import suppress
from enum import Enum
from time import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

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

__all__ = ["ANSWER_S", "ManagedBy", "Member", "MemberOwner", "Report"]

#: Seconds that a replica gets to say how it is; a status waits no longer for all of them together.
ANSWER_S: Final = 1.0

#: States of a replica that has started and has not been told to leave.
_UP: Final = frozenset({ReplicaState.READY, ReplicaState.UNREADY, ReplicaState.UNHEALTHY})

#: States of a replica that ended by itself.
_ENDED: Final = frozenset({ReplicaState.FAILED, ReplicaState.CRASH_LOOP})

#: What is known of a replica that has never answered.
_NOTHING_SAID: Final[Mapping[str, Any]] = MappingProxyType({"runner": None, "recorders": {}, "pid": None, "age": None})

#: What is told of a replica: kind of the event, reason, the replica's id.
Report: TypeAlias = tuple[str, str, str]

#: A state that a replica has come to: when, in seconds since the epoch, which, and why.
Turn: TypeAlias = tuple[float, str, str]

#: Turns of a replica that are kept.
_TURNS: Final = 20


class ManagedBy(Enum):
    """Who sees to it that a replica which ends is replaced."""

    STARTER = "starter"
    """Whoever started it and waits for it: it is not part of the service yet."""
    SUPERVISOR = "supervisor"
    """The set: it is one of the service's replicas."""
    NOBODY = "nobody"
    """It is on its way out."""


class MemberOwner(Protocol):
    """Who is told what its target and its monitors say of a replica; from any thread."""

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
        """The target's side of *member*, once the target has handed it over; None if it has not in *limit* seconds."""


class Member(LaneEvents):
    """
    One replica of a service.

    To its target it is `interfaces.ReplicaEvents`, to monitors `interfaces.WatchedReplica`. Its state changes by the
    methods under "transitions" only, and only `ReplicaSupervisor` gives it into other care.
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
        self.newer = newer  # whether it is of the version that is being rolled out; guarded as the next ones
        self.id = spec.id
        self._find_service = find_service
        # All but the last are guarded by ReplicaSet.condition.
        self.state = ReplicaState.PENDING
        self.since = time()
        self.past: list[Turn] = [(self.since, str(self.state), "")]
        self.managed_by = ManagedBy.STARTER
        self.replacement: object = None  # what is about to take its place, beside it; nothing else may then
        self.died = False  # whether its process or node went away
        self.ready_at: float | None = None  # the clock's `monotonic()` when it was ready first
        self.cause: BaseException | None = None
        self.reason = ""  # why it is marked as it is, or why nothing has taken its place yet
        self.replica: Replica | None = None
        self.not_on: Mapping[str, str] = {}  # why it is, or can be, on none of these nodes
        self.held = False  # whether it gets no calls yet although it is ready
        self.recycled = False  # whether it was stopped because it had reached a limit of `recycle`
        self.proven = True  # whether it may get calls as soon as it says that it is ready, without a canary
        self.has_started = False  # whether its target has said that it is ready, before its canary is answered
        self.canary: Canary | None = None  # the one that it was sent
        self._owner = owner
        self._logged = 0  # number of the line that was told last
        self._said: tuple[Mapping[str, Any], float] = _NOTHING_SAID, 0.0  # its statistics when asked last, and when

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """As `LifeEvents.changed`."""
        self._owner.changed(self, state, cause)

    def remark(self, text: str) -> None:
        """As `LifeEvents.remark`."""
        self._owner.remark(self, text)

    def lost(self, not_started: Sequence[Call], maybe: Sequence[Call], cause: BaseException) -> None:
        """As `LifeEvents.lost`."""
        if self.canary is not None:  # no call of anybody
            not_started, maybe = ([each for each in works if each is not self.canary] for works in (not_started, maybe))
        self._owner.lost(self, not_started, maybe, cause)

    def service(self, name: str) -> Any:
        """As `Surroundings.service`."""
        return self._find_service(name)

    def mark(self, state: ReplicaState, reason: str) -> None:
        """As `WatchedReplica.mark`."""
        self._owner.mark(self, state, reason)

    def control(self, op: ControlOp, arg: Any = None, *, timeout: float) -> Any:
        """As `Replica.control`; one that is just being started is waited for, within *timeout*."""
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
        Take on what its target reports.

        Returns:
            False if that is of no interest any more: it has ended, or it is leaving, such as when a constructor that
            nobody waits for has ended.
        """
        leaving = self.state is ReplicaState.DRAINING and state is not ReplicaState.FAILED
        if leaving or self.ended or self.state is ReplicaState.STOPPED:
            return False
        self._turn(state, "" if cause is None else text_of(cause))
        self.cause = cause
        if state is ReplicaState.READY and not self.been_ready:
            self.ready_at = self._owner.clock.monotonic()
        return True

    def judge(self, state: ReplicaState, reason: str) -> bool:
        """
        Take on what a monitor says; False if that is nothing new, or it is starting or leaving.

        Raises:
            ValueError: A monitor cannot say that.
        """
        if state not in _UP:
            msg = f"a replica can be marked ready, unready or unhealthy, not '{state}'"
            raise ValueError(msg)
        if not self.up or self.state is state:
            return False
        self._turn(state, reason)
        self.reason = "" if state is ReplicaState.READY else reason
        return True

    def give_up(self) -> None:
        """It ended, and nothing takes its place any more."""
        self._turn(ReplicaState.CRASH_LOOP)

    def leave(self) -> bool:
        """It gets no more calls and nothing takes its place; False if it has ended by itself."""
        self.managed_by = ManagedBy.NOBODY
        if self.ended:
            return False
        self._turn(ReplicaState.DRAINING)
        return True

    def begin_stop(self) -> None:
        """It is about to stop: nobody asks it how it is while its stop hooks run."""
        if self.up:
            self._turn(ReplicaState.DRAINING)

    def end_stop(self) -> bool:
        """It has stopped; False if it had before."""
        first = self.state is not ReplicaState.STOPPED
        self._turn(ReplicaState.STOPPED)
        return first

    def _turn(self, state: ReplicaState, reason: str = "") -> None:
        if state is not self.state:
            self.past = [*self.past[1 - _TURNS :], (time(), str(state), reason)]
        self.state = state

    # -- looking on --------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """Calls at once, at most; 0 before it gets any."""
        return self.lane.slots

    @property
    def abandoned(self) -> int:
        """Slots held by calls whose callers have given up."""
        return self.lane.abandoned

    @property
    def been_ready(self) -> bool:
        """Whether it has ever been ready."""
        return self.ready_at is not None

    @property
    def up(self) -> bool:
        """Whether it has started and was not told to leave."""
        return self.state in _UP

    @property
    def in_service(self) -> bool:
        """Whether it gets calls, or would if it were ready."""
        return self.up and self.lane.slots > 0

    @property
    def ended(self) -> bool:
        """Whether it failed or died, and nothing has taken its place."""
        return self.state in _ENDED

    @property
    def is_leaving(self) -> bool:
        """Whether it is on its way out."""
        return self.state is ReplicaState.DRAINING or (self.ended and self.managed_by is ManagedBy.NOBODY)

    @property
    def is_coming(self) -> bool:
        """Whether calls may wait for it, or for what takes its place."""
        if self.managed_by is ManagedBy.NOBODY:
            return False
        replaced = self.state is ReplicaState.FAILED and self.managed_by is ManagedBy.SUPERVISOR
        return replaced or self.up or self.state in {ReplicaState.PENDING, ReplicaState.STARTING}

    def progress(self) -> str:
        """As `WaitingReplica.progress`, for targets that declare `reports_progress`; "" before it is started."""
        if self.replica is None:
            return ""
        try:
            return cast("WaitingReplica", self.replica).progress(timeout=ANSWER_S)
        except Exception as error:  # noqa: BLE001 - whatever the target raises, the replica is late
            return f"how far it has got cannot be found out: {text_of(error)}"

    def stats(self) -> Mapping[str, Any]:
        """
        `ControlOp.STATS`, with its `age`; of one that does not answer in a second, what it said last.

        Before it has ever answered, its `age` and `pid` are None.
        """
        if self.replica is None:
            return self.said
        try:
            stats: Mapping[str, Any] = self.replica.control(ControlOp.STATS, timeout=ANSWER_S)
        except Exception:  # noqa: BLE001 - it may be gone, with its process
            return self.said
        self._said = stats, self._owner.clock.monotonic() - stats.get("age", 0.0)
        return {"pid": None, "age": 0.0, **stats}

    @property
    def said(self) -> Mapping[str, Any]:
        """What it said last."""
        said, said_at = self._said
        if said is _NOTHING_SAID:
            return said
        gone = self.ended or self.state is ReplicaState.STOPPED
        runner = None if gone else said["runner"]
        return {"pid": None, **said, "runner": runner, "age": self._owner.clock.monotonic() - said_at}

    def logs(self) -> Sequence[RemoteLine]:
        """What it has logged in its process since `tell_log`; none if it does not say so in a second."""
        if self.replica is None:
            return ()
        wanted = self._logged, level_of(self.spec.service)
        try:
            lines: Sequence[RemoteLine] = self.replica.control(ControlOp.LOGS, wanted, timeout=ANSWER_S)
        except Exception:  # noqa: BLE001 - it may be gone, with its process
            return ()
        return lines

    def errors(self) -> Sequence[MethodError]:
        """What its methods have raised, by type; none if it does not say so in a second."""
        if self.replica is None:
            return ()
        try:
            found: Sequence[MethodError] = self.replica.control(ControlOp.ERRORS, timeout=ANSWER_S)
        except Exception:  # noqa: BLE001 - it may be gone, with its process, or be of an earlier version
            return ()
        return found

    def tell_log(self, line: RemoteLine) -> None:
        """Log a line of it here, unless that was done meanwhile."""
        if line.number > self._logged:
            self._logged = line.number
            tell(self.spec.service, self.id, line)

    def counted(self) -> Mapping[str, Any]:
        """`ControlOp.COUNTS`, of a replica in this process; what it said last if it does not answer."""
        found: Mapping[str, Any] = self.said["recorders"]
        if self.replica is not None:
            with suppress(Exception):  # whatever its target raises
                found = self.replica.control(ControlOp.COUNTS, timeout=ANSWER_S)
        return found

    def counts(self) -> Mapping[str, Any]:
        """Its recorders' snapshots."""
        counts: Mapping[str, Any] = self.stats()["recorders"]
        return counts

    @property
    def error(self) -> str | None:
        """Why it is not well, for a status."""
        cause = "" if self.cause is None else "".join(traceback.format_exception(self.cause))
        return "\n".join(filter(None, (self.reason, cause))) or None

    @property
    def missing(self) -> str:
        """Why its place is empty, in one line."""
        return self.reason or ("" if self.cause is None else text_of(self.cause))
