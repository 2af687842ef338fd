"""
Daemon threads of the core, for code that may never return.

They are daemons, so that a hanging function does not prevent the interpreter from exiting. A `ThreadPoolExecutor` would
prevent it, because its threads are joined at exit.
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
    Start a daemon thread that runs *body*. An exception goes to `threading.excepthook`.

    Args:
        body: The function to run.
        name: The thread's name.
        context: The context in which it runs; None for an empty one.

    Raises:
        RuntimeError: The system allows no more threads, or the interpreter is shutting down.
    """
    if context is None:
        thread = threading.Thread(target=body, name=name, daemon=True)
    else:
        thread = threading.Thread(target=context.run, args=(body,), name=name, daemon=True)
    thread.start()
    return thread


def future_of(body: Callable[[], _T], name: str, *, context: Context | None = None) -> Future[_T]:
    """
    Run *body* in a daemon thread; return a future with its result or exception. As `start_thread`.

    The future cannot be cancelled.
    """
    future: Future[_T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = body()
        except BaseException as error:  # noqa: BLE001 - the future raises it
            future.set_exception(error)
        else:
            future.set_result(result)

    start_thread(run, name, context=context)
    return future


def stacks() -> str:
    """Return the stacks of all threads of this process, as text, without the calling thread."""
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
    Runs functions on daemon threads. Most are short, but any of them may block.

    Functions start in the order in which they come, and none waits for an earlier one to end: before a thread runs a
    function, another thread waits for the next. Idle threads end after `IDLE_S` seconds. Safe from any thread, and from
    a signal handler.
    """

    IDLE_S: Final = 5.0

    def __init__(self, name: str) -> None:
        self._name = name
        self._restart()

    def _restart(self) -> None:
        self._changed = threading.Condition(threading.RLock())  # guards all attributes below
        self._handed_over: deque[Callable[[], None]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._called = False  # whether a thread was started or woken and has not yet looked for work
        self._resting = False

    def run(self, do: Callable[[], None]) -> None:
        """
        Run *do* on a thread. An exception is logged. Never blocks.

        Raises:
            RuntimeError: No thread can be started; *do* will not run.
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
        """End the idle threads now instead of after `IDLE_S` seconds."""
        with self._changed:
            self._resting = True
            self._changed.notify_all()
            idle = (
                [thread for thread in self._threads if thread is not threading.current_thread()] if self._idle else []
            )
        for thread in idle:
            thread.join(0.1)  # with a limit, because threads that run a function continue

    def after_fork(self) -> None:
        """Reset in a forked child: it has no threads, and a thread that does not exist there may have held the lock."""
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
        except BaseException:  # also that of a signal handler
            self._called = False
            raise

    def _work(self) -> None:
        while (do := self._next()) is not None:
            try:
                do()
            except BaseException:  # the functions after it must still run
                import logging

                logging.getLogger("sage_plugins").exception("what ran in '%s' raised", self._name)
            del do  # keep nothing alive while the thread waits for the next function

    def _next(self) -> Callable[[], None] | None:
        """Return the next function; None if the thread has been idle for `IDLE_S` seconds and must end."""
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
                with suppress(RuntimeError):  # no more threads: this thread runs it later
                    self._call_one()
            return do


#: Runs the done-callbacks of calls, in all environments of the process.
CALLBACKS: Final = ThreadsAside("sage-deploy-callbacks")

#: Runs the constructors and hooks of replicas that have no threads of their own. Separate from the callbacks, so that
#: these do not wait behind thousands of constructors.
HOOKS: Final = ThreadsAside("sage-deploy-hooks")
