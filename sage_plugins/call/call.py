"""
One call: the work item and the future in one object.

`lazy_future` has the future, this module the work item: who runs it, who gives it up, and how its caller waits.
`docs/design/call-as-future.md` says why they are one object.

Who may do what to a call is decided by two tokens, each a slot that exists until it is deleted. Deleting a slot is one
atomic step of the interpreter: exactly one thread succeeds, the others get AttributeError. No lock is needed per call.

* `_unstarted`: whoever deletes it decides whether the call runs: a worker that starts it, or a canceller or deadline
  that makes sure that it never will.
* `_unsettled`: whoever deletes it decides the outcome, and then publishes it.

A worker deletes the first when it starts and the second when the method has ended. Everyone else takes both under
`_GIVING_UP`, so that "it never started" is never said of a call that runs.
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

# Taken by cancellers and deadlines, never by a worker. Re-entrant because a signal handler may close an environment
# meanwhile.
_GIVING_UP = threading.RLock()


def after_fork() -> None:
    """In a forked child: renew the locks, which threads that are not here may have held."""
    global _GIVING_UP  # noqa: PLW0603 - the process is a new one
    _GIVING_UP = threading.RLock()
    lazy_future.after_fork()


class Call(LazyFuture):
    """
    One call of one service method; what `ServiceHandle.submit` returns.

    It behaves as a `concurrent.futures.Future`: `result`, `exception`, `cancel`, callbacks, `wait`, `as_completed` and
    `asyncio.wrap_future` work. Beyond that, it ends at its deadline, with `CallTimeoutError`, also if nobody set a
    timeout on `result()`. `cancel` stops a call that has not started or that runs as a coroutine; any other that runs
    goes on and `cancel` returns False.

    All methods are safe from any thread.

    Attributes:
        owner: The router that accepted it; told if it is given up.
        method: The method's plan.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Key and idempotence.
        since: `monotonic()` when it was made.
        deadline: `monotonic()` at which its caller is released; inf for none.
        expires: `monotonic()` after which it must not start; at most *deadline*.
        context: The caller's context variables; None once a worker has taken them.
        lane: Where it was sent; None before.
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

    # Few calls need these, so they are in no slot: they are in the instance's __dict__ once somebody sets them. Each is
    # written by one room, and is here because another reads it. So is `granted`, a token like the two above: a replica
    # that runs calls in their callers' threads gave this call its slot.

    # The handle that made the call.
    outer: Call | None = None  # the call by whose method this one was made
    inner: WeakValueDictionary[int, Call] | None = None  # the calls that its method has made
    prepares: bool = False  # whether it stands for the start hooks of a replica, see `host.lifecycle.StartHooks`
    reader_thread: int | None = None  # the thread that waits for it and will read what `exchange` brings
    # The router, which may have to make room for it, move it, or start it again.
    _admission: threading.Lock | None = None  # while a submitter waits for room in the queue
    parked: bool = False  # waits for room in the queue
    taken: float = 0.0  # `monotonic()` when it got its slot from the queue, if that is measured
    turned_away: BaseException | None = None  # the error with which it is to end that was never accepted
    returned: bool = False  # was sent, and came back when its replica died
    left: bool = False  # whether an exception took its caller away that was to run it in its own thread
    attempts: int = 0  # times that it was started in vain, because it is tried again
    deaths: int = 0  # times that its replica died of it, or beside it
    pauses: bool = False  # whether it waits for its next attempt
    tried: frozenset[Any] = frozenset()  # lanes whose replicas have failed it
    batch: Any = None  # the `batch.Batch` that it runs in
    bundle: Any = None  # the `prefetch.Bundle` in which it was sent ahead
    # The host that runs it. `deadlock` and `aio` ask whether a method that waits keeps a loop from going on.
    task: asyncio.Task[Any] | None = None  # what runs it, while it is a coroutine
    on_loop: bool = False  # whether that task shares its loop with the replica's other calls
    off_loop: bool = False  # whether such a loop has left the call to a thread
    # Replicas in other processes, and callers there.
    chain: tuple[Any, ...] = ()  # the slots held until it is answered, in all processes
    exchange: Any = None  # what brings its answer, see `hold_reading`
    packed: Any = None  # its arguments, ready to travel, until it is sent
    waits: bool = False  # whether the method that made it waits for it, or is about to
    answered: bool = False  # whether a replica in another process has answered it
    uncounted: bool = False  # whether that has left it to the router to count it
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
        """Make a call that nobody has accepted yet, of what the attributes of the class are."""
        # Future.__init__ would make a condition, a lock and two lists; see `lazy_future`.
        self.owner = owner
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.since = since
        self.deadline = deadline
        self.expires = expires
        self.context = context
        self.lane: Any = None  # where it was sent; the router's
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
        """How long it waited for its start and has run, as far as that is known; None before it starts."""
        if not hasattr(self, "began"):
            return None
        ended = getattr(self, "ended", None)
        return Timing(self.began - self.since, None if ended is None else ended - self.began)

    # -- the worker's side -------------------------------------------------------------------------------------------

    def claim(self) -> bool:
        """
        Take the right to run the method; True for exactly one caller, and only if the call was not given up.

        Whoever gets True must run the method and then settle the call.
        """
        try:
            del self._unstarted
        except AttributeError:
            return False
        return True

    def claim_outcome(self) -> bool:
        """
        Take the right to decide the outcome; True for exactly one caller.

        Whoever gets True must call `publish`. False means that the caller gave up meanwhile: the result goes nowhere.
        """
        try:
            del self._unsettled
        except AttributeError:
            return False
        return True

    def allow_second_start(self) -> bool:
        """
        Let a started call whose replica died be claimed again; False if it was given up meanwhile.

        From now on it minds its deadline only: it has started once.
        """
        with _GIVING_UP:
            if self.settled() or self.unstarted():
                return False
            self.expires = self.deadline
            if self.context is None:  # the worker that started it took the caller's
                self.context = copy_context()
            self._unstarted = True
            return True

    def mark_unstarted(self) -> bool:
        """Let a call be claimed again that was sent and has not started after all; False if it was given up since."""
        with _GIVING_UP:
            if self.settled():
                return False
            if self.context is None:
                self.context = copy_context()
            self._unstarted = True
            return True

    def unstarted(self) -> bool:
        """Whether nobody has claimed the call."""
        return hasattr(self, "_unstarted")

    def runs(self) -> bool:
        """Whether a replica has started it, as far as is known, and its outcome is not decided."""
        return self.lane is not None and not self.unstarted() and not self.settled()

    def settled(self) -> bool:
        """Whether the outcome is decided; it may still be on its way to being published."""
        return not hasattr(self, "_unsettled")

    # -- giving up ---------------------------------------------------------------------------------------------------

    def give_up(self, error: BaseException, outcome: int, *, only_unstarted: bool = False) -> bool:
        """
        End the call with *error* from the caller's side; False if its outcome was already decided.

        Args:
            error: What its waiters get; a `CallTimeoutError` is told here whether the call had started.
            outcome: How to count it, see `values.Outcome`.
            only_unstarted: Leave a call alone that has started.
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
        """End a call with *error* as refused, unless it has started or is over; *count* it before its waiters know."""
        with _GIVING_UP:
            if not (self.claim() and self.claim_outcome()):
                return
        self.turned_away = error
        count()
        self.publish(None, error)

    def was_turned_away(self) -> bool:
        """Whether the call is over because it was never accepted: then it has not started and never will."""
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
        """The error of a call whose time is over: before it started, or before it *ended*; `give_up` corrects it."""
        from sage_plugins.call.endings import timeout_error  # few calls end so

        return timeout_error(self, self._timeout_text(started=ended, ended=ended), ended=ended)

    def _timeout_text(self, *, started: bool, ended: bool = False) -> str:
        from sage_plugins.call.endings import timeout_text

        return timeout_text(self, started=started, ended=ended)

    def stopped_error(self, replica: str, node: str | None = None) -> ServiceStoppedError:
        """The error of a call that *replica*, on *node*, has not answered when it stopped."""
        from sage_plugins.call.endings import stopped_error

        return stopped_error(self, replica, node)

    def cancel(self) -> bool:
        """
        Cancel the call if it has not started or runs as a coroutine; True if it is cancelled after this.

        A running coroutine gets `asyncio.CancelledError`. Any other method that runs cannot be stopped and goes on:
        False.
        """
        if self._over == CANCELLED:
            return True
        # One that was started before its replica died may have had its effect: it is not as if it had never been
        # called.
        stops = self.method.kind in COROUTINES and self.batch is None
        return not self.attempts and self.give_up(self.cancelled_error(), Outcome.CANCELLED, only_unstarted=not stops)

    def abandon(self) -> bool:
        """Cancel the call even if it runs: its result goes nowhere, its slot stays taken until the method ends."""
        return self.give_up(self.cancelled_error(), Outcome.CANCELLED)

    def interrupted(self) -> None:
        """An exception was raised in the caller's thread, which waited: nobody waits any more."""
        self.owner.suspect()
        self.abandon()

    def cancelled_error(self) -> BaseException:
        """The error of a call that its caller cancelled."""
        from sage_plugins.call.endings import cancelled_error

        return cancelled_error(self)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def wait_alone(self) -> Any:
        """
        The outcome, for a caller who knows that nobody else has this object; waits until the deadline.

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
        """`wait_alone` for a method that answers a call itself."""
        if not self._over:
            self.hold_inside()
        return self.wait_alone()

    def hold_inside(self) -> None:
        """`hold` for a method that answers a call itself."""
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
        Wait until the call is over, giving up at its deadline; only for the one thread that made it.

        If a replica that runs calls in their callers' threads gives this call its slot meanwhile, it runs here.
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
            self.left = True  # first, and not in a call: that may fail as well
            self.interrupted()
            raise
        finally:
            # Given up and granted a slot at the same time: running it now does nothing but free that slot.
            if "granted" in self.__dict__ and self.take_grant():
                self.lane.run_here(self.batch or self)

    def hold_reading(self) -> None:
        """
        `hold` for a call whose replica is in another process: this thread reads what comes from there, while it waits.

        Code that sends the call in the thread `reader_thread` leaves an `exchange` for it. Reading that may end other
        calls too, and may leave another exchange if this one is not over.
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
        """Give the call, from another thread, the slot in which its caller's thread runs it; False if it is over."""
        self.lane = lane
        lane.granted.add(self)
        self.__dict__["granted"] = True
        open_lock(self._latch)
        # Of the caller, who may be giving up just now, and this thread one takes the grant: the slot is used or stays
        # here.
        return not (self.settled() and self.take_grant())

    def take_grant(self) -> bool:
        """Take the slot that was given to the call; True for exactly one caller."""
        if self.__dict__.pop("granted", False) is not True:
            return False
        self.lane.granted.discard(self)
        return True

    def _wait(self, timeout: float | None) -> bool:
        """Wait at most *timeout* seconds and never past the deadline; True if the call is over."""
        waiter = CURRENT.get()
        if waiter is None or self._over:
            return self._wait_until(inf if timeout is None else self.owner.clock.monotonic() + timeout)
        if timeout is not None:  # it does not wait for ever
            return self._wait_until(self.owner.clock.monotonic() + timeout)
        try:
            deadlock.guard(self, waiter)
            return self._wait_until(inf)
        finally:
            deadlock.went_on(waiter)

    def __await__(self) -> Generator[Any, None, Any]:
        """
        The method's result, from any running event loop; raises what `result` raises.

        Cancelling the awaiting task cancels the call: one that has not started never will; a coroutine is cancelled;
        any other method that runs is abandoned.
        """
        from sage_plugins.call.aio import outcome

        return outcome(self).__await__()

    # -- room in the queue -------------------------------------------------------------------------------------------

    def wait_admitted(self) -> None:
        """
        Hold the submitter until there was room for the call.

        Raises:
            CallTimeoutError: There was none before the deadline.
            ServiceStoppedError: The service stopped meanwhile.
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
        if self.lane is None and self.settled():  # it was ended before it got its place
            self._wait(None)
            if self._exception is not None:
                raise self._exception

    def admit(self) -> None:
        """Let the submitter go on: the call has its place, or will never have one."""
        self.parked = False
        open_lock(self._admission)

    def __repr__(self) -> str:
        """Service, method and state, without the arguments: they may hold secrets."""
        state = ("running" if self.running() else "pending", "finished", "cancelled")[self._over]
        return f"<Call {self.owner.service}.{self.method.name} {state}>"
