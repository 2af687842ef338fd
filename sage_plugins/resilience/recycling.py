"""
Decides which replica is recycled: replaced by a fresh one although it is healthy.

A state machine without threads, timers or a clock. `deployment.replicas.recycling` reports measurements of the replicas
of one service, and replaces the one that is due.

* A replica is *due* when it has reached a limit: number of ended calls, memory of its process, or time since it was
  ready. Of several replicas, the one furthest beyond its limit comes first.
* One replica is replaced at a time. No other is due before that has ended.
* After a failed replacement there is a pause: 1 s, twice as long each time, at most 60 s. The waits are those of
  `restarts`.
* If a replica reaches the memory limit within a minute, its replacement will probably do so too. So the same pauses
  follow: a limit below what the service needs costs one start a minute, not one a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sage_plugins.resilience.restarts import FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.config.nested_keys import RecyclePolicy

__all__ = ["Due", "Recycling", "ReplicaUsage"]


class ReplicaUsage(NamedTuple):
    """
    Measurements of one replica that serves.

    Attributes:
        replica: Its ID.
        calls: Number of calls that it has ended; None if unknown.
        memory_mb: Memory of its process in MiB; None if unknown.
        age: Seconds since it became ready.
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
    Decides about one service's replicas.

    Not thread-safe: the caller must hold a lock. Times are readings of one clock, in seconds, and never go back.
    """

    def __init__(self, policy: RecyclePolicy) -> None:
        self._policy = policy
        self._busy = False  # whether a replica is being replaced
        self._limit_is_too_low = False  # whether its replacement will probably reach the memory limit as fast
        self._pause = 0.0  # the latest pause, in seconds
        self._not_before = 0.0

    def look(self, replicas: Iterable[ReplicaUsage], now: float) -> Due | None:
        """Return the replica to replace now. Returns no other before `replaced` or `failed` is called."""
        if self._busy or now < self._not_before:
            return None
        found = max((self._beyond(each) for each in replicas), default=(0.0, "", None), key=lambda each: each[0])
        share, reason, usage = found
        if usage is None or share < 1.0:
            return None
        self._busy = True
        most = self._policy.max_memory_mb
        self._limit_is_too_low = most is not None and (usage.memory_mb or 0.0) >= most and usage.age < STEADY_S
        return Due(usage.replica, reason)

    def is_reached(self, replicas: Iterable[ReplicaUsage]) -> bool:
        """Whether one of *replicas* has reached a limit; decides nothing."""
        return any(self._beyond(each)[0] >= 1.0 for each in replicas)

    def replaced(self, now: float) -> None:
        """Report that a fresh replica serves in its place, or that no replacement is needed any more."""
        self._busy = False
        if self._limit_is_too_low:
            self._wait(now)
        else:
            self._pause = 0.0

    def failed(self, now: float) -> float:
        """Report that no fresh replica became ready. Return the length of the pause, in seconds."""
        self._busy = False
        self._wait(now)
        return self._pause

    def _wait(self, now: float) -> None:
        self._pause = min(max(FIRST_WAIT_S, 2 * self._pause), LONGEST_WAIT_S)
        self._not_before = now + self._pause

    def _beyond(self, usage: ReplicaUsage) -> tuple[float, str, ReplicaUsage]:
        """Return how much of its nearest limit *usage* has reached, as a fraction, and the reason as text."""
        policy = self._policy
        reached = (
            _share("calls", usage.calls, policy.max_calls, "", "max_calls"),
            _share("memory", usage.memory_mb, policy.max_memory_mb, " MiB", "max_memory_mb"),
            _share("age", usage.age, policy.max_age, " s", "max_age"),
        )
        share, reason = max(reached)
        return share, reason, usage


def _share(what: str, found: float | None, limit: float | None, unit: str, key: str) -> tuple[float, str]:
    if found is None or limit is None:
        return 0.0, ""
    return found / limit, f"{what} {_shown(found)}{unit}, recycle.{key} is {_shown(limit)}{unit}"


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.1f}" if number >= 1 else f"{number:.3g}"
