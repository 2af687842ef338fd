"""Ejects failing replicas: takes calls away from a router's lanes, as `resilience.outliers` decides."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.outliers import AllServe, Ejected, Outliers, Probed, Returned
from sage_plugins.routing.guarding.faults import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer
    from sage_plugins.config.nested_keys import OutlierPolicy
    from sage_plugins.resilience.outliers import CallRecord
    from sage_plugins.routing.guarding.parts import Parts, Tell
    from sage_plugins.routing.lane import Lane

__all__ = ["Ejecting"]

_KINDS: Final = {
    Ejected: EventKind.REPLICA_EJECTED,
    Probed: EventKind.EJECTION_PROBED,
    Returned: EventKind.EJECTION_ENDED,
    AllServe: EventKind.EJECTION_ENDED,
}


class Ejecting:
    """Watches the replicas of one router, and ejects those that fail. Thread-safe."""

    _parts: Parts
    _outliers: Outliers

    def __init__(self, policy: OutlierPolicy, tell: Tell) -> None:
        self._policy = policy
        self._tell = tell
        self._lock = threading.RLock()
        self._timer: Timer | None = None
        self._due = 0.0  # when the interval ends and durations are compared
        self._probing: frozenset[Lane] = frozenset()  # lanes with only one slot, for a single call

    def join(self, parts: Parts) -> None:
        """Watch the lanes of the router with these *parts*."""
        self._parts = parts
        self._outliers = Outliers(self._policy, parts.clock.monotonic())
        self._due = self._outliers.due
        parts.owner.on_result, parts.owner.on_error = self._answered, self._failed

    def lanes_changed(self) -> None:
        """Take notice of a changed set of lanes; under the lanes' lock."""
        with self._lock:
            open_ = self._parts.lanes.open
            self._outliers.replicas_are([lane.id for lane in open_])
            for lane in open_:
                lane.call_record = self._outliers.record_of(lane.id)

    def _answered(self, call: Call, _: BaseException | None) -> None:
        """Count a call that ended with a result or with its method's exception; on the path of every call."""
        try:
            record: CallRecord | None = call.lane.call_record
            ended = call.ended
            seconds = ended - call.began
        except AttributeError:  # the call was not sent, or its consumer ended a stream
            return
        if record is None:
            return
        if record.failures_in_row or record.probes:
            self._did_its_part(call.lane, seconds, ended)
        else:  # `Outliers.succeeded` inlined
            record.calls += 1
            record.seconds += seconds
        if ended >= self._due:
            self._look()

    def _failed(self, call: Call, error: BaseException) -> None:
        fault, lane = fault_of(call, error, self._parts.service), call.lane
        if lane is None or fault is None:
            return
        if not fault:
            self._answered(call, error)
            return
        with self._lock:
            found = self._outliers.failed(lane.id, self._parts.clock.monotonic())
        if found is not None:
            self._do([found])

    def _did_its_part(self, lane: Lane, seconds: float, now: float) -> None:
        with self._lock:
            found = self._outliers.succeeded(lane.id, seconds, now)
        if found is not None:
            self._do([found])

    def end(self) -> None:
        """Stop, at the end of the router."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Decide again: an interval is over, or the ejection time of a replica."""
        with self._lock:
            now = self._parts.clock.monotonic()
            decided = self._outliers.look(now)
            self._due = self._outliers.due
        if decided:
            self._do(decided)

    def _do(self, decided: Iterable[Ejected | AllServe | Probed | Returned]) -> None:
        self._parts.rearrange(self._arrange)
        for each in decided:
            self._tell(_KINDS[type(each)], f"{each.replica}: {each.reason}", each.replica)

    def _arrange(self) -> None:
        """Apply the decisions to the lanes; under their lock."""
        lanes = self._parts.lanes
        with self._lock:
            out, probed = self._outliers.out, self._outliers.probed
            until = self._outliers.next_return()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if until is None else self._parts.clock.call_at(until, self._look)
        lanes.ejected = frozenset(lane for lane in lanes.open if lane.id in out)
        probing = frozenset(lane for lane in lanes.open if lane.id in probed)
        for lane in self._probing - probing:
            if lane in lanes.open:  # a closed lane gets no calls
                lane.give_back()
        for lane in probing - self._probing:
            lane.take_free(but=1)
        self._probing = probing
