"""
A future whose lock, condition and callbacks are made when somebody needs them.

Most calls have one waiter or none. `docs/design/call-as-future.md` says what that gains.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import CallCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.owner import CallOwner
    from sage_plugins.clock import Timer

__all__ = [
    "CANCELLED",
    "FINISHED",
    "MAX_WAIT_S",
    "WONDERS_AFTER_S",
    "LazyFuture",
    "after_fork",
    "closed_lock",
    "open_lock",
]

# What `LazyFuture._over` holds once it is over.
FINISHED: Final = 1  # with a result or an exception
CANCELLED: Final = 2

#: The longest that a lock is waited for at once.
MAX_WAIT_S: Final = threading.TIMEOUT_MAX / 2

#: Seconds after which who waits for work that nobody seems to do has it looked for.
WONDERS_AFTER_S: Final = 0.25

# Guards the creation of a latch and of `_Shared`. Re-entrant because a signal handler may close an environment in the
# middle of it.
_MAKING = threading.RLock()


def after_fork() -> None:
    """In a forked child: renew the lock, which a thread that is not here may have held."""
    global _MAKING  # noqa: PLW0603 - the process is a new one
    _MAKING = threading.RLock()


class _Shared:
    """What a call needs once more than one plain waiter looks at it."""

    __slots__ = ("callbacks", "condition", "listeners", "timer", "told", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []  # guarded by condition; the protocol of concurrent.futures.wait
        self.told = False  # whether they know that the call is over; guarded by condition
        self.callbacks: list[Callable[[Any], Any]] = []  # a user's; each is taken by exactly one `pop`
        self.listeners: list[Callable[[Any], Any]] = []  # ours, which are quick; likewise
        self.timer: Timer | None = None


class _Settled:
    """Stands in place of the latch: where a waiting thread would be woken, a function is called."""

    __slots__ = ("release",)

    def __init__(self, release: Callable[[], None]) -> None:
        self.release = release


class LazyFuture(Future[Any]):
    """
    The future half of a `Call`: the outcome, and who waits for it.

    `Call` adds when it ends: `expire`, `settled` and `unstarted`.
    """

    __slots__ = ("_exception", "_latch", "_over", "_result")

    owner: CallOwner
    deadline: float
    expires: float

    # Rare, hence not in a slot: it is in the instance's __dict__ once needed.
    _shared: _Shared | None = None

    def __init__(self) -> None:
        """Nothing: `Call` sets the slots itself, because one more frame would cost every call."""

    def settled(self) -> bool:
        """Whether the outcome is decided; it may still be on its way to being published."""
        raise NotImplementedError

    def unstarted(self) -> bool:
        """Whether nobody has started the work."""
        raise NotImplementedError

    def runs(self) -> bool:
        """Whether the work has been started and goes on, as far as is known."""
        raise NotImplementedError

    def expire(self) -> bool:
        """End it if its time is over; True if it is over after this."""
        raise NotImplementedError

    # -- the outcome -------------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether the outcome is published; unlike `done` this does not look at the deadline."""
        return self._over != 0

    def exception_now(self) -> BaseException | None:
        """The exception with which the call ended; only once it is over. Unlike `exception` it raises nothing."""
        return self._exception

    def result_now(self) -> Any:
        """The result; only once the call is over and has no exception. Unlike `result` it does not check that."""
        return self._result

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        """Make the outcome known and release every waiter; only for who got True from `claim_outcome`."""
        told = self.owner.on_result if error is None else self.owner.on_error
        if told is not None:
            told(self, error)
        self._result = result
        self._exception = error
        self._over = CANCELLED if type(error) is CallCancelledError else FINISHED
        # Whoever looks at a call makes its latch first and reads `_over` second; this is the other half of the
        # handshake.
        if self._latch is not None:
            self.release()

    def release(self) -> None:
        """Wake whoever waits, after the outcome was stored."""
        shared = self._shared
        if shared is not None:
            self._tell(shared)
        open_lock(self._latch)
        if shared is not None:
            self._run(shared.listeners)
            if shared.callbacks:
                # Not here: this may be a worker, the clock, or another caller's thread, and they may never return.
                self.owner.aside(lambda: self._run(shared.callbacks))

    def on_settled(self, tell: Callable[[], None]) -> None:
        """
        Have *tell* called once: by the thread that ends the call, before it does anything else.

        For an owner that passes the outcome on to waiters in another process, so no thread in this process may wait for
        the call. Set it before the call is sent. *tell* must not raise.
        """
        settled: Any = _Settled(tell)
        self._latch = settled

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _wait_for(self, latch: threading.Lock, give_in: float) -> bool:
        """
        Wait for *latch*, at most until *give_in* or the call's own time; False if that was in vain.
        """
        clock = self.owner.clock
        # A call that has started no longer minds `expires`.
        until = self.expires if self.expires == self.deadline or self.unstarted() else self.deadline
        until = min(until, give_in)
        if until == inf:
            return latch.acquire()
        remaining = until - clock.monotonic()
        if remaining > 0 and latch.acquire(timeout=min(remaining, MAX_WAIT_S)):
            return True
        if self.expire():
            return True
        # Its outcome may have been decided at the last moment, and is being published.
        return self.settled() and latch.acquire(timeout=WONDERS_AFTER_S)

    def _wait(self, timeout: float | None) -> bool:
        """Wait at most *timeout* seconds and never past the deadline; True if the call is over."""
        return self._wait_until(inf if timeout is None else self.owner.clock.monotonic() + timeout)

    def _wait_some_time(self, latch: threading.Lock, give_in: float) -> bool:
        """`_wait_for`, but work that does not seem to run is looked for after some time: then, too, it is False."""
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
        The method's result; waits at most *timeout* seconds and never past the call's deadline.

        Raises:
            TimeoutError: *timeout* passed and the call goes on.
            CallTimeoutError: The call's own deadline passed (it is a TimeoutError too).
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
        The exception with which the call ended, or None; waits as `result` does.

        Raises:
            TimeoutError: *timeout* passed and the call goes on.
            CallCancelledError: The call was cancelled.
        """
        if not self._wait(timeout):
            raise TimeoutError
        if self._over == CANCELLED and self._exception is not None:
            raise self._exception
        return self._exception

    def done(self) -> bool:
        """Whether the call is over, by outcome, cancellation or deadline."""
        return self._over != 0 or (self.expires < inf and self.expire())

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._over == CANCELLED

    def running(self) -> bool:
        """Whether the method has started and the call is not over."""
        return not self._over and not self.unstarted()

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """
        Have *fn* called with this call when it is over; at once if it is.

        It runs in this thread if the call is over, else in one for callbacks, after those that were added before.
        It holds up nothing but those that were added after it. What it raises is logged and dropped.
        """
        self._call_back(self._watched().callbacks, fn)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for its end, or did."""
        return self._latch is not None

    def wakes_a_thread(self) -> bool:
        """Whether the end of the call wakes a thread that waits for it, rather than being told to `on_settled`."""
        return self._latch is not None and type(self._latch) is not _Settled

    def on_over(self, fn: Callable[[Any], Any]) -> None:
        """
        Have *fn* called in the thread that ends the call; it must be quick.

        For a caller that watches the deadline itself by calling `expire`.
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
        The state as `concurrent.futures` spells it, for its own functions.

        It changes only under `_condition`, once that exists: they count the futures that are over while they hold it.
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
            self._make_latch()  # first: without one `publish` looks no further
            with _MAKING:
                shared = self._shared
                if shared is None:
                    shared = self._shared = _Shared()
            if self._over:
                self._tell(shared)
        return shared

    def _watched(self) -> _Shared:
        """The shared part, and the clock watching the deadline: nobody blocks in `result` to do it."""
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
        """Tell those who wait through `concurrent.futures` that the call is over."""
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
    """A lock that is taken: whoever waits for it waits until somebody releases it."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def open_lock(lock: threading.Lock | None) -> None:
    """Release *lock*, if there is one and it is not open already: its waiter has then not woken up yet."""
    if lock is not None:
        try:  # noqa: SIM105 - contextlib.suppress costs more than the release itself
            lock.release()
        except RuntimeError:
            pass
