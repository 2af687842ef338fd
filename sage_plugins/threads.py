"""
Threads of ours that run what may never return: they wait for nobody, and nobody waits for them.

They are daemons, because what hangs must not keep the interpreter from exiting. For the same reason this is no
`ThreadPoolExecutor`: its threads are joined at exit.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

__all__ = ["CALLBACKS", "HOOKS", "ThreadsAside", "future_of", "stacks", "start_thread"]

_T = TypeVar("_T")


def start_thread(body: Callable[[], Any], name: str, *, context: Context | None = None) -> threading.Thread:
    """
    Run *body* in a daemon thread. What it raises goes to `threading.excepthook`.

    Args:
        body: What to run.
        name: Name of the thread.
        context: Context variables to run it in; None for none.

    Raises:
        RuntimeError: There can be no more threads, or the interpreter is shutting down.
    """
    if context is None:
        thread = threading.Thread(target=body, name=name, daemon=True)
    else:
        thread = threading.Thread(target=context.run, args=(body,), name=name, daemon=True)
    thread.start()
    return thread


def future_of(body: Callable[[], _T], name: str, *, context: Context | None = None) -> Future[_T]:
    """
    Run *body* in a daemon thread; its result, or what it raises, is the future's. See `start_thread`.

    The future cannot be cancelled.
    """
    future: Future[_T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = body()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever reads the future
            future.set_exception(error)
        else:
            future.set_result(result)

    start_thread(run, name, context=context)
    return future


def stacks() -> str:
    """Where all threads of this process are, as text; the one that asks is left out."""
    import sys
    import traceback

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    asking = threading.get_ident()
    frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != asking}  # noqa: SLF001 - there is no other way
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames.items()
    )


class ThreadsAside:
    """
    Daemon threads for many short things, each of which may take its time all the same.

    What is handed over is begun in its order. It waits for nothing that was begun before: a thread that takes something
    up leaves another to look for the next. So there is one thread more than things that run; idle ones end after
    `IDLE_S` seconds. Safe from any thread, and from a signal handler.
    """

    IDLE_S: Final = 5.0

    def __init__(self, name: str) -> None:
        """Start no thread yet; *name* is what the threads are called."""
        self._name = name
        self._restart()

    def _restart(self) -> None:
        self._changed = threading.Condition(threading.RLock())  # guards all below
        self._handed_over: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._called = False  # whether a thread is on its way to look for work
        self._resting = False

    def run(self, do: Callable[[], None]) -> None:
        """
        Have a thread run *do*; what it raises is logged. Never blocks.

        Raises:
            RuntimeError: No thread can be started, and *do* will not be run.
        """
        with self._changed:
            self._handed_over.append(do)
            self._resting = False
            try:
                self._call_one()
            except RuntimeError:
                self._handed_over.remove(do)
                raise

    def rest(self) -> None:
        """End the idle threads now, rather than after `IDLE_S` seconds."""
        with self._changed:
            self._resting = True
            self._changed.notify_all()
            idle = (
                [thread for thread in self._threads if thread is not threading.current_thread()] if self._idle else []
            )
        for thread in idle:
            thread.join(0.1)  # one that runs something goes on

    def after_fork(self) -> None:
        """In a forked child: there are no threads, and one that is not here may have held the lock."""
        self._restart()

    def _call_one(self) -> None:
        if self._called:
            return
        self._called = True
        if self._idle:
            self._changed.notify()
            return
        try:
            self._threads.add(start_thread(self._work, self._name))
        except RuntimeError:
            self._called = False
            raise

    def _work(self) -> None:
        while (do := self._next()) is not None:
            try:
                do()
            except BaseException:  # one fault must not end what comes after it
                import logging

                logging.getLogger("sage_plugins").exception("what ran in '%s' raised", self._name)
            del do  # until the next comes, nothing may be kept alive

    def _next(self) -> Callable[[], None] | None:
        """What is to be run; None if there has been nothing for so long that the thread may end."""
        with self._changed:
            while not self._handed_over:
                self._called = False
                self._idle += 1
                woken = not self._resting and self._changed.wait(self.IDLE_S)
                self._idle -= 1
                if not woken and not self._handed_over:
                    self._threads.discard(threading.current_thread())
                    return None
            self._called = False
            do = self._handed_over.popleft()
            if self._handed_over:
                with suppress(RuntimeError):  # there can be no more threads: this one comes to it
                    self._call_one()
            return do


#: Runs the done-callbacks of calls, in all environments of the process.
CALLBACKS: Final = ThreadsAside("sage-deploy-callbacks")

#: Runs the constructors and hooks of replicas that have no threads of their own. Apart from the callbacks, which would
#: have to wait for thousands of constructors.
HOOKS: Final = ThreadsAside("sage-deploy-hooks")
