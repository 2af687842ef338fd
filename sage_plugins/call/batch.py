"""
Calls of one method that are answered together.

A batch takes one slot. A worker that gets free takes the calls that wait, as many as fit, and runs them at once. A call
that comes while a worker is idle opens a batch, and its worker waits for others to join: until the batch is full or its
time is over, and never so long that a call in it would miss its own.
"""

from __future__ import annotations

import inspect
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from sage_plugins.call.lazy_future import MAX_WAIT_S, closed_lock, open_lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.values import BatchPlan, MethodPlan

__all__ = ["Batch", "binder"]


class Batch:
    """
    One piece of work made of several calls.

    A target that runs it elsewhere claims each of `calls`, tells `owner.batch_started`, and ends each call by itself.

    Attributes:
        owner: The router that made it.
        method: The method that the callers called.
        plan: How its calls are answered together.
        calls: Those in the batch, in the order in which they came; none joins once it is closed.
        running: How many of them were started, the rest having been given up; -1 before. Guarded by the router's lock.
        abandoned: How many of those were given up since; likewise.
    """

    __slots__ = (
        "_clock",
        "_close",
        "_closed",
        "_until",
        "_wake",
        "abandoned",
        "calls",
        "method",
        "owner",
        "plan",
        "running",
    )

    expires = -inf  # so that `execute` takes it aside without a question of its own

    def __init__(self, calls: list[Call], clock: Clock) -> None:
        """Make a batch of *calls*, at least one, that nobody joins."""
        self.owner = calls[0].owner
        self.method: MethodPlan = calls[0].method
        self.plan: BatchPlan = self.method.batch  # type: ignore[assignment] # only calls of such methods get here
        self.calls = calls
        self.running = -1
        self.abandoned = 0
        self._clock = clock
        self._closed = True
        self._until = inf
        self._wake: Callable[[], None] | None = None
        self._close: Callable[[Batch], None]
        for call in calls:
            call.batch = self

    @property
    def lane(self) -> Any:
        """Where it runs."""
        return self.calls[0].lane

    # -- the router's side, under its lock ---------------------------------------------------------------------------

    def open(self, close: Callable[[Batch], None]) -> None:
        """Let others join from now on; *close*, called without the lock, must end that by calling `closed`."""
        self._close = close
        self._closed = False
        self._until = self._clock.monotonic() + self.plan.wait
        self._hurry(self.calls[0])

    def join(self, call: Call) -> bool:
        """Take *call* in; True if the batch is full with it."""
        if len(self.calls) + 1 >= self.plan.size:
            self.calls = [each for each in self.calls if not each.settled()]
        self.calls.append(call)
        call.batch = self
        if len(self.calls) >= self.plan.size:
            return True
        if self._hurry(call):
            self._wake_worker()
        return False

    def started(self, number: int) -> int:
        """So many calls of it run, the others had been given up; gives the change as `count_abandoned` does."""
        before = self._all_abandoned
        self.running = number
        return self._all_abandoned - before

    def count_abandoned(self, change: int) -> int:
        """So many of its calls more or less are abandoned; how many slots more or less that makes."""
        before = self._all_abandoned
        self.abandoned += change
        return self._all_abandoned - before

    @property
    def _all_abandoned(self) -> bool:
        """Whether its slot is held by nothing but abandoned calls."""
        return 0 < self.running == self.abandoned

    def closed(self) -> None:
        """Nobody joins any more."""
        self._closed = True
        self._wake_worker()

    @property
    def is_closed(self) -> bool:
        """Whether nobody joins any more."""
        return self._closed

    def _hurry(self, call: Call) -> bool:
        """Wait for others at most half of the time that *call* has left; True if that is sooner than before."""
        now = self._clock.monotonic()
        latest = now + (call.expires - now) / 2
        if latest >= self._until:
            return False
        self._until = latest
        return True

    # -- the worker's side -------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Wait until the batch is closed."""
        while not self._closed:
            latch = closed_lock()
            self._wake = partial(open_lock, latch)
            remaining = self._remaining()
            if remaining > 0:
                latch.acquire(timeout=min(remaining, MAX_WAIT_S))

    def watch(self, wake: Callable[[], None]) -> float:
        """
        `gather` for a worker that cannot wait here: seconds after which it looks again, 0 once the batch is closed.

        *wake* is called, from any thread and perhaps under the router's lock, when it may look sooner.
        """
        self._wake = wake
        return 0.0 if self._closed else max(0.0, self._remaining())

    async def agather(self) -> None:
        """`gather` for coroutines."""
        from sage_plugins.call.aio import wait_until, wake_up

        while not self._closed:
            woken, self._wake = wake_up()
            remaining = self._remaining()
            if remaining > 0:
                await wait_until(woken, remaining)

    def _remaining(self) -> float:
        """Seconds to wait for others; closes the batch if there are none."""
        remaining = 0.0 if self._closed else self._until - self._clock.monotonic()
        if remaining <= 0:
            self._close(self)
        return remaining

    def _wake_worker(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()


def binder(method: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]:
    """
    What gives a value for each parameter of *method*, from a call's arguments; raises TypeError if they do not fit.
    """
    signature = inspect.signature(method)
    number = len(signature.parameters)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if not kwargs and len(args) == number:
            return args
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    return bind
