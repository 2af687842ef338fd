"""
Restart policy: decides when a replica that ended is started again, and when no longer.

A state machine without threads, timers or a clock. `deployment.replicas.supervision` reports what happens at each
position of a service, and carries out the decisions.

* A replica that had been ready is replaced at once. If replacements end too, each next start waits longer: 1 s, then
  twice as long each time, up to 60 s. A random part, at most half, is taken off each wait, so that the replicas of a
  dead node do not all start together; no wait is shorter than the one before. After 60 s of being ready, a replacement
  starts at once again.
* A start that fails, or ends before the replica was ready, is followed by another after the same waits. After five such
  starts within 60 s the position is in a *crash loop*, and nothing is started there any more.
* A replica that cannot be placed is tried again after the same waits, without limit, because nothing was started.

Five in 60 s is like the restart intensity of Erlang's supervisors, whose guide advises five in 30 s. The wait from 1 s
to 60 s is Kubernetes' back-off for crashing containers (KEP-4603). The random half is the "equal jitter" of Amazon's
Builders' Library.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from random import Random

__all__ = ["FIRST_WAIT_S", "LONGEST_WAIT_S", "MOST_STARTS", "STEADY_S", "WINDOW_S", "CrashLoop", "Restarts", "Start"]

#: Longest wait before the second start, in seconds; twice as long before each next one.
FIRST_WAIT_S: Final = 1.0

#: Longest wait before any start, in seconds.
LONGEST_WAIT_S: Final = 60.0

#: After a replica has been ready for this many seconds, earlier ends at its position no longer count.
STEADY_S: Final = 60.0

#: When this many starts at one position have failed within `WINDOW_S` seconds, it is in a crash loop.
MOST_STARTS: Final = 5

#: Seconds in which failed starts count towards a crash loop.
WINDOW_S: Final = 60.0


class Start(NamedTuple):
    """
    Start a replica.

    Attributes:
        index: Its position. Hides the method `index` of `NamedTuple`, which nothing uses here.
        at: When, as a reading of the clock's `monotonic()`; never in the past.
    """

    index: int  # type: ignore[assignment] # hides a method
    at: float


class CrashLoop(NamedTuple):
    """
    Start nothing any more at a position.

    Attributes:
        index: The position.
    """

    index: int  # type: ignore[assignment] # as in Start


class _Position:
    """The history of one position; empty at first."""

    def __init__(self) -> None:
        self.retries = 0  # starts that were decided since a replica was steady
        self.wait = 0.0  # before the last of them
        self.started_at = 0.0
        self.ready_at: float | None = None  # when the replica started last became ready; None before
        self.failed: deque[float] = deque(maxlen=MOST_STARTS)  # start times of replicas that were never ready
        self.loops = False


class Restarts:
    """
    Decides about one service's replicas.

    Not thread-safe: the caller must hold a lock. All times are readings of one clock, in seconds, and never go back. An
    unknown position counts as one that has had a steady replica until now.
    """

    def __init__(self, random: Random) -> None:
        """
        Start without any history.

        Args:
            random: Draws the random part of each wait; a seed makes the waits repeatable.
        """
        self._random = random
        self._positions: dict[int, _Position] = {}

    def started(self, index: int, now: float) -> None:
        """Report that a replica is being started."""
        position = self._position(index)
        position.started_at = now
        position.ready_at = None

    def ready(self, index: int, now: float) -> None:
        """Report that the replica started last is ready."""
        self._position(index).ready_at = now

    def died(self, index: int, now: float) -> Start | CrashLoop:
        """Decide what follows a replica that had been ready, and ended or has to be replaced."""
        position = self._position(index)
        if position.ready_at is not None and now - position.ready_at >= STEADY_S:
            position.retries, position.wait = 0, 0.0
        return self._again(index, position, now)

    def failed(self, index: int, now: float) -> Start | CrashLoop:
        """Decide what follows if the replica started last ended before it was ready."""
        position = self._position(index)
        position.failed.append(position.started_at)
        if len(position.failed) == MOST_STARTS and position.started_at - position.failed[0] <= WINDOW_S:
            position.loops = True
        position.retries = max(position.retries, 1)  # only a replica that has been ready is replaced at once
        return self._again(index, position, now)

    def unplaced(self, index: int, now: float) -> Start | CrashLoop:
        """Decide what follows if a replica could not be placed."""
        position = self._position(index)
        position.retries = max(position.retries, 1)
        return self._again(index, position, now)

    def stopped(self, index: int) -> None:
        """Forget a position that is no longer wanted, or gets a new replica by hand."""
        self._positions.pop(index, None)

    def _position(self, index: int) -> _Position:
        return self._positions.setdefault(index, _Position())

    def _again(self, index: int, position: _Position, now: float) -> Start | CrashLoop:
        if position.loops:
            return CrashLoop(index)
        if position.retries:
            # Without a limit on the exponent, the power would overflow after about 1,000 retries.
            longest = min(FIRST_WAIT_S * 2.0 ** min(position.retries - 1, 30), LONGEST_WAIT_S)
            position.wait = max(position.wait, self._random.uniform(longest / 2, longest))
        position.retries += 1
        return Start(index, now + position.wait)
