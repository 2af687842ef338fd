"""The seat that a host gives its strategy: where workers fetch work, and how they do it."""

from __future__ import annotations

import threading
from functools import partial
from opcode import opmap
from typing import TYPE_CHECKING, Final

from sage_plugins.host.thread_worker import compose_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from sage_plugins.host.execution import Execution
    from sage_plugins.host.inbox import Inbox
    from sage_plugins.host.thread_loop import WorkerLoop
    from sage_plugins.interfaces import ReplicaEvents, Work
    from sage_plugins.values import ReplicaSpec

__all__ = ["HostHolds", "HostSeat"]

#: What a worker does that waits in `for work in iter(get, None)`. Python lets no other thread run between the end of
#: that step and the first of `execute`.
_FETCHES: Final = opmap["FOR_ITER"]

#: Modules whose code runs while a thread has a piece of work in its hands.
_AT_WORK: Final = frozenset(f"sage_plugins.host.{name}" for name in ("inbox", "loop_worker", "thread_worker"))


class HostHolds:
    """
    `interfaces.ReplicaHolds` for one host: what waits in its inbox, runs on its loop, or is in a thread's hands.

    Attributes:
        counts: As `ReplicaHolds.counts`.
        workers: The workers' threads, by identity; of each, whether it runs an event loop.
    """

    def __init__(self, inbox: Inbox, execution: Execution) -> None:
        """Say what *inbox* and *execution* hold."""
        self.counts: tuple[Callable[[], int], ...] = (inbox.size,)
        self.workers: dict[int, bool] = {}
        self._execution = execution
        self.nudge = inbox.nudge

    def on_loop(self) -> None:
        """Coroutines run on an event loop, rather than in the workers' hands."""
        execution = self._execution
        self.counts = (*self.counts, execution.tasks.__len__, execution.batch_tasks.__len__, execution.handed.__len__)

    def busy(self, stacks: Mapping[int, FrameType]) -> int:
        """As `ReplicaHolds.busy`."""
        return sum(self._is_busy(thread, innermost) for thread, innermost in stacks.items())

    def _is_busy(self, thread: int, innermost: FrameType) -> bool:
        ours = thread in self.workers
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_globals.get("__name__") in _AT_WORK and (
                ours or frame.f_locals.get("execution") is self._execution
            ):
                return True
            frame = frame.f_back
        return ours and not self.workers[thread] and innermost.f_code.co_code[innermost.f_lasti] != _FETCHES


class HostSeat:
    """`interfaces.LoopSeat` for one host; what its members do is said there."""

    def __init__(
        self, spec: ReplicaSpec, inbox: Inbox, execution: Execution, events: ReplicaEvents, loop: WorkerLoop
    ) -> None:
        self.name = spec.id
        self.limits = spec.limits
        self.get = inbox.get
        self.get_within = inbox.get_within
        self.get_nowait = inbox.get_nowait
        self.waiting = inbox.size
        self.worker = partial(compose_worker, execution)
        self._inbox = inbox
        self._execution = execution
        self._events = events
        self._loop = loop
        self.holds = HostHolds(inbox, execution)

    def end_worker(self) -> None:
        """Make one `get` return None."""
        self._inbox.put(None)

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Have *wake* called when there is work for the loop."""
        self._execution.on_loop = True
        self.holds.on_loop()
        self._inbox.notify(wake)

    def starter(self, in_thread: Callable[[Work], None]) -> Callable[[Work], bool]:
        """Gives what starts work as a task of the running loop."""
        from sage_plugins.host.loop_worker import compose_start  # imports asyncio

        self.holds.workers[threading.get_ident()] = True
        return compose_start(self._execution, self._events.follow, in_thread)

    async def steps_over(self) -> None:
        """Wait for the steps of the replica's life that were started."""
        import asyncio

        while steps := self._execution.steps:
            await asyncio.wait(steps)

    def spawn(self, run: Callable[[], None], suffix: str) -> threading.Thread:
        """Start a daemon thread, which closes its own event loop at the end."""
        # A daemon, because no stuck method may keep the interpreter from exiting.
        thread = threading.Thread(target=self._work, args=(run,), name=f"{self.name}-{suffix}", daemon=True)
        thread.start()
        return thread

    def _work(self, run: Callable[[], None]) -> None:
        self._loop.kept = True
        self.holds.workers[threading.get_ident()] = False
        try:
            run()
        finally:
            self._loop.close()
            del self.holds.workers[threading.get_ident()]
