"""
One call: the work item and the future in one object.

`Call` is a `concurrent.futures.Future` whose lock, condition and callback list are made when somebody needs them,
because most calls have one waiter or none. `docs/design/call-as-future.md` says what that gains.

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
from concurrent.futures import Future
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_plugins.call.current import CURRENT, current_call
from sage_plugins.errors import CallCancelledError, CallTimeoutError, ServiceStoppedError
from sage_plugins.values import COROUTINES, Outcome

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Generator, Hashable
    from contextvars import Context

    from sage_plugins.clock import Clock, Timer
    from sage_plugins.values import CallOptions, MethodPlan

__all__ = [
    "CURRENT",
    "FINISHED",
    "MAX_WAIT_S",
    "Call",
    "CallOwner",
    "after_fork",
    "closed_lock",
    "current_call",
    "open_lock",
]

# What Call._over holds once the call is over.
FINISHED: Final = 1  # with a result or an exception
_CANCELLED: Final = 2

#: The longest that a lock is waited for at once.
MAX_WAIT_S: Final = threading.TIMEOUT_MAX / 2

# Both are re-entrant because a signal handler may close an environment in the middle of them.
_GIVING_UP = threading.RLock()  # cancellers and deadlines, one at a time; never taken by a worker
_MAKING = threading.RLock()  # guards the creation of a call's latch and `_Shared`


def after_fork() -> None:
    """In a forked child: renew the locks, which threads that are not here may have held."""
    global _GIVING_UP, _MAKING  # noqa: PLW0603 - the process is a new one
    _GIVING_UP = threading.RLock()
    _MAKING = threading.RLock()


class CallOwner(Protocol):
    """What a call needs of the router that accepted it."""

    service: str
    clock: Clock

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Count *call* as ended and free its place; runs before its waiters are released."""

    def abandoned_ended(self, call: Call) -> None:
        """The work has ended of a call that was given up while it ran."""

    def batch_started(self, batch: Any, number: int) -> None:
        """*number* calls of a `batch.Batch` are about to run; the others had been given up."""

    def can_start(self, call: Call, holders: Collection[Any]) -> bool:
        """Whether *call*, which waits, can get a slot: one that is free, or held by other work than *holders*."""

    def guard(self, call: Call, waiter: Call, *, blocks: bool = True) -> None:
        """The method that answers *waiter* waits for *call*: end that if it would be for ever."""

    def serves_only(self, lane: Any) -> bool:
        """Whether calls have nowhere to go but to *lane*."""

    def went_on(self, waiter: Call) -> None:
        """The method that answers *waiter* waits no more; after each `guard`."""


class _Shared:
    """What a call needs once more than one plain waiter looks at it."""

    __slots__ = ("callbacks", "condition", "foreign", "timer", "told", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []  # guarded by condition; the protocol of concurrent.futures.wait
        self.told = False  # whether they know that the call is over; guarded by condition
        self.callbacks: list[Callable[[Any], Any]] = []  # each is taken by exactly one `pop`
        self.foreign = False  # whether one of them is a user's
        self.timer: Timer | None = None


class Call(Future[Any]):
    """
    One call of one service method; what `ServiceHandle.submit` returns.

    It behaves as a `concurrent.futures.Future`: `result`, `exception`, `cancel`, callbacks, `wait`, `as_completed` and
    `asyncio.wrap_future` work. Beyond that, it ends at its deadline, with `CallTimeoutError`, also if nobody set a
    time-out on `result()`. `cancel` stops a call that has not started or that runs as a coroutine; any other that runs
    goes on and `cancel` returns False.

    All methods are safe from any thread.
    """

    __slots__ = (
        "_exception",
        "_latch",
        "_over",
        "_result",
        "_unsettled",
        "_unstarted",
        "args",
        "context",
        "deadline",
        "expires",
        "kwargs",
        "lane",
        "method",
        "options",
        "owner",
        "since",
    )

    # Rare, hence not in a slot: they are in the instance's __dict__ once needed. So is `granted`, a token like the two
    # above: a replica that runs calls in their callers' threads gave this call its slot.
    _shared: _Shared | None = None
    _admission: threading.Lock | None = None  # while a submitter waits for room in the queue
    parked: bool = False  # waits for room in the queue; written by the router
    turned_away: BaseException | None = None  # the error with which it is to end that was never accepted
    returned: bool = False  # was sent, and came back when its replica died; written by the router
    attempts: int = 0  # times that it was started and its replica died; written by the router
    outer: Call | None = None  # the call by whose method this one was made
    task: asyncio.Task[Any] | None = None  # what runs it, while it is a coroutine; written by the envelope, as the next
    on_loop: bool = False  # whether that task shares its loop with the replica's other calls
    off_loop: bool = False  # whether such a loop has left the call to a thread
    chain: tuple[Any, ...] = ()  # the slots held until it is answered, in all processes; written where it runs
    stuck_in: frozenset[Any] = frozenset()  # lanes whose slots are all in its outer call's chain; written by guests
    batch: Any = None  # the `batch.Batch` that it runs in; written by the router
    bundle: Any = None  # the `bundle.Bundle` in which it was sent ahead; written by the router
    driver: int | None = None  # the thread that waits for it and will read what `exchange` brings; written by handles
    answered: bool = False  # whether a replica in another process has answered and counted it
    exchange: Any = None  # what brings its answer, see `hold_driving`; written by replicas in other processes

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
        """
        Make a call that nobody has accepted yet.

        Args:
            owner: The router that will be told if the call is given up.
            method: The method's plan.
            args: Positional arguments.
            kwargs: Keyword arguments.
            options: Key and idempotence, shared by all calls of a handle.
            since: `monotonic()` when the call was made.
            deadline: `monotonic()` at which the caller is released; inf for none.
            expires: `monotonic()` after which the call must not start; at most *deadline*.
            context: The caller's context variables, in which the method runs.
        """
        # Future.__init__ would make a condition, a lock and two lists; see the module's docstring.
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

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        """Make the outcome known and release every waiter; only for who got True from `claim_outcome`."""
        self._result = result
        self._exception = error
        self._over = _CANCELLED if type(error) is CallCancelledError else FINISHED
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
            self._run_callbacks(shared)

    def rearm(self) -> bool:
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

    def unstart(self) -> bool:
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

    def settled(self) -> bool:
        """Whether the outcome is decided; it may still be on its way to being published."""
        return not hasattr(self, "_unsettled")

    def over(self) -> bool:
        """Whether the outcome is published; unlike `done` this does not look at the deadline."""
        return self._over != 0

    # -- giving up ---------------------------------------------------------------------------------------------------

    def give_up(
        self,
        error: BaseException,
        outcome: int,
        *,
        only_unstarted: bool = False,
        aside: Callable[[Callable[[], None]], None] | None = None,
    ) -> bool:
        """
        End the call with *error* from the caller's side; False if its outcome was already decided.

        Args:
            error: What its waiters get; a `CallTimeoutError` is told here whether the call had started.
            outcome: How to count it, see `values.Outcome`.
            only_unstarted: Leave a call alone that has started.
            aside: Runs a function in another thread; with it this one runs no callbacks of a user's, which may take
                their time.
        """
        with _GIVING_UP:
            if only_unstarted:
                if not self.claim():
                    return False
                runs = False
            else:
                runs = not self.claim()
            if not self.claim_outcome():
                return False
        if isinstance(error, CallTimeoutError) and (runs or self.attempts):
            error.stage = "run"
            error.args = (self._timeout_text(started=True),)
        try:
            self.owner.gave_up(self, outcome, started=runs)
        finally:
            if aside is not None and self.has_callbacks:
                aside(lambda: self.publish(None, error))
            else:
                self.publish(None, error)
        return True

    def refuse(self, error: BaseException) -> None:
        """End a call with *error* that was not accepted, so that it is not counted."""
        if self.claim() and self.claim_outcome():
            self.turned_away = error
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
        lane = self.lane
        return CallTimeoutError(
            self._timeout_text(started=ended, ended=ended),
            stage="run" if ended else "queue",
            service=self.owner.service,
            method=self.method.name,
            replica=None if lane is None else lane.id,
            node=None if lane is None else lane.node,
        )

    def _timeout_text(self, *, started: bool, ended: bool = False) -> str:
        who = f"{self.owner.service}.{self.method.name}"
        if started:
            where = "" if self.lane is None else f" (replica {self.lane.id})"
            if ended:
                still = "it ended too late"
            elif self.method.kind in COROUTINES and self.batch is None:
                still = "its coroutine is cancelled"
            else:
                still = "the method may still be running and keeps its slot until it ends"
            return (
                f"{who} gave no answer in {self.deadline - self.since:.4g} s{where}; {still}. Raise `timeout` or make "
                "the method faster"
            )
        return (
            f"{who} waited {self.expires - self.since:.4g} s in the queue and did not start; it never will. "
            "Add threads or replicas, raise `timeout`, or call less often"
        )

    def stopped_error(self, replica: str, node: str | None = None) -> ServiceStoppedError:
        """The error of a call that *replica*, on *node*, has not answered when it stopped."""
        service = self.owner.service
        msg = (
            f"{service}.{self.method.name} was not answered by {replica} before the service stopped"
            f"{'' if self.unstarted() else '; it was still running and may have had its effect'}. Raise "
            "`drain_timeout` if calls take that long"
        )
        return ServiceStoppedError(msg, service=service, method=self.method.name, replica=replica, node=node)

    def cancel(self) -> bool:
        """
        Cancel the call if it has not started or runs as a coroutine; True if it is cancelled after this.

        A running coroutine gets `asyncio.CancelledError`. Any other method that runs cannot be stopped and goes on:
        False.
        """
        if self._over == _CANCELLED:
            return True
        # One that was started before its replica died may have had its effect: it is not as if it had never been
        # called.
        stops = self.method.kind in COROUTINES and self.batch is None
        return not self.attempts and self.give_up(self._cancelled_error(), Outcome.CANCELLED, only_unstarted=not stops)

    def abandon(self) -> bool:
        """Cancel the call even if it runs: its result goes nowhere, its slot stays taken until the method ends."""
        return self.give_up(self._cancelled_error(), Outcome.CANCELLED)

    def _cancelled_error(self) -> CallCancelledError:
        name = self.owner.service
        return CallCancelledError(
            f"{name}.{self.method.name} was cancelled by its caller", service=name, method=self.method.name
        )

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
        self.owner.guard(self, waiter)
        try:
            self.hold()
        finally:
            self.owner.went_on(waiter)

    def hold(self) -> None:
        """
        Wait until the call is over, giving up at its deadline; only for the one thread that made it.

        If a replica that runs calls in their callers' threads gives this call its slot meanwhile, it runs here.
        """
        latch = self._latch
        if latch is None:
            latch = self._latch = closed_lock()
        try:
            while not self._over:
                if self._take_grant():
                    self.lane.run_here(self.batch or self)
                else:
                    self._wait_for(latch, inf)
        except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
            self.abandon()
            raise
        finally:
            # Given up and granted a slot at the same time: running it now does nothing but free that slot.
            if "granted" in self.__dict__ and self._take_grant():
                self.lane.run_here(self.batch or self)

    def hold_driving(self) -> None:
        """
        `hold` for a call whose replica is in another process: this thread reads what comes from there, while it waits.

        Whoever sends the call in the thread `driver` leaves an `exchange` for it. Reading that may end other calls too,
        and may leave another exchange if this one is not over.
        """
        try:
            while (exchange := self.exchange) is not None and not self._over:
                self.exchange = None
                until = self.deadline
                exchange.wait(self, None if until == inf else max(0.0, until - self.owner.clock.monotonic()))
        except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
            self.abandon()
            raise
        finally:
            self.driver = None
            exchange, self.exchange = self.exchange, None
            if exchange is not None:
                exchange.leave()

    def _wait_for(self, latch: threading.Lock, give_in: float) -> bool:
        """
        Wait for *latch*, at most until *give_in* or the call's own time; False if that was in vain and it goes on.
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
        if self.settled():
            return latch.acquire()  # the outcome was decided at the last moment and is being published
        return clock.monotonic() < give_in

    def grant(self, lane: Any) -> bool:
        """Give the call, from another thread, the slot in which its caller's thread runs it; False if it is over."""
        self.lane = lane
        self.__dict__["granted"] = True
        open_lock(self._latch)
        # Of the caller, who may be giving up just now, and this thread one takes the grant: the slot is used or stays
        # here.
        return not (self.settled() and self._take_grant())

    def _take_grant(self) -> bool:
        return self.__dict__.pop("granted", False) is True

    def _wait(self, timeout: float | None) -> bool:
        """Wait at most *timeout* seconds and never past the deadline; True if the call is over."""
        waiter = CURRENT.get()
        if waiter is None or self._over:
            return self._wait_until(inf if timeout is None else self.owner.clock.monotonic() + timeout)
        if timeout is not None:  # it does not wait for ever
            return self._wait_until(self.owner.clock.monotonic() + timeout)
        self.owner.guard(self, waiter)
        try:
            return self._wait_until(inf)
        finally:
            self.owner.went_on(waiter)

    def _wait_until(self, give_in: float) -> bool:
        while not self._over:
            latch = self._latch
            if latch is None:
                self._make_latch()
                continue
            if not self._wait_for(latch, give_in):
                return False
            open_lock(latch)  # hand it on to the next waiter
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
        if self._over == _CANCELLED and self._exception is not None:
            raise self._exception
        return self._exception

    def __await__(self) -> Generator[Any, None, Any]:
        """
        The method's result, from any running event loop; raises what `result` raises.

        Cancelling the awaiting task cancels the call: one that has not started never will; a coroutine is cancelled;
        any other method that runs is abandoned.
        """
        from sage_plugins.call.aio import outcome

        return outcome(self).__await__()

    def exception_now(self) -> BaseException | None:
        """The exception with which the call ended; only once it is over. Unlike `exception` it raises nothing."""
        return self._exception

    def done(self) -> bool:
        """Whether the call is over, by outcome, cancellation or deadline."""
        return self._over != 0 or (self.expires < inf and self.expire())

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self._over == _CANCELLED

    def running(self) -> bool:
        """Whether the method has started and the call is not over."""
        return not self._over and not self.unstarted()

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        """
        Have *fn* called with this call when it is over; at once if it is.

        It runs in whichever thread ends the call, so it must be quick; what it raises is logged and dropped.
        """
        shared = self._watched()
        shared.foreign = True
        self._call_back(shared, fn)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for its end, or did."""
        return self._latch is not None

    @property
    def has_callbacks(self) -> bool:
        """Whether ending the call runs callbacks of a user's, which may take their time."""
        return self._shared is not None and self._shared.foreign

    def on_over(self, fn: Callable[[Any], Any]) -> None:
        """Like `add_done_callback`, for a caller that watches the deadline itself by calling `expire`."""
        self._call_back(self._share(), fn)

    def _call_back(self, shared: _Shared, fn: Callable[[Any], Any]) -> None:
        shared.callbacks.append(fn)
        if self._over:
            self._run_callbacks(shared)

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
                self._run_callbacks(shared)
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
                    if self._over == _CANCELLED:
                        waiter.add_cancelled(self)
                    elif self._exception is not None:
                        waiter.add_exception(self)
                    else:
                        waiter.add_result(self)
                shared.condition.notify_all()

    def _run_callbacks(self, shared: _Shared) -> None:
        while shared.callbacks:
            try:
                callback = shared.callbacks.pop(0)
            except IndexError:  # another thread took the last one
                return
            try:
                callback(self)
            except BaseException:  # also SystemExit: this may be a worker, or the clock
                import logging

                logging.getLogger("sage_plugins").exception("a done-callback of %r raised", self)

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
        if self.outer is not None:
            self.owner.guard(self, self.outer)
        try:
            while self.parked and not self.returned:
                self._wait_for(admission, inf)
        except BaseException:  # KeyboardInterrupt while waiting: the caller is gone
            self.abandon()
            raise
        finally:
            if self.outer is not None:
                self.owner.went_on(self.outer)
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
