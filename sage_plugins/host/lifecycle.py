"""
Steps of a replica's life, done by its workers as if they were calls, so that hooks run where calls run.

While the start hooks run, `StartHooks` is the current call: what they call knows by whom it was called. Then a replica
in another process answers a `Canary`, a no-op on the way of calls and none of them, before it gets any.

A step is a generator that yields the coroutines of `async def` hooks: in a thread they are run to their end, on an
event loop they are awaited.
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

#: The method of a canary. Its index is that of no method of a class, and no class can have a method of its name.
CANARY: Final = MethodPlan(-1, "<canary>", MethodKind.ASYNC, idempotent=False, timeout=inf)

#: What the start hooks are called in messages.
_PLAN: Final = MethodPlan(-1, "start hooks", MethodKind.SYNC, idempotent=False, timeout=inf)

#: Runs hooks and yields the coroutines among them.
Hooks: TypeAlias = "Generator[Coroutine[Any, Any, Any], None, None]"


class _Latch:
    """What there is of a `threading.Event` that is set once, in a tenth of its memory."""

    __slots__ = ("_is_set", "_lock")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let everybody go on; for one thread, once."""
        self._is_set = True
        self._lock.release()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def wait(self, limit: float) -> bool:
        """Wait until it is set, at most *limit* seconds; whether it is."""
        is_set = self._lock.acquire(timeout=min(max(limit, 0.0), threading.TIMEOUT_MAX))
        if is_set:
            self._lock.release()
        return is_set


class Step:
    """
    One step.

    Attributes:
        begun: Set when a worker came to it.
        done: Set when it has ended.
        error: What a hook raised, if one did.
    """

    __slots__ = ("_hooks", "_run", "begun", "done", "error")

    expires = -inf  # so that `execute` takes it aside without a question of its own

    def __init__(self, hooks: Callable[[], Hooks], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """
        Prepare a step.

        Args:
            hooks: What it does.
            run: Runs a coroutine from a thread.
        """
        self._hooks = hooks
        self._run = run
        self.begun = _Latch()
        self.done = _Latch()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do it in this thread."""
        self.begun.set()
        try:
            hooks = self._hooks()
            try:
                coroutine = next(hooks)
                while True:
                    try:
                        self._run(coroutine)
                    except BaseException as error:  # noqa: BLE001 - a hook's: what is left to do is for the generator to say
                        coroutine = hooks.throw(error)
                    else:
                        coroutine = next(hooks)
            except StopIteration:
                pass
        except BaseException as error:  # noqa: BLE001 - a constructor's or hook's; the worker must live on
            self.error = error
        finally:
            self.done.set()

    async def arun(self) -> None:
        """Do it on the running loop."""
        self.begun.set()
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
        except BaseException as error:  # noqa: BLE001 - as above; the loop must live on
            self.error = error
        finally:
            self.done.set()


class StartHooks(Call):
    """
    The constructor and the start hooks of one replica, as the call that holds all its slots until it is ready.

    A context manager: inside, it is the current call. Nobody waits for it, and it never ends as a call does.
    """

    prepares = True

    def __init__(self, service: str, clock: Clock, lane: Any) -> None:
        """
        Stand for the hooks of a replica that is about to be built.

        Args:
            service: Name of the service.
            clock: Its time.
            lane: The router's side of the replica; None if the router is in another process.
        """
        owner = CallOwner()
        owner.service, owner.clock = service, clock
        super().__init__(owner, _PLAN, (), {}, CallOptions(), clock.monotonic(), inf, inf, None)
        self.lane = lane

    def __enter__(self) -> None:
        """The hooks begin, in this thread or task."""
        self._token: Token[Call | None] = CURRENT.set(self)

    def __exit__(self, *_: object) -> None:
        """They have ended: tasks that they started may go on, but hold no slot."""
        self.lane = None
        CURRENT.reset(self._token)

    async def follow(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run the coroutine of a hook: what it awaits itself, the hook waits for."""
        import asyncio

        self.task = asyncio.current_task()
        try:
            await coroutine
        finally:
            self.task = None


def answer_canary(canary: Call) -> None:
    """Answer a canary with None. It calls nothing and no recorder counts it."""
    canary.claim()  # the sender's, if it is in another process, was claimed there
    if canary.claim_outcome():
        canary.publish(None, None)


class _Nobody(CallOwner):
    """Counts nothing: a canary is no request."""

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Its replica was stopped."""


class Canary(Call):
    """
    One canary, as the replica gets it through `Replica.send`.

    Its time is over from the beginning. So a worker takes it aside, where it takes calls that are too late, and
    `expire` answers it there: the way of other calls needs no question for it.
    """

    def __init__(self, service: str, clock: Clock) -> None:
        """
        Make one.

        Args:
            service: Name of the service, for messages.
            clock: Its time.
        """
        owner = _Nobody()
        owner.service, owner.clock = service, clock
        super().__init__(owner, CANARY, (), {}, CallOptions(), clock.monotonic(), -inf, -inf, Context())

    def expire(self) -> bool:
        """A worker has come to it: answer."""
        answer_canary(self)
        return True

    def mark_unstarted(self) -> bool:
        """It goes to no other replica."""
        return False
