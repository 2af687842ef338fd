"""
When a replica that ended is started again, and when no more.

A state machine without threads, timers or a clock of its own: it is told what became of the replica at each position of
a service, and when, and says what is to be done. `deployment.replicas.supervision` does it.

* A replica that had been ready is replaced at once. If its successors end as well, each next start waits longer: 1 s,
  then twice as long each time, up to 60 s. Of each wait a random part, at most half, is left out, so that the replicas
  of a node that died do not all come back in the same moment; no wait is shorter than the one before it. One that has
  been ready for 60 s has made good for those before it.
* A start that fails, or ends before the replica was ready, is followed by another in the same way. After five of them
  within 60 s the position is in a *crash loop*, and nothing is started there any more.
* Where a replica cannot be placed it is tried again in the same way, and for ever: nothing was started.

Five in 60 s is the restart intensity of Erlang's supervisors, who advise as many within 30 s. From 1 s to 60 s is the
back-off of Kubernetes for containers that crash (KEP-4603); half of it random is the "equal jitter" of Amazon's
Builders' Library.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from random import Random

__all__ = ["FIRST_WAIT_S", "LONGEST_WAIT_S", "MOST_STARTS", "STEADY_S", "WINDOW_S", "CrashLoop", "Start", "Supervisor"]

#: Seconds before a second start, at most; twice as many before each next one.
FIRST_WAIT_S: Final = 1.0

#: Seconds before a start, whatever has happened.
LONGEST_WAIT_S: Final = 60.0

#: Seconds for which a replica must have been ready, so that its end is a first one again.
STEADY_S: Final = 60.0

#: Starts at one position that may fail within `WINDOW_S` seconds; with the last of them it is in a crash loop.
MOST_STARTS: Final = 5

#: Seconds.
WINDOW_S: Final = 60.0


class Start(NamedTuple):
    """
    Start a replica.

    Attributes:
        index: Its position; a `NamedTuple` has a method of that name, which nobody needs of this one.
        at: When, as the clock's `monotonic()` has it; not before now.
    """

    index: int  # type: ignore[assignment] # as said above
    at: float


class CrashLoop(NamedTuple):
    """
    Start nothing any more at a position.

    Attributes:
        index: Which.
    """

    index: int  # type: ignore[assignment] # as in Start


class _Position:
    """What is known of one position; nothing has happened there yet."""

    def __init__(self) -> None:
        self.retries = 0  # starts that were asked for since a replica was steady
        self.wait = 0.0  # before the last of them
        self.started_at = 0.0
        self.ready_at: float | None = None  # None before the last one started was ready
        self.failed: deque[float] = deque(maxlen=MOST_STARTS)  # when those were started that were never ready
        self.loops = False


class Supervisor:
    """
    Decides about the replicas of one service.

    Not safe from several threads at once; who drives it has a lock. All times are readings of one clock, in seconds,
    and never go back.

    A position that it has not heard of has had a steady replica until now.
    """

    def __init__(self, random: Random) -> None:
        """
        Know of nothing yet.

        Args:
            random: Draws the part of a wait that is left out; seed it to have the same course of events again.
        """
        self._random = random
        self._positions: dict[int, _Position] = {}

    def started(self, index: int, now: float) -> None:
        """A replica is being started."""
        position = self._position(index)
        position.started_at = now
        position.ready_at = None

    def ready(self, index: int, now: float) -> None:
        """The replica that was started last is ready."""
        self._position(index).ready_at = now

    def died(self, index: int, now: float) -> Start | CrashLoop:
        """A replica that had been ready ended, or has to be replaced for another reason: another one is due."""
        position = self._position(index)
        if position.ready_at is not None and now - position.ready_at >= STEADY_S:
            position.retries, position.wait = 0, 0.0
        return self._again(index, position, now)

    def failed(self, index: int, now: float) -> Start | CrashLoop:
        """The replica that was started last ended before it was ready."""
        position = self._position(index)
        position.failed.append(position.started_at)
        if len(position.failed) == MOST_STARTS and position.started_at - position.failed[0] <= WINDOW_S:
            position.loops = True
        position.retries = max(position.retries, 1)  # only who has been ready is followed at once
        return self._again(index, position, now)

    def unplaced(self, index: int, now: float) -> Start | CrashLoop:
        """A replica that was due could not be placed; nothing was started."""
        position = self._position(index)
        position.retries = max(position.retries, 1)
        return self._again(index, position, now)

    def stopped(self, index: int) -> None:
        """The position is not wanted any more, or is given to a new replica by hand: forget what was."""
        self._positions.pop(index, None)

    def _position(self, index: int) -> _Position:
        return self._positions.setdefault(index, _Position())

    def _again(self, index: int, position: _Position, now: float) -> Start | CrashLoop:
        if position.loops:
            return CrashLoop(index)
        if position.retries:
            # The exponent is bounded, or it would be a number without end after a week.
            longest = min(FIRST_WAIT_S * 2.0 ** min(position.retries - 1, 30), LONGEST_WAIT_S)
            position.wait = max(position.wait, self._random.uniform(longest / 2, longest))
        position.retries += 1
        return Start(index, now + position.wait)
