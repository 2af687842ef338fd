"""
One call: the work item and the future in one object.

`lazy_future` contains the future. This module adds the work item: starting it, giving it up, and waiting for it.
`docs/design/call-as-future.md` says why they are one object.

Two tokens decide what a thread may do with a call. A token is an attribute slot that exists until a thread deletes it.
Deleting is atomic: one thread succeeds, all others get AttributeError. So a call needs no lock of its own.

* `_unstarted`: the thread that deletes it decides whether the call runs. A worker deletes it to start the call, a
  canceller or a deadline to prevent the start.
* `_unsettled`: the thread that deletes it decides the outcome and then publishes it.

A worker deletes the first token when it starts, and the second when the method has ended. All other threads take both
under `_GIVING_UP`. So a running call is never reported as "never started".
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any

from sage_plugins.call import deadlock, lazy_future
from sage_plugins.call.current import CURRENT
from sage_plugins.call.lazy_future import CANCELLED, LazyFuture, closed_lock, open_lock
from sage_plugins.errors import CallTimeoutError
from sage_plugins.values import COROUTINES, Outcome, Timing

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Hashable
    from contextvars import Context
    from weakref import WeakValueDictionary

    from sage_plugins.call.owner import CallOwner
    from sage_plugins.errors import ServiceStoppedError
    from sage_plugins.values import CallOptions, MethodPlan

__all__ = ["Call", "after_fork"]

# Cancellers and deadlines take it, a worker never does. Re-entrant: a signal handler may close an environment while
# this thread holds it.
_GIVING_UP = threading.RLock()


def after_fork() -> None:
    """In a forked child: renew the locks, which a missing thread may hold."""
    global _GIVING_UP  # noqa: PLW0603 - the process is a new one
    _GIVING_UP = threading.RLock()
    lazy_future.after_fork()


class Call(LazyFuture):
    """
    One call of one service method, as `ServiceHandle.submit` returns it.

    It works like a `concurrent.futures.Future`, also with callbacks, `wait`, `as_completed` and `asyncio.wrap_future`.
    It ends at its deadline with `CallTimeoutError`, even if `result()` was called without a timeout. `cancel` stops a
    call that has not started or that runs as a coroutine. For any other running call it returns False.

    Thread-safe.

    Attributes:
        owner: The router that accepted it, or another owner that is told how it goes on.
        method: The method's plan.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Key, idempotence and priority.
        since: `monotonic()` when it was made.
        deadline: `monotonic()` at which its caller is released; inf for none.
        expires: `monotonic()` after which it must not start; at most *deadline*.
        context: The caller's context variables; None once a worker has taken them.
        lane: The lane to which it was sent; None before.
        began: `monotonic()` when its method started; unset before.
        ended: `monotonic()` when its method ended; unset before.
    """

    __slots__ = (
        "_unsettled",
        "_unstarted",
        "args",
        "began",
        "context",
        "deadline",
        "ended",
        "expires",
        "kwargs",
        "lane",
        "method",
        "options",
        "owner",
        "since",
    )

    began: float
    ended: float

    # Few calls need these attributes, so they have no slot: they enter the instance's __dict__ when they are set. They
    # are here because several parts use them. The same holds for `granted`, a third token: a replica that runs calls in
    # their callers' threads has given this call its slot.

    # For the handle that made the call.
    outer: Call | None = None  # the call whose method made this one
    inner: WeakValueDictionary[int, Call] | None = None  # the calls that its method has made
    prepares: bool = False  # whether it stands for the start hooks of a replica, see `host.lifecycle.StartHooks`
    reader_thread: int | None = None  # the thread that waits for it and reads the reply through `exchange`
    # For the router, which may park the call, move it, or start it again.
    _admission: threading.Lock | None = None  # the lock on which its submitter waits for room in the queue
    parked: bool = False  # whether it waits for room in the queue
    taken: float = 0.0  # `monotonic()` when it got its slot from the queue, if that is measured
    turned_away: BaseException | None = None  # the error of a call that was refused, not accepted
    returned: bool = False  # whether it came back to the queue; then it counts as accepted, even while it is parked
    caller_left: bool = False  # whether an exception ended the wait of the caller whose thread should run it
    attempts: int = 0  # number of attempts that failed and were retried
    deaths: int = 0  # number of times that its replica died while it may have run there
    pauses: bool = False  # whether it waits for its next attempt
    tried: frozenset[Any] = frozenset()  # lanes on which it has failed
    batch: Any = None  # the `batch.Batch` in which it runs
    bundle: Any = None  # the `prefetch.Bundle` in which it was sent ahead
    # For the host that runs it. `deadlock` and `aio` read whether a method that waits blocks an event loop.
    task: asyncio.Task[Any] | None = None  # the task of its coroutine, while that runs
    on_loop: bool = False  # whether that task shares its event loop with the replica's other calls
    off_loop: bool = False  # whether such an event loop has left the call to a thread
    # For replicas in other processes, and for callers there.
    chain: tuple[Any, ...] = ()  # the slots held until it is answered, in all processes
    exchange: Any = None  # reads its reply, see `hold_reading`
    packed: Any = None  # its serialized arguments, until it is sent
    waits: bool = False  # whether the method that made it waits for it, or is about to
    answered: bool = False  # whether a replica in another process has answered it
    uncounted: bool = False  # whether that replica has left counting it to the router
    stuck_in: frozenset[Any] = frozenset()  # lanes whose slots are all in its outer call's chain

    def __init__(  # noqa: PLR0913, PLR0917 - every field is set by the one caller on the path of a call; keywords would cost
        self,
        owner: CallOwner,
        method: MethodPlan,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        since: float,
        deadline: float,
        expires: float,
        context: Context | None,
    ) -> None:
        """Make a call that is not accepted yet; the arguments are as the attributes of the class."""
        # Without Future.__init__, which would make a condition, a lock and two lists; see `lazy_future`.
        self.owner = owner
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.since = since
        self.deadline = deadline
        self.expires = expires
        self.context = context
        self.lane: Any = None  # the router sets it
        self._latch: threading.Lock | None = None
        self._over = 0
        self._unstarted = True
        self._unsettled = True

    @property
    def key(self) -> Hashable | None:
        """The key that the caller gave for the balancer, if any."""
        return self.options.key

    @property
    def timing(self) -> Timing | None:
        """Seconds of waiting and of running, as far as they are known; None before it starts."""
        if not hasattr(self, "began"):
            return None
        ended = getattr(self, "ended", None)
        return Timing(self.began - self.since, None if ended is None else ended - self.began)

    # -- the worker's side -------------------------------------------------------------------------------------------

    def claim(self) -> bool:
        """
        Take the right to run the method; True for exactly one thread, and only if the call was not given up.

        The thread that gets True must run the method and then settle the call.
        """
        try:
            del self._unstarted
        except AttributeError:
            return False
        return True

    def claim_outcome(self) -> bool:
        """
        Take the right to decide the outcome; True for exactly one thread.

        The thread that gets True must call `publish`. False means that the call was given up: drop the result.
        """
        try:
            del self._unsettled
        except AttributeError:
            return False
        return True

    def allow_second_start(self) -> bool:
        """
        Let a started call whose replica died be claimed again; False if it was given up meanwhile.

        From now on only its deadline applies, not `expires`: it has started once.
        """
        with _GIVING_UP:
            if self.unstarted():
                return False
            self.expires = self.deadline
            return self.mark_unstarted()

    def mark_unstarted(self) -> bool:
        """Let a call that was sent and did not start be claimed again; False if it was given up meanwhile."""
        with _GIVING_UP:
            if self.settled():
                return False
            if self.context is None:  # the first worker has taken the caller's context
                self.context = copy_context()
            if self.has_ended():
                del self.ended
            self._unstarted = True
            return True

    def has_ended(self) -> bool:
        """Whether its method has ended. Tasks and threads that the method has left may still run in its context."""
        return hasattr(self, "ended")

    def unstarted(self) -> bool:
        """Whether no thread has claimed the call."""
        return hasattr(self, "_unstarted")

    def runs(self) -> bool:
        """Whether it runs, as far as is known: a replica has started it, and its outcome is not decided."""
        return self.lane is not None and not self.unstarted() and not self.settled()

    def settled(self) -> bool:
        """Whether the outcome is decided; it may not be published yet."""
        return not hasattr(self, "_unsettled")

    # -- giving up ---------------------------------------------------------------------------------------------------

    def give_up(self, error: BaseException, outcome: int, *, only_unstarted: bool = False) -> bool:
        """
        End the call with *error* from the caller's side; False if its outcome was already decided.

        Args:
            error: What its waiters get. A `CallTimeoutError` is corrected here if the call had started.
            outcome: How to count it, see `values.Outcome`.
            only_unstarted: Do nothing if the call has started.
        """
        with _GIVING_UP:
            runs = not self.claim()
            if runs and only_unstarted:
                return False
            if not self.claim_outcome():
                return False
        if isinstance(error, CallTimeoutError) and (runs or self.attempts):
            error.stage = "run"
            error.args = (self._timeout_text(started=True),)
        try:
            self.owner.gave_up(self, outcome, started=runs)
        finally:
            self.publish(None, error)
            if outcome == Outcome.CANCELLED and self.inner is not None:
                from sage_plugins.call.endings import abandon_inner

                abandon_inner(self)
        return True

    def refuse(self, error: BaseException, count: Callable[[], object] = bool) -> None:
        """End the call with *error* as refused, unless it has started or is over; *count* runs before waiters wake."""
        with _GIVING_UP:
            if not (self.claim() and self.claim_outcome()):
                return
        self.turned_away = error
        count()
        self.publish(None, error)

    def was_turned_away(self) -> bool:
        """Whether the call ended because it was never accepted; it has not started and never will."""
        return self.turned_away is not None and self._over != 0 and self._exception is self.turned_away

    def expire(self) -> bool:
        """End the call with `CallTimeoutError` if its time is over; True if the call is over after this."""
        if self._over:
            return True
        now = self.owner.clock.monotonic()
        if now >= self.deadline:
            return self.give_up(self.timeout_error(), Outcome.TIMEOUT)
        if now >= self.expires:
            return self.give_up(self.timeout_error(), Outcome.TIMEOUT, only_unstarted=True)
        return False

    def timeout_error(self, *, ended: bool = False) -> CallTimeoutError:
        """Return the error of a call that timed out before it started or *ended*; `give_up` corrects the former."""
        from sage_plugins.call.endings import timeout_error  # few calls need it

        return timeout_error(self, self._timeout_text(started=ended, ended=ended), ended=ended)

    def _timeout_text(self, *, started: bool, ended: bool = False) -> str:
        from sage_plugins.call.endings import timeout_text

        return timeout_text(self, started=started, ended=ended)

    def stopped_error(self, replica: str, node: str | None = None) -> ServiceStoppedError:
        """Return the error of a call that *replica*, on *node*, had not answered when it stopped."""
        from sage_plugins.call.endings import stopped_error

        return stopped_error(self, replica, node)

    def cancel(self) -> bool:
        """
        Cancel the call if it has not started or runs as a coroutine; True if the call is cancelled.

        A running coroutine gets `asyncio.CancelledError`. Any other running method cannot be stopped: it goes on, and
        this returns False.
        """
        if self._over == CANCELLED:
            return True
        # A call with earlier attempts may have had its effect, so it cannot be cancelled as if it had never run.
        stops = self.method.kind in COROUTINES and self.batch is None
        return not self.attempts and self.give_up(self.cancelled_error(), Outcome.CANCELLED, only_unstarted=not stops)

    def abandon(self) -> bool:
        """Cancel the call even if it runs. Its result is dropped; its slot stays taken until the method ends."""
        return self.give_up(self.cancelled_error(), Outcome.CANCELLED)

    def interrupted(self) -> None:
        """Abandon the call, because an exception has interrupted its waiting caller."""
        self.owner.suspect()
        self.abandon()

    def cancelled_error(self) -> BaseException:
        """Return the error of a call that its caller cancelled."""
        from sage_plugins.call.endings import cancelled_error

        return cancelled_error(self)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait_alone(self) -> Any:
        """
        Wait for the result, at most until the deadline, and return it; only if no other thread has this object.

        Raises:
            BaseException: The method's own exception, or the `CallError` with which the call ended.
        """
        if not self._over:
            self.hold()
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment] # noqa: PLW0642 - breaks the cycle traceback -> frame -> call
        return self._result

    def wait_inside(self) -> Any:
        """`wait_alone` for a nested call."""
        if not self._over:
            self.hold_inside()
        return self.wait_alone()

    def hold_inside(self) -> None:
        """`hold` for a nested call, with a check for a deadlock."""
        waiter = self.outer
        if waiter is None:
            self.hold()
            return
        try:
            deadlock.guard(self, waiter)
            self.hold()
        finally:
            deadlock.went_on(waiter)

    def hold(self) -> None:
        """
        Wait until the call is over, and give it up at its deadline; only for the one thread that made it.

        If a replica that runs calls in their callers' threads gives the call a slot meanwhile, it runs here.
        """
        try:
            latch = self._latch
            if latch is None:
                latch = self._latch = closed_lock()
            while not self._over:
                if self.take_grant():
                    self.lane.run_here(self.batch or self)
                else:
                    self._wait_some_time(latch, inf)
        except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
            self.caller_left = True  # first, and as a plain assignment: a function call may be interrupted as well
            self.interrupted()
            raise
        finally:
            # It may have been given up and granted a slot at the same time. Running it then only frees that slot.
            if "granted" in self.__dict__ and self.take_grant():
                self.lane.run_here(self.batch or self)

    def hold_reading(self) -> None:
        """
        `hold` for a call whose replica is in another process: while this thread waits, it reads replies from there.

        The code that sends the call in the thread `reader_thread` sets an `exchange`. Reading from it may end other
        calls too. If this call is not over then, there may be another exchange.
        """
        try:
            while (exchange := self.exchange) is not None and not self._over:
                self.exchange = None
                until = self.deadline
                exchange.wait(self, None if until == inf else max(0.0, until - self.owner.clock.monotonic()))
        except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
            self.interrupted()
            raise
        finally:
            self.reader_thread = None
            exchange, self.exchange = self.exchange, None
            if exchange is not None:
                exchange.read_elsewhere()

    def grant(self, lane: Any) -> bool:
        """Give the call a slot, in which its caller's thread runs it; False if it is over. For other threads."""
        self.lane = lane
        lane.granted.add(self)
        self.__dict__["granted"] = True
        open_lock(self._latch)
        # The caller may be giving up right now. Either the caller takes the grant, and frees the slot, or this thread
        # takes it back and keeps the slot.
        return not (self.settled() and self.take_grant())

    def take_grant(self) -> bool:
        """Take the slot that was given to the call; True for exactly one thread."""
        if self.__dict__.pop("granted", False) is not True:
            return False
        self.lane.granted.discard(self)
        return True

    def _wait(self, timeout: float | None) -> bool:
        """Wait at most *timeout* seconds and never past the deadline; True if the call is over."""
        waiter = CURRENT.get()
        if waiter is None or self._over:
            return self._wait_until(inf if timeout is None else self.owner.clock.monotonic() + timeout)
        if timeout is not None:  # a wait with a timeout cannot deadlock
            return self._wait_until(self.owner.clock.monotonic() + timeout)
        try:
            deadlock.guard(self, waiter)
            return self._wait_until(inf)
        finally:
            deadlock.went_on(waiter)

    def __await__(self) -> Generator[Any, None, Any]:
        """
        Wait for the method's result on any running event loop; raises what `result` raises.

        Cancelling the awaiting task cancels the call: a waiting call never starts, a running coroutine is cancelled,
        and any other running method is abandoned.
        """
        from sage_plugins.call.aio import outcome

        return outcome(self).__await__()

    # -- room in the queue -------------------------------------------------------------------------------------------

    def wait_admitted(self) -> None:
        """
        Let the submitter wait until the call has room in the queue.

        Raises:
            CallTimeoutError: There was no room in time.
            OverloadedError, ServiceStoppedError, NoReplicaError: The call was refused meanwhile.
        """
        admission = closed_lock()
        self._admission = admission
        try:
            if self.outer is not None:
                deadlock.guard(self, self.outer)
            while self.parked and not self.returned:
                self._wait_for(admission, inf)
        except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
            self.interrupted()
            raise
        finally:
            if self.outer is not None:
                deadlock.went_on(self.outer)
        if self.lane is None and self.settled():  # it ended before it got room
            self._wait(None)
            if self._exception is not None:
                raise self._exception

    def admit(self) -> None:
        """Wake the submitter: the call has room, or will never get it."""
        self.parked = False
        open_lock(self._admission)

    def __repr__(self) -> str:
        """Service, method and state; not the arguments, which may contain secrets."""
        state = ("running" if self.running() else "pending", "finished", "cancelled")[self._over]
        return f"<Call {self.owner.service}.{self.method.name} {state}>"
