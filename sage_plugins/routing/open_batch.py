"""A batch that more calls may still join."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock, Timer

__all__ = ["OpenBatch"]


class OpenBatch:
    """
    Calls of one method that hold a slot and wait in the router for more calls.

    It closes when it is full or its time is over. It waits at most half of the time that any of its calls has left.
    Everything here is guarded by the router's lock.

    Attributes:
        method: The method that the callers called.
        plan: How its calls are answered together.
        calls: Its calls, in the order in which they came.
        until: `monotonic()` at which it closes if it is not full before.
    """

    __slots__ = ("_clock", "_is_over", "_timer", "calls", "method", "plan", "until")

    def __init__(self, call: Call, clock: Clock, is_over: Callable[[OpenBatch], None]) -> None:
        """Open a batch with *call*. *is_over* is called on the clock's thread, without the lock, when it must close."""
        assert call.method.batch is not None  # noqa: S101 - for the type checker: only calls of such methods get here
        self.method = call.method
        self.calls = [call]
        self._clock = clock
        self._is_over = is_over
        self.plan = call.method.batch
        self.until = clock.monotonic() + self.plan.wait
        self._timer: Timer | None = None
        self._hurry(call)

    def join(self, call: Call) -> bool:
        """Add *call*; True if the batch is full now."""
        if len(self.calls) + 1 >= self.plan.size:
            self.calls = [each for each in self.calls if not each.settled()]
        self.calls.append(call)
        if len(self.calls) >= self.plan.size:
            return True
        self._hurry(call)
        return False

    def close(self) -> list[Call]:
        """Stop waiting for more calls, and return the calls."""
        if self._timer is not None:
            self._timer.cancel()
        return self.calls

    def _hurry(self, call: Call) -> None:
        """Wait for more calls at most half of the time that *call* has left to start."""
        now = self._clock.monotonic()
        latest = min(self.until, now + (call.expires - now) / 2)
        if self._timer is None or latest < self.until:
            if self._timer is not None:
                self._timer.cancel()
            self.until = latest
            self._timer = self._clock.call_at(latest, lambda: self._is_over(self))
