"""
Which replicas get no calls for a while, because they fail or are far slower than their peers.

A state machine without a clock of its own: it is told how calls ended at each replica, and says which are to be left
out and which are to return. `routing.guarding.ejecting` does so.

* A replica is *ejected* when `consecutive` calls in a row have died or timed out there, or when its calls took more
  than five times the median of its peers' mean durations in an interval in which it and they had 20 calls each.
* It is out for `base_ejection` seconds, twice as long each next time, and `max_ejection` at most. Then it is *probed*:
  the first call that ends there decides whether it is back, or out again. One that has been back for as long as it was
  out begins with the shortest time again.
* Never are more than `max_percent` of the replicas out. If one more would have to go, all serve (*panic*): where most
  fail it is not the replicas, and to serve badly is better than not at all.

Five failures in a row, the sweep every 10 s, the growing time up to 300 s and the share that may be out are Envoy's;
the one probe before a replica returns is Finagle's.
"""

from __future__ import annotations

from math import floor
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.config.nested_keys import OutlierPolicy

__all__ = ["FEWEST_CALLS", "SLOWER", "AllServe", "Ejected", "Outliers", "Probed", "Returned", "Seen"]

#: How many times slower than its peers a replica is that is ejected for that.
SLOWER: Final = 5.0

#: Calls that a replica must have had in an interval before its durations are compared.
FEWEST_CALLS: Final = 20


class Ejected(NamedTuple):
    """Send *replica* no calls until *until*, because of *reason*."""

    replica: str
    until: float
    reason: str


class Probed(NamedTuple):
    """Send *replica* calls again; the first that ends there decides."""

    replica: str
    reason: str


class Returned(NamedTuple):
    """*replica* is back."""

    replica: str
    reason: str


class AllServe(NamedTuple):
    """*replica* would be ejected, but then too many were out: none is, from now on."""

    replica: str
    reason: str


class Seen:
    """
    What is known of one replica.

    Attributes:
        row: Failures since the last success.
        calls: Calls of this interval that the replica did its part of.
        seconds: How long these took, all together.
        until: While it is out: until when.
        out_for: How long it was, or is, out.
        returned_at: When it came back last.
        probes: Whether its next call decides.
    """

    __slots__ = ("calls", "out_for", "probes", "returned_at", "row", "seconds", "until")

    def __init__(self) -> None:
        self.row = 0
        self.calls = 0
        self.seconds = 0.0
        self.until: float | None = None
        self.out_for = 0.0
        self.returned_at = 0.0
        self.probes = False


class Outliers:
    """
    Watches the replicas of one service.

    Not safe from several threads at once; who drives it has a lock. `succeeded` needs none: a duration that is lost
    changes nothing. All times are readings of one clock, in seconds, and never go back.
    """

    def __init__(self, policy: OutlierPolicy, now: float) -> None:
        """Know of no replica."""
        self._policy = policy
        self._seen: dict[str, Seen] = {}
        self._began = now  # of this interval

    def replicas_are(self, replicas: Iterable[str]) -> None:
        """These replicas take calls now, those that are out included; the others are forgotten."""
        self._seen = {id: self._seen.get(id) or Seen() for id in replicas}

    @property
    def out(self) -> frozenset[str]:
        """The replicas that are out."""
        return frozenset(id for id, seen in self._seen.items() if seen.until is not None)

    @property
    def probed(self) -> frozenset[str]:
        """The replicas whose next call decides."""
        return frozenset(id for id, seen in self._seen.items() if seen.probes)

    @property
    def due(self) -> float:
        """When durations are to be compared, by `look`."""
        return self._began + self._policy.interval

    def seen(self, replica: str) -> Seen:
        """What is known of *replica*: who sees a success there may count it in `calls` and `seconds` itself."""
        return self._seen[replica]

    def succeeded(self, replica: str, seconds: float, now: float) -> Returned | None:
        """A call has ended at *replica* after *seconds*, and the replica did its part."""
        seen = self._seen.get(replica)
        if seen is None:
            return None
        seen.row = 0
        seen.calls += 1
        seen.seconds += seconds
        if not seen.probes or seen.until is not None:
            return None
        seen.probes = False
        seen.returned_at = now
        return Returned(replica, f"its probe succeeded in {seconds:.3g} s, after {seen.out_for:g} s without calls")

    def failed(self, replica: str, now: float) -> Ejected | AllServe | None:
        """A call has died or timed out at *replica*."""
        seen = self._seen.get(replica)
        if seen is None or seen.until is not None:  # it is out: the call was made before
            return None
        seen.row += 1
        if seen.probes:
            return self._eject(replica, seen, now, "its probe failed")
        if seen.row >= self._policy.consecutive:
            return self._eject(replica, seen, now, f"{seen.row} calls in a row died or timed out")
        return None

    def look(self, now: float) -> list[Ejected | AllServe | Probed]:
        """What is to be done at the end of an interval, and where the time of a replica that is out is over."""
        found: list[Ejected | AllServe | Probed] = []
        for id, seen in self._seen.items():
            if seen.until is not None and now >= seen.until:
                seen.until, seen.row, seen.probes = None, 0, True
                found.append(Probed(id, f"it was out for {seen.out_for:g} s; its next call decides"))
        if now >= self.due:
            found += self._compare(now)
            self._began = now
            for seen in self._seen.values():
                seen.calls, seen.seconds = 0, 0.0
        return found

    def next_return(self) -> float | None:
        """When the first replica that is out is to be probed."""
        return min((seen.until for seen in self._seen.values() if seen.until is not None), default=None)

    def _compare(self, now: float) -> list[Ejected | AllServe]:
        """Eject those that were far slower than their peers in this interval."""
        means = {
            id: seen.seconds / seen.calls
            for id, seen in self._seen.items()
            if seen.until is None and seen.calls >= FEWEST_CALLS
        }
        found = []
        for id, mean in means.items():
            peers = [other for each, other in means.items() if each != id]
            if peers and mean > SLOWER * median(peers):
                seen = self._seen[id]
                why = f"{seen.calls} calls took {mean:.3g} s on average, those of its peers {median(peers):.3g} s"
                found.append(self._eject(id, seen, now, why))
        return found

    def _eject(self, replica: str, seen: Seen, now: float, why: str) -> Ejected | AllServe:
        policy, out, all_ = self._policy, len(self.out), len(self._seen)
        if out + 1 > floor(all_ * policy.max_percent / 100):
            for each in self._seen.values():
                each.until, each.row, each.probes = None, 0, False
            return AllServe(replica, f"{why}; {out} of {all_} were out, and at most {policy.max_percent:g} % may be")
        steady = not seen.probes and now - seen.returned_at >= seen.out_for
        seen.out_for = policy.base_ejection if steady else min(2 * seen.out_for, policy.max_ejection)
        seen.until, seen.row, seen.probes = now + seen.out_for, 0, False
        return Ejected(replica, seen.until, f"{why}; no calls for {seen.out_for:g} s, {out + 1} of {all_} are out")
