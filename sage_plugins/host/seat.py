"""The seat that a host gives its strategy: through it, workers fetch work and run it."""

from __future__ import annotations

import threading
from contextvars import Context
from functools import partial
from operator import truth
from typing import TYPE_CHECKING

from sage_plugins.host.execution import WORK
from sage_plugins.host.thread_worker import compose_worker
from sage_plugins.threads import HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from sage_plugins.host.execution import Execution
    from sage_plugins.host.inbox import Inbox
    from sage_plugins.host.thread_loop import WorkerLoop
    from sage_plugins.interfaces import ReplicaEvents, Work
    from sage_plugins.values import ReplicaSpec

__all__ = ["HostHolds", "HostSeat"]


class HostHolds:
    """
    `interfaces.ReplicaHolds` for one host: counts work that waits in its inbox or runs on its loop or in a thread.
    """

    def __init__(self, inbox: Inbox, execution: Execution) -> None:
        self._inbox = inbox
        self._execution = execution
        self.nudge = inbox.nudge

    def counts(self) -> Sequence[Callable[[], int]]:
        """As `ReplicaHolds.counts`."""
        execution = self._execution
        at_work = partial(sum, map(truth, map(WORK, list(execution.workers))))
        on_loop = (execution.tasks, execution.batch_tasks, execution.handed)
        return (self._inbox.size, at_work, *(each.__len__ for each in on_loop))

    def workers(self) -> Callable[[], Iterable[tuple[Hashable, tuple[object, float]]]]:
        """As `ReplicaHolds.workers`."""
        return partial(list, self._execution.states())


class HostSeat:
    """`interfaces.LoopSeat` for one host; the interface documents the members."""

    def __init__(
        self, spec: ReplicaSpec, inbox: Inbox, execution: Execution, events: ReplicaEvents, loop: WorkerLoop
    ) -> None:
        self.name = spec.id
        self.limits = spec.limits
        self.get = inbox.get
        self.get_within = inbox.get_within
        self.get_nowait = inbox.get_nowait
        self.waiting = inbox.size
        self.when_unattended = inbox.when_unattended
        self.worker = partial(compose_worker, execution)
        self._inbox = inbox
        self._execution = execution
        self._events = events
        self._loop = loop
        self.holds = HostHolds(inbox, execution)

    def end_worker(self) -> None:
        """Make one `get` return None, which ends a worker."""
        self._inbox.put(None)

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Call *wake* when there is work for the loop."""
        self._execution.on_loop = True
        self._inbox.notify(wake)

    def starter(self, in_thread: Callable[[Work], None]) -> Callable[[Work], bool]:
        """Return a function that starts work as a task of the running loop."""
        from sage_plugins.host.loop_worker import compose_start  # imports asyncio

        return compose_start(self._execution, self._events.follow, in_thread)

    async def steps_over(self) -> None:
        """Wait for the life-cycle steps that have begun; run the stop hooks if none has begun them."""
        import asyncio

        if self._execution.stopping is not None:
            await self._execution.stopping.arun()  # as `Execution.end_worker`
        while steps := self._execution.steps:
            await asyncio.wait(steps)

    def spawn(self, run: Callable[[], None], suffix: str) -> threading.Thread:
        """Start a daemon thread, which closes its own event loop at the end."""
        # A daemon, because a stuck method must not keep the interpreter from exiting.
        thread = threading.Thread(target=self._work, args=(run,), name=f"{self.name}-{suffix}", daemon=True)
        thread.start()
        return thread

    def run_aside(self, run: Callable[[], None], suffix: str) -> None:
        """
        Call *run* soon in a thread that all replicas share; the thread has the replica's name meanwhile.

        Raises:
            RuntimeError: No thread can be started.
        """
        HOOKS.run(partial(Context().run, self._run_named, run, f"{self.name}-{suffix}"))

    def _run_named(self, run: Callable[[], None], name: str) -> None:
        thread = threading.current_thread()
        before, thread.name = thread.name, name
        try:
            self._work(run)
        finally:
            thread.name = before

    def _work(self, run: Callable[[], None]) -> None:
        self._loop.kept = True
        try:
            run()
        finally:
            self._loop.close()
