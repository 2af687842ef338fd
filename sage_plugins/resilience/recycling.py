"""
Which replica is replaced by a fresh one although nothing is wrong with it.

A state machine without threads, timers or a clock of its own: it is told what is known of the replicas of one service,
and says which of them is due. `deployment.replicas.recycling` replaces that one.

* A replica is *due* when it has reached one of the limits: calls that it has ended, the memory of its process, or the
  time since it got ready. Of several the one that is furthest beyond its limit comes first.
* One is replaced at a time. The next is due once that has ended.
* After a replacement that failed there is a pause: 1 s, twice as long each time, 60 s at most. The waits are those of
  `restarts`.
* A replica that has too much memory within a minute of its start would be followed by another such. So the same pauses
  lie between them: a limit below what the service needs costs a start a minute, and not one a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sage_plugins.resilience.restarts import FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.config.nested_keys import RecyclePolicy

__all__ = ["Due", "Recycling", "Seen"]


class Seen(NamedTuple):
    """
    What is known of one replica that serves.

    Attributes:
        replica: Its id.
        calls: Calls that it has ended; None if that is not known.
        memory_mb: MiB of its process; None if that is not known.
        age: Seconds since it got ready.
    """

    replica: str
    calls: int | None
    memory_mb: float | None
    age: float


class Due(NamedTuple):
    """Replace *replica*, because of *reason*."""

    replica: str
    reason: str


class Recycling:
    """
    Decides about the replicas of one service.

    Not safe from several threads at once; who drives it has a lock. Times are readings of one clock, in seconds, and
    never go back.
    """

    def __init__(self, policy: RecyclePolicy) -> None:
        """Find none due yet; *policy* has the limits."""
        self._policy = policy
        self._busy = False  # whether a replica is being replaced
        self._is_in_vain = False  # whether the fresh one will most likely have as much memory as soon
        self._pause = 0.0  # the latest one, in seconds
        self._not_before = 0.0

    def look(self, replicas: Iterable[Seen], now: float) -> Due | None:
        """The replica that is to be replaced now; the next is given only after `replaced` or `failed`."""
        if self._busy or now < self._not_before:
            return None
        found = max((self._beyond(each) for each in replicas), default=(0.0, "", None), key=lambda each: each[0])
        share, reason, seen = found
        if seen is None or share < 1.0:
            return None
        self._busy = True
        most = self._policy.max_memory_mb
        self._is_in_vain = most is not None and (seen.memory_mb or 0.0) >= most and seen.age < STEADY_S
        return Due(seen.replica, reason)

    def is_reached(self, replicas: Iterable[Seen]) -> bool:
        """Whether one of *replicas* has reached a limit; decides nothing."""
        return any(self._beyond(each)[0] >= 1.0 for each in replicas)

    def replaced(self, now: float) -> None:
        """A fresh replica serves in its place, or nothing is to be replaced there any more."""
        self._busy = False
        if self._is_in_vain:
            self._wait(now)
        else:
            self._pause = 0.0

    def failed(self, now: float) -> float:
        """No fresh replica became ready; gives the seconds until one is due again."""
        self._busy = False
        self._wait(now)
        return self._pause

    def _wait(self, now: float) -> None:
        self._pause = min(max(FIRST_WAIT_S, 2 * self._pause), LONGEST_WAIT_S)
        self._not_before = now + self._pause

    def _beyond(self, seen: Seen) -> tuple[float, str, Seen]:
        """How much of a limit *seen* has reached, as a fraction, and which; of the one that is the furthest."""
        policy = self._policy
        reached = (
            _share("calls", seen.calls, policy.max_calls, "", "max_calls"),
            _share("memory", seen.memory_mb, policy.max_memory_mb, " MiB", "max_memory_mb"),
            _share("age", seen.age, policy.max_age, " s", "max_age"),
        )
        share, reason = max(reached)
        return share, reason, seen


def _share(what: str, found: float | None, limit: float | None, unit: str, key: str) -> tuple[float, str]:
    if found is None or limit is None:
        return 0.0, ""
    return found / limit, f"{what} {_shown(found)}{unit}, recycle.{key} is {_shown(limit)}{unit}"


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.1f}" if number >= 1 else f"{number:.3g}"
