"""Runs many coroutines at once on one event loop with its own thread, and other methods on helper threads."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from sage_deploy_threading.loop_waker import LoopWaker
from sage_deploy_threading.workers import DEFAULT_MOST, Workers, join_all
from sage_plugins.values import RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.interfaces import LoopSeat, Work

__all__ = ["EventLoop"]

#: Seconds after which an idle helper thread ends.
_IDLE_S = 30.0
#: Work items started in one turn of the loop, so that timers and sockets get their turn too.
_BURST = 128


class EventLoop:
    """Starts a thread with an event loop."""

    def start(self, seat: LoopSeat) -> _LoopRunner:
        """Start the loop. It builds the instance, and runs the hooks and all coroutines."""
        return _LoopRunner(seat)


class _LoopRunner:
    run_here = None

    def __init__(self, seat: LoopSeat) -> None:
        self.slots = seat.limits.max_concurrency
        self._seat = seat
        # Threads for methods that would block the loop. The first such method starts the first thread.
        self._blocking: SimpleQueue[Any] = SimpleQueue()
        self._helpers = Workers(
            seat,
            first=0,
            most=min(seat.limits.max_threads or DEFAULT_MOST, self.slots),
            idle_timeout=_IDLE_S,
            name="helper",
            queue=self._blocking,
        )
        self._loop = asyncio.new_event_loop()
        self._end = self._loop.create_future()
        self._start: Callable[[Work], bool]
        self._waker = LoopWaker(self._loop, self._fetch)
        seat.on_ready(self._waker.wake)
        self._thread = seat.spawn(self._serve, "loop")

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._start = self._seat.starter(self._in_thread)
        try:
            self._waker.wake()
            await self._end
            while self._seat.waiting():  # the end may overtake work that was announced before it
                self._fetch()
            await self._seat.steps_over()  # steps that are left after that are cancelled
        finally:
            self._waker.close()

    def _fetch(self) -> None:
        """Start the work that has arrived. The waker calls this on the loop."""
        get, start, waiting = self._seat.get_nowait, self._start, self._seat.waiting
        for _ in range(_BURST):
            if not waiting():
                break
            work = get()
            if work is not None and not start(work):
                self._in_thread(work)
        # Clear before the last look: if that finds nothing, the next work wakes the loop again.
        self._waker.clear()
        work = get()
        if work is not None:
            self._waker.wake()  # continue after the loop's other tasks
            if not start(work):
                self._in_thread(work)

    def _in_thread(self, work: Work) -> None:
        self._blocking.put(work)
        if not self._helpers.idle:
            self._helpers.grow()

    def stats(self) -> RunnerStats:
        return RunnerStats(threads=int(self._thread.is_alive()) + self._helpers.alive())

    def stop(self, grace: float) -> int:
        with suppress(RuntimeError):  # the loop is closed, so it has ended
            self._loop.call_soon_threadsafe(self._ended)
        helpers = self._helpers.end(lambda: self._blocking.put(None))
        return join_all([self._thread, *helpers], grace)

    def _ended(self) -> None:
        if not self._end.done():
            self._end.set_result(None)
