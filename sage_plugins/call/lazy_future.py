"""
A future that creates its lock, condition and callback lists only when they are needed.

Most calls have one waiter or none. `docs/design/call-as-future.md` says what this saves.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.clock import MAX_WAIT_S
from sage_plugins.errors import CallCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.owner import CallOwner
    from sage_plugins.clock import Timer

__all__ = [
    "CANCELLED",
    "FINISHED",
    "WONDERS_AFTER_S",
    "LazyFuture",
    "after_fork",
    "closed_lock",
    "open_lock",
]

# Values of `LazyFuture._over` once the future is over.
FINISHED: Final = 1  # with a result or an exception
CANCELLED: Final = 2

#: Seconds after which a waiting caller reports work that has not started as perhaps lost.
WONDERS_AFTER_S: Final = 0.25

# Guards the creation of a latch and of `_Shared`. Re-entrant: a signal handler may close an environment while this
# thread holds it.
_MAKING = threading.RLock()


def after_fork() -> None:
    """In a forked child: renew the lock, which a missing thread may hold."""
    global _MAKING  # noqa: PLW0603 - the process is a new one
    _MAKING = threading.RLock()


class _Shared:
    """The state of a call that has more than one plain waiter."""

    __slots__ = ("callbacks", "condition", "listeners", "timer", "told", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []  # guarded by condition; the protocol of concurrent.futures.wait
        self.told = False  # whether the waiters were told that the call is over; guarded by condition
        self.callbacks: list[Callable[[Any], Any]] = []  # the user's callbacks; one `pop` takes each exactly once
        self.listeners: list[Callable[[Any], Any]] = []  # internal callbacks, which are quick; taken as above
        self.timer: Timer | None = None


class _Settled:
    """Replaces the latch: instead of waking a thread, it calls a function."""

    __slots__ = ("release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self.release = release


class LazyFuture(Future[Any]):
    """
    The future half of a `Call`: stores the outcome and wakes the waiters.

    `Call` implements the abstract methods, which decide when it ends.
    """

    __slots__ = ("_exception", "_latch", "_over", "_result")

    owner: CallOwner
    deadline: float
    expires: float

    # Rarely needed, so it has no slot: it enters the instance's __dict__ when it is set.
    _shared: _Shared | None = None

    def __init__(self) -> None:
        """Do nothing: `Call` sets the slots itself, because one more frame would cost every call."""

    def settled(self) -> bool:
        """Whether the outcome is decided; it may not be published yet."""
        raise NotImplementedError

    def unstarted(self) -> bool:
        """Whether no thread has started the work."""
        raise NotImplementedError

    def runs(self) -> bool:
        """Whether the work has started and goes on, as far as is known."""
        raise NotImplementedError

    def expire(self) -> bool:
        """End the call if its time is over; True if the call is over after this."""
        raise NotImplementedError

    # -- the outcome -------------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether the outcome is published; unlike `done`, this does not check the deadline."""
        return self._over != 0

    def exception_now(self) -> BaseException | None:
        """Return the exception with which the call ended; only once it is over. Unlike `exception`, it never raises."""
        return self._exception

    def result_now(self) -> Any:
        """Return the result; only once the call is over without an exception, which this does not check."""
        return self._result

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        """Store the outcome and wake every waiter; only for the thread that got True from `claim_outcome`."""
        told = self.owner.on_result if error is None else self.owner.on_error
        if told is not None:
            told(self, error)
        self._result = result
        self._exception = error
        self._over = CANCELLED if type(error) is CallCancelledError else FINISHED
        # A waiter makes the latch and then reads `_over`; this thread does the reverse. So one of them sees the other.
        if self._latch is not None:
            self.release()

    def release(self) -> None:
        """Wake all waiters, after the outcome was stored."""
        shared = self._shared
        if shared is not None:
            self._tell(shared)
        open_lock(self._latch)
        if shared is not None:
            self._run(shared.listeners)
            if shared.callbacks:
                # In another thread: callbacks may never return, and this may be a worker, the clock or another caller.
                try:
                    self.owner.aside(lambda: self._run(shared.callbacks))
                except RuntimeError:  # no thread can be started, and this one must go on
                    self._run(shared.callbacks)

    def on_settled(self, tell: Callable[[], None]) -> None:
        """
        Call *tell* once, in the thread that ends the call, before any other callback.

        For an owner that passes the outcome on to waiters in another process. No thread of this process may wait for
        the call then. Set it before the call is sent. *tell* must not raise.
        """
        settled: Any = _Settled(tell)
        self._latch = settled

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _wait_for(self, latch: threading.Lock, give_in: float) -> bool:
        """
        Wait for *latch*, at most until *give_in* or the call's own limit; False if the call is not over by then.
        """
        clock = self.owner.clock
        # `expires` no longer applies once the call has started.
        until = self.expires if self.expires == self.deadline or self.unstarted() else self.deadline
        until = min(until, give_in)
        if until == inf:
            return latch.acquire()
        remaining = until - clock.monotonic()
        if remaining > 0 and latch.acquire(timeout=min(remaining, MAX_WAIT_S)):
            return True
        if self.expire():
            return True
        # Another thread may have decided the outcome just now, and publishes it.
        return self.settled() and latch.acquire(timeout=WONDERS_AFTER_S)

    def _wait(self, timeout: float | None) -> bool:
        """Wait at most *timeout* seconds and never past the deadline; True if the call is over."""
        return self._wait_until(inf if timeout is None else self.owner.clock.monotonic() + timeout)

    def _wait_some_time(self, latch: threading.Lock, give_in: float) -> bool:
        """`_wait_for`, but if the work has not started after some time, report it as perhaps lost and return False."""
        if self.runs():
            return self._wait_for(latch, give_in)
        soon = self.owner.clock.monotonic() + WONDERS_AFTER_S
        if self._wait_for(latch, min(give_in, soon)):
            return True
        if soon < give_in:
            self.owner.suspect_loss_of(self)
        return False

    def _wait_until(self, give_in: float) -> bool:
        while not self._over:
            latch = self._latch
            if latch is None:
                self._make_latch()
                continue
            if self._wait_some_time(latch, give_in):
                open_lock(latch)  # hand it on to the next waiter
            elif self.owner.clock.monotonic() >= give_in:
                return False
        return True

    def _make_latch(self) -> None:
        with _MAKING:
            if self._latch is None:
                self._latch = closed_lock()

    def result(self, timeout: float | None = None) -> Any:
        """
        Return the method's result; wait at most *timeout* seconds and never past the call's deadline.

        Raises:
            TimeoutError: *timeout* passed; the call goes on.
            CallTimeoutError: The call's own deadline passed (this is also a TimeoutError).
            CallCancelledError: The call was cancelled.
            BaseException: The method's own exception.
        """
        if self._over == FINISHED and self._exception is None:
            return self._result
        try:
            if not self._wait(timeout):
                raise TimeoutError
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            self = None  # type: ignore[assignment] # noqa: PLW0642 - breaks the cycle traceback -> frame -> call

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """
        Return the exception with which the call ended, or None; waits as `result` does.

        Raises:
            TimeoutError: *timeout* passed; the call goes on.
            CallCancelledError: The call was cancelled.
        """
        if not self._wait(timeout):
            raise TimeoutError
        if self._over == CANCELLED and self._exception is not None:
            raise self._exception
        return self._exception

    def done(self) -> bool:
        """Whether the call is over: by its outcome, a cancellation or its deadline."""
        return self._over != 0 or (self.expires < inf and self.expire())

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._over == CANCELLED

    def running(self) -> bool:
        """Whether the method has started and the call is not over."""
        return not self._over and not self.unstarted()

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """
        Call *fn* with this call when it is over; at once, in this thread, if it is over already.

        Otherwise *fn* runs in a thread for callbacks, in the order in which they were added. A slow callback delays
        only later ones. What it raises is logged and dropped.
        """
        self._call_back(self._watched().callbacks, fn)

    @property
    def awaited(self) -> bool:
        """Whether anything waits for its end, or did."""
        return self._latch is not None

    def wakes_a_thread(self) -> bool:
        """Whether the end of the call wakes a waiting thread, rather than calling the function of `on_settled`."""
        return self._latch is not None and type(self._latch) is not _Settled

    def on_over(self, fn: Callable[[Any], Any]) -> None:
        """
        Call *fn* in the thread that ends the call; *fn* must be quick.

        For a caller that watches the deadline itself and calls `expire`.
        """
        self._call_back(self._share().listeners, fn)

    def _call_back(self, callbacks: list[Callable[[Any], Any]], fn: Callable[[Any], Any]) -> None:
        callbacks.append(fn)
        if self._over:
            self._run(callbacks)

    # -- what concurrent.futures.wait and as_completed reach into ----------------------------------------------------

    @property
    def _state(self) -> str:  # type: ignore[override] # read by concurrent.futures, written only here
        """
        The state as `concurrent.futures` spells it, for `wait` and `as_completed`.

        Once `_condition` exists, it changes only under it: these functions count finished futures while they hold it.
        """
        if not self._over or (self._shared is not None and not self._shared.told):
            return "PENDING" if self.unstarted() else "RUNNING"
        return "FINISHED" if self._over == FINISHED else "CANCELLED_AND_NOTIFIED"

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override] # made when somebody looks at it
        return self._watched().condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override] # as `_condition`
        return self._watched().waiters

    def _share(self) -> _Shared:
        shared = self._shared
        if shared is None:
            self._make_latch()  # first: `publish` reads `_shared` only if there is a latch
            with _MAKING:
                shared = self._shared
                if shared is None:
                    shared = self._shared = _Shared()
            if self._over:
                self._tell(shared)
        return shared

    def _watched(self) -> _Shared:
        """Return the shared state, and let a timer watch the deadline, as no thread may be waiting in `result`."""
        shared = self._share()
        if shared.timer is None and self.expires < inf and not self._over:
            shared.timer = self.owner.clock.call_at(self.expires if self.unstarted() else self.deadline, self._on_timer)
            if self._over:
                shared.timer.cancel()
        return shared

    def _on_timer(self) -> None:
        if not self.expire() and self._shared is not None and self.deadline < inf and not self.settled():
            self._shared.timer = self.owner.clock.call_at(self.deadline, self._on_timer)

    def _tell(self, shared: _Shared) -> None:
        """Tell the waiters of `concurrent.futures` that the call is over."""
        if shared.timer is not None:
            shared.timer.cancel()
        with shared.condition:
            if not shared.told:
                shared.told = True
                for waiter in shared.waiters:
                    if self._over == CANCELLED:
                        waiter.add_cancelled(self)
                    elif self._exception is not None:
                        waiter.add_exception(self)
                    else:
                        waiter.add_result(self)
                shared.condition.notify_all()

    def _run(self, callbacks: list[Callable[[Any], Any]]) -> None:
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:  # another thread took the last one
                return
            try:
                callback(self)
            except BaseException:  # also SystemExit
                import logging

                logging.getLogger("sage_plugins").exception("a done-callback of %r raised", self)


def closed_lock() -> threading.Lock:
    """Return a lock that is already taken: a thread that acquires it waits until another thread releases it."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def open_lock(lock: threading.Lock | None) -> None:
    """Release *lock*, unless it is None or open already (its waiter has not woken up yet)."""
    if lock is not None:
        try:  # noqa: SIM105 - contextlib.suppress costs more than the release itself
            lock.release()
        except RuntimeError:
            pass
