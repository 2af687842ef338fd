"""
Time, injected: the real clock here, a virtual one in `sage_deploy_testing`.

Deadlines are readings of `Clock.monotonic`, so a changed wall clock cannot move them. Everything that waits for a
moment asks the clock for a timer, so a test can run hours of it in virtual time.
"""

from __future__ import annotations

import logging
import threading
import time
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SYSTEM", "Clock", "SystemClock", "Timer"]


class Timer(Protocol):
    """A callback that is due at a moment."""

    def cancel(self) -> None:
        """Forget the callback; does nothing if it has already run. Safe from any thread, any number of times."""


class Clock(Protocol):
    """What the core knows of time."""

    monotonic: Callable[[], float]
    """Seconds since some moment in the past; never goes back."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """
        Run *callback* once `monotonic()` reaches *when*, on a thread of the clock's; it must be quick and not raise.
        """


class _Alarm:
    """One entry of the system clock's heap; cancelling empties it and leaves it to be dropped when it comes up."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class SystemClock:
    """
    The machine's monotonic clock.

    Timers run on one daemon thread, which is started by the first timer and ends when none has been set for `IDLE_S`
    seconds or when `rest` finds none, so a process that sets no timer has no thread, and no process is kept alive by
    one.
    """

    IDLE_S = 5.0

    def __init__(self) -> None:
        self.monotonic = time.monotonic
        self._order = count()  # breaks ties, so that two alarms never get compared
        # Taken by itself: in the middle of `Condition.__enter__` a signal's exception would leave it locked for ever.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._alarms: list[tuple[float, int, _Alarm]] = []  # guarded by _lock, as the next two
        self._thread: threading.Thread | None = None
        self._resting = False

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run *callback* at *when* on the clock's own thread."""
        alarm = _Alarm(callback)
        with self._lock:
            heappush(self._alarms, (when, next(self._order), alarm))
            self._resting = False
            if self._thread is None or not self._thread.is_alive():  # a signal may have kept it from starting
                self._start_thread()
            elif self._alarms[0][2] is alarm:
                self._condition.notify()
        return alarm

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="sage-deploy-clock", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            # From Python 3.12 on none can be started while the interpreter shuts down. No alarm would go off any more.
            if threading.main_thread().is_alive():
                raise

    def _run(self) -> None:
        while True:
            with self._lock:
                while self._alarms and self._alarms[0][2].callback is None:
                    heappop(self._alarms)
                if not self._alarms:
                    if self._resting or (not self._condition.wait(self.IDLE_S) and not self._alarms):
                        self._thread = None
                        return
                    continue
                when, _, alarm = self._alarms[0]
                remaining = when - self.monotonic()
                if remaining > 0:
                    self._condition.wait(min(remaining, threading.TIMEOUT_MAX))
                    continue
                heappop(self._alarms)
                callback = alarm.callback
            if callback is not None:
                try:
                    callback()
                except BaseException:  # one timer's fault must not stop all others
                    logging.getLogger("sage_plugins").exception("a timer's callback raised")

    def rest(self) -> None:
        """End the thread now if no timer is set, rather than after `IDLE_S` seconds; the next timer starts another."""
        with self._lock:
            thread = self._thread
            if thread is None or any(alarm.callback is not None for _, _, alarm in self._alarms):
                return
            self._alarms.clear()
            self._resting = True
            self._condition.notify()
        if thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """Start anew in a forked child, where the clock's thread does not exist and its lock may be held for ever."""
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._alarms = []
        self._thread = None
        self._resting = False


#: The clock of every environment that is not given another.
SYSTEM = SystemClock()
