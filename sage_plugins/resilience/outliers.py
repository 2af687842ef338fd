"""
Outlier ejection: decides which replicas get no calls for a while, because they fail or are far slower than their peers.

A state machine without a clock. `routing.guarding.ejecting` reports how calls ended at each replica, and carries out
the decisions.

* A replica is *ejected* after `consecutive` calls in a row have died or timed out there, or if its calls took more than
  five times the median of its peers' mean durations in one interval. Only replicas with at least 20 calls in the
  interval are compared.
* It is out for `base_ejection` seconds, twice as long each next time, up to `max_ejection`. Then it is *probed*: the
  first call that ends there decides whether it is back, or out again. Once it has been back for as long as it was out,
  it starts with the shortest time again.
* At most `max_percent` of the replicas are out. If one more would have to go, all serve (*panic*): if most replicas
  fail, the cause is probably elsewhere, and poor service is better than none.

Five failures in a row, the comparison every 10 s, the growing time up to 300 s and the share that may be out come from
Envoy; the one probe comes from Finagle.
"""

from __future__ import annotations

from math import floor
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.config.nested_keys import OutlierPolicy

__all__ = ["FEWEST_CALLS", "SLOWER", "AllServe", "CallRecord", "Ejected", "Outliers", "Probed", "Returned"]

#: A replica is ejected if it is this many times slower than its peers.
SLOWER: Final = 5.0

#: Calls that a replica must have in an interval for its durations to be compared.
FEWEST_CALLS: Final = 20


class Ejected(NamedTuple):
    """Send *replica* no calls before the time *until*, because of *reason*."""

    replica: str
    until: float
    reason: str


class Probed(NamedTuple):
    """Send *replica* calls again; the first call that ends there decides whether it stays."""

    replica: str
    reason: str


class Returned(NamedTuple):
    """*replica* is back: its probe succeeded."""

    replica: str
    reason: str


class AllServe(NamedTuple):
    """All replicas serve again, because too many would be out with *replica*."""

    replica: str
    reason: str


class CallRecord:
    """
    The record of one replica.

    Attributes:
        failures_in_row: Failures since the last success.
        calls: Calls in this interval without a failure of the replica.
        seconds: Their total duration.
        until: When it may be probed; None if it is not out.
        out_for: Length of its latest ejection, in seconds.
        returned_at: When it last came back.
        probes: Whether its next call decides.
    """

    __slots__ = ("calls", "failures_in_row", "out_for", "probes", "returned_at", "seconds", "until")

    def __init__(self) -> None:
        self.failures_in_row = 0
        self.calls = 0
        self.seconds = 0.0
        self.until: float | None = None
        self.out_for = 0.0
        self.returned_at = 0.0
        self.probes = False


class Outliers:
    """
    Watches one service's replicas.

    Not thread-safe: the caller must hold a lock, except for `succeeded`, where a lost duration does no harm. All times
    are readings of one clock, in seconds, and never go back.
    """

    def __init__(self, policy: OutlierPolicy, now: float) -> None:
        self._policy = policy
        self._records: dict[str, CallRecord] = {}
        self._began = now  # start of this interval

    def replicas_are(self, replicas: Iterable[str]) -> None:
        """Set the replicas that take calls, including those that are out. Other replicas are forgotten."""
        self._records = {id: self._records.get(id) or CallRecord() for id in replicas}

    @property
    def out(self) -> frozenset[str]:
        """The replicas that are out."""
        return frozenset(id for id, record in self._records.items() if record.until is not None)

    @property
    def probed(self) -> frozenset[str]:
        """The replicas whose next call decides."""
        return frozenset(id for id, record in self._records.items() if record.probes)

    @property
    def due(self) -> float:
        """When `look` compares durations next."""
        return self._began + self._policy.interval

    def record_of(self, replica: str) -> CallRecord:
        """Return the record of *replica*. The caller may add a success to `calls` and `seconds` directly."""
        return self._records[replica]

    def succeeded(self, replica: str, seconds: float, now: float) -> Returned | None:
        """Report that a call at *replica* ended after *seconds* without a failure of the replica."""
        record = self._records.get(replica)
        if record is None:
            return None
        record.failures_in_row = 0
        record.calls += 1
        record.seconds += seconds
        if not record.probes or record.until is not None:
            return None
        record.probes = False
        record.returned_at = now
        return Returned(replica, f"its probe succeeded in {seconds:.3g} s, after {record.out_for:g} s without calls")

    def failed(self, replica: str, now: float) -> Ejected | AllServe | None:
        """Report that a call has died or timed out at *replica*."""
        record = self._records.get(replica)
        if record is None or record.until is not None:  # a call from before it was ejected
            return None
        record.failures_in_row += 1
        if record.probes:
            return self._eject(replica, record, now, "its probe failed")
        if record.failures_in_row >= self._policy.consecutive:
            return self._eject(replica, record, now, f"{record.failures_in_row} calls in a row died or timed out")
        return None

    def look(self, now: float) -> list[Ejected | AllServe | Probed]:
        """Return what to do now: replicas to probe, and at the end of an interval replicas to eject."""
        found: list[Ejected | AllServe | Probed] = []
        for id, record in self._records.items():
            if record.until is not None and now >= record.until:
                record.until, record.failures_in_row, record.probes = None, 0, True
                found.append(Probed(id, f"it was out for {record.out_for:g} s; its next call decides"))
        if now >= self.due:
            found += self._compare(now)
            self._began = now
            for record in self._records.values():
                record.calls, record.seconds = 0, 0.0
        return found

    def next_return(self) -> float | None:
        """Return when the next replica may be probed; None if none is out."""
        return min((record.until for record in self._records.values() if record.until is not None), default=None)

    def _compare(self, now: float) -> list[Ejected | AllServe]:
        """Eject replicas that were far slower than their peers in this interval."""
        means = {
            id: record.seconds / record.calls
            for id, record in self._records.items()
            if record.until is None and record.calls >= FEWEST_CALLS
        }
        found = []
        for id, mean in means.items():
            peers = [other for each, other in means.items() if each != id]
            if peers and mean > SLOWER * median(peers):
                record = self._records[id]
                why = f"{record.calls} calls took {mean:.3g} s on average, those of its peers {median(peers):.3g} s"
                found.append(self._eject(id, record, now, why))
        return found

    def _eject(self, replica: str, record: CallRecord, now: float, why: str) -> Ejected | AllServe:
        policy, out, all_ = self._policy, len(self.out), len(self._records)
        if out + 1 > floor(all_ * policy.max_percent / 100):
            for each in self._records.values():
                each.until, each.failures_in_row, each.probes = None, 0, False
            return AllServe(replica, f"{why}; {out} of {all_} were out, and at most {policy.max_percent:g} % may be")
        steady = not record.probes and now - record.returned_at >= record.out_for
        record.out_for = policy.base_ejection if steady else min(2 * record.out_for, policy.max_ejection)
        record.until, record.failures_in_row, record.probes = now + record.out_for, 0, False
        return Ejected(replica, record.until, f"{why}; no calls for {record.out_for:g} s, {out + 1} of {all_} are out")
