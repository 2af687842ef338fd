"""Leaves replicas without calls that fail: what `resilience.outliers` decides, done with a router's lanes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.outliers import AllServe, Ejected, Outliers, Probed, Returned
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.clock import Timer
    from sage_plugins.config.nested_keys import OutlierPolicy
    from sage_plugins.interfaces import Candidate
    from sage_plugins.routing.guarding.parts import Parts, Tell
    from sage_plugins.routing.lane import Lane

__all__ = ["Ejecting"]

_FAULTS: Final = frozenset({Outcome.DIED, Outcome.TIMEOUT})
_DID_ITS_PART: Final = frozenset({Outcome.OK, Outcome.ERROR})

_KINDS: Final = {
    Ejected: EventKind.REPLICA_EJECTED,
    Probed: EventKind.EJECTION_PROBED,
    Returned: EventKind.EJECTION_ENDED,
    AllServe: EventKind.EJECTION_ENDED,
}


class Ejecting:
    """Watches the replicas of one router. From any thread."""

    _parts: Parts
    _outliers: Outliers

    def __init__(self, policy: OutlierPolicy, tell: Tell) -> None:
        """
        Watch nothing yet: `join` comes first.

        Args:
            policy: When a replica gets no calls.
            tell: Told of every decision.
        """
        self._policy = policy
        self._tell = tell
        self._lock = threading.RLock()
        self._timer: Timer | None = None
        self._probing: frozenset[Lane] = frozenset()  # lanes that have one slot, for one call

    def join(self, parts: Parts) -> None:
        """Watch the lanes of the router with these *parts*."""
        self._parts = parts
        self._outliers = Outliers(self._policy, parts.clock.monotonic())

    def lanes_changed(self) -> None:
        """There are other lanes; under their lock."""
        with self._lock:
            self._outliers.replicas_are([lane.id for lane in self._parts.lanes.open])

    def observe(self, candidate: Candidate, _method: str, outcome: int, _wait_s: float, run_s: float) -> None:
        """A call has ended for which the balancer chose."""
        now = self._parts.clock.monotonic()
        outliers = self._outliers
        decided: list[Ejected | AllServe | Probed | Returned] = []
        if outcome in _DID_ITS_PART:
            returned = outliers.succeeded(candidate.id, run_s, now)
            decided += [] if returned is None else [returned]
        elif outcome in _FAULTS:
            with self._lock:
                failed = outliers.failed(candidate.id, now)
            decided += [] if failed is None else [failed]
        if outliers.is_due(now):
            with self._lock:
                decided += outliers.look(now)
        if decided:
            self._do(decided)

    def end(self) -> None:
        """The router has come to its end."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """The time is over of a replica that is out."""
        with self._lock:
            decided = self._outliers.look(self._parts.clock.monotonic())
        self._do(decided)

    def _do(self, decided: Iterable[Ejected | AllServe | Probed | Returned]) -> None:
        self._parts.rearrange(self._arrange)
        for each in decided:
            self._tell(_KINDS[type(each)], f"{each.replica}: {each.reason}", each.replica)

    def _arrange(self) -> None:
        """Have the lanes be as was decided; under their lock."""
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
            if lane in lanes.open:  # else it gets no calls any more
                lane.give_back()
        for lane in probing - self._probing:
            lane.take_free(but=1)
        self._probing = probing
