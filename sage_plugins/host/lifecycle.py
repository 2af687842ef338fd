"""
Life-cycle steps of a replica. Workers run them like calls, so that hooks run where calls run.

While the start hooks run, `StartHooks` is the current call, so the calls that they make are nested calls. A replica in
another process then answers a `Canary` before it gets calls: a no-op that takes the path of a call and is not counted.

A step is a generator that yields the coroutines of `async def` hooks. A thread runs them to their end, an event loop
awaits them.
"""

from __future__ import annotations

import threading
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sage_plugins.call.call import Call
from sage_plugins.call.current import CURRENT
from sage_plugins.call.owner import CallOwner
from sage_plugins.values import CallOptions, MethodKind, MethodPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Token

    from sage_plugins.clock import Clock

__all__ = ["CANARY", "Canary", "Hooks", "StartHooks", "Step", "answer_canary"]

#: The method of a canary. No method of a class can have its index or its name.
CANARY: Final = MethodPlan(-1, "<canary>", MethodKind.ASYNC, idempotent=False, timeout=inf)

#: The name of the start hooks in messages.
_PLAN: Final = MethodPlan(-1, "start hooks", MethodKind.SYNC, idempotent=False, timeout=inf)

#: Runs hooks and yields the coroutines among them.
Hooks: TypeAlias = "Generator[Coroutine[Any, Any, Any], None, None]"


class _Latch:
    """A `threading.Event` that is set at most once, with a tenth of its memory."""

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake all waiters; for one thread, once."""
        self._is_set = True
        self._lock.release()

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, limit: float) -> bool:
        """Wait until it is set, at most *limit* seconds; return whether it is."""
        is_set = self._lock.acquire(timeout=min(max(limit, 0.0), threading.TIMEOUT_MAX))
        if is_set:
            self._lock.release()
        return is_set


class Step:
    """
    One life-cycle step, which runs only once.

    Attributes:
        begun: Set when a worker begins it.
        done: Set when it has ended.
        error: The exception of a hook, if one raised.
    """

    __slots__ = ("_hooks", "_run", "_unbegun", "begun", "done", "error")

    expires = -inf  # so that `execute` finds steps without one more check for every call

    def __init__(self, hooks: Callable[[], Hooks], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._hooks = hooks
        self._run = run
        self._unbegun = None  # deleted by the thread that runs it
        self.begun = _Latch()
        self.done = _Latch()
        self.error: BaseException | None = None

    def _begin(self) -> bool:
        try:
            del self._unbegun  # atomic
        except AttributeError:
            return False
        self.begun.set()
        return True

    def run(self) -> None:
        """Run the step in this thread."""
        if not self._begin():
            return
        try:
            hooks = self._hooks()
            try:
                coroutine = next(hooks)
                while True:
                    try:
                        self._run(coroutine)
                    except BaseException as error:  # noqa: BLE001 - a hook's error, which the generator handles
                        coroutine = hooks.throw(error)
                    else:
                        coroutine = next(hooks)
            except StopIteration:
                pass
        except BaseException as error:  # noqa: BLE001 - a constructor or a hook raised; the worker must go on
            self.error = error
        finally:
            self.done.set()

    async def arun(self) -> None:
        """Run the step on the running loop."""
        if not self._begin():
            return
        try:
            hooks = self._hooks()
            try:
                coroutine = next(hooks)
                while True:
                    try:
                        await coroutine
                    except BaseException as error:  # noqa: BLE001 - as above
                        coroutine = hooks.throw(error)
                    else:
                        coroutine = next(hooks)
            except StopIteration:
                pass
        except BaseException as error:  # noqa: BLE001 - as above; the loop must go on
            self.error = error
        finally:
            self.done.set()


class StartHooks(Call):
    """
    The constructor and the start hooks of one replica, as a call that holds all slots until the replica is ready.

    As a context manager, it is the current call inside. No thread waits for it, and it gets no outcome.
    """

    prepares = True

    def __init__(self, service: str, clock: Clock, lane: Any) -> None:
        """
        Represent the hooks of a replica that will be built.

        Args:
            service: Its name.
            clock: The service's clock.
            lane: The router's side of the replica; None if the router is in another process.
        """
        owner = CallOwner()
        owner.service, owner.clock = service, clock
        super().__init__(owner, _PLAN, (), {}, CallOptions(), clock.monotonic(), inf, inf, None)
        self.lane = lane

    def __enter__(self) -> None:
        self._token: Token[Call | None] = CURRENT.set(self)

    def __exit__(self, *_: object) -> None:
        """End the hooks. Tasks that they started may go on, but hold no slot."""
        self.lane = None
        CURRENT.reset(self._token)

    async def follow(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run the coroutine of a hook; the hook waits only for calls that this task awaits."""
        import asyncio

        self.task = asyncio.current_task()
        try:
            await coroutine
        finally:
            self.task = None


def answer_canary(canary: Call) -> None:
    """Answer a canary with None. No method runs, and no recorder counts it."""
    canary.claim()  # if the sender is in another process, it has claimed its own object there
    if canary.claim_outcome():
        canary.publish(None, None)


class _Nobody(CallOwner):
    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Do nothing: the replica was stopped."""


class Canary(Call):
    """
    One canary, as the replica gets it through `Replica.send`.

    Its time is over from the start. So a worker handles it like a call that is too late and calls `expire`, which
    answers it. The path of other calls needs no extra check.
    """

    def __init__(self, service: str, clock: Clock) -> None:
        """
        Make a canary.

        Args:
            service: Its name, for messages.
            clock: The service's clock.
        """
        owner = _Nobody()
        owner.service, owner.clock = service, clock
        super().__init__(owner, CANARY, (), {}, CallOptions(), clock.monotonic(), -inf, -inf, Context())

    def expire(self) -> bool:
        """Answer it, as a worker has reached it."""
        answer_canary(self)
        return True

    def mark_unstarted(self) -> bool:
        """Return False: a canary goes to no other replica."""
        return False
