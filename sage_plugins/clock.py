"""
The clock: time and timers. `sage_deploy_testing` has a virtual clock for tests.

Deadlines are values of `Clock.monotonic`, so changes of the wall clock do not move them. All code that waits for a time
uses a timer of the clock, so a test can run hours in virtual time.
"""

from __future__ import annotations

import logging
import threading
import time
from heapq import heapify, heappop, heappush
from itertools import count
from math import isnan
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_WAIT_S", "SYSTEM", "Clock", "SystemClock", "Timer", "checked_seconds"]

#: Longest timeout for one wait for a lock, in seconds.
MAX_WAIT_S: Final = threading.TIMEOUT_MAX / 2


class Timer(Protocol):
    """A callback that the clock will run at a set time."""

    def cancel(self) -> None:
        """Do not run the callback; no effect if it has already run. Idempotent; thread-safe."""


class Clock(Protocol):
    """The interface through which the core reads the time and sets timers."""

    monotonic: Callable[[], float]
    """Returns the seconds since some moment in the past; never goes back."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """
        Run *callback* on a thread of the clock when `monotonic()` reaches *when*. It must be quick and must not raise.
        """


class _Alarm:
    """An entry of the system clock's heap. A cancelled entry stays in the heap, empty, until `SystemClock._sweep`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class SystemClock:
    """
    The machine's monotonic clock.

    Timers run on one daemon thread, so they keep no process alive. The first timer starts the thread. The thread ends
    when no timer has been set for `IDLE_S` seconds, or when `rest` finds no timer.
    """

    IDLE_S = 5.0

    #: Number of entries at which the heap is swept for the first time.
    _FEW = 1_000

    def __init__(self) -> None:
        self.monotonic = time.monotonic
        self._order = count()  # breaks ties in the heap, because alarms cannot be compared
        # Used directly: an exception of a signal handler inside `Condition.__enter__` would leave it locked forever.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._alarms: list[tuple[float, int, _Alarm]] = []  # _lock guards this and the next three
        self._sweep_at = self._FEW
        self._thread: threading.Thread | None = None
        self._resting = False

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """As `Clock.call_at`."""
        alarm = _Alarm(callback)
        with self._lock:
            heappush(self._alarms, (when, next(self._order), alarm))
            self._resting = False
            if self._thread is None or not self._thread.is_alive():  # a signal handler may have interrupted its start
                self._start_thread()
            elif self._alarms[0][2] is alarm or len(self._alarms) >= self._sweep_at:
                self._condition.notify()
        return alarm

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="sage-deploy-clock", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            # Since Python 3.12, no thread can start while the interpreter shuts down. Timers do not matter then.
            if threading.main_thread().is_alive():
                raise

    def _run(self) -> None:
        while True:
            with self._lock:
                if len(self._alarms) >= self._sweep_at:
                    self._sweep()
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
                except BaseException:  # other timers must still run
                    logging.getLogger("sage_plugins").exception("a timer's callback raised")

    def _sweep(self) -> None:
        """
        Remove cancelled entries, whose time may be far away; under the lock.

        Only on the clock's thread: a signal handler could set a timer in the middle of this on the main one.
        """
        self._alarms = [each for each in self._alarms if each[2].callback is not None]
        heapify(self._alarms)
        self._sweep_at = max(self._FEW, 2 * len(self._alarms))

    def rest(self) -> None:
        """End the thread now if no timer is set, instead of after `IDLE_S` seconds. The next timer starts a new one."""
        with self._lock:
            thread = self._thread
            if thread is None or any(alarm.callback is not None for _, _, alarm in self._alarms):
                return
            self._alarms.clear()
            self._resting = True
            self._condition.notify()
        if thread is not threading.current_thread():
            thread.join(0.5)  # with a limit, because a signal handler may have interrupted this thread inside the lock

    def after_fork(self) -> None:
        """Reset in a forked child: the clock's thread does not exist there, and its lock may be held forever."""
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._alarms = []
        self._thread = None
        self._resting = False


def checked_seconds(given: Any, name: str, hint: str = "") -> float:
    """
    Return *given* as seconds to wait: at least 0, and at most `MAX_WAIT_S`, also for inf.

    Args:
        given: What the user gave.
        name: What it is, for the message.
        hint: Added to the message.

    Raises:
        TypeError: *given* is no number.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float)) or (isinstance(given, float) and isnan(given)):
        msg = f"{name} must be a number of seconds, or None, got {given!r:.50}{hint}"
        raise TypeError(msg)
    return min(max(0.0, given), MAX_WAIT_S)


#: The default clock of environments.
SYSTEM = SystemClock()
