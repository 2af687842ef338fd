"""Awaits calls on an event loop. Imported only when a call is first awaited, because importing asyncio takes time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any

from sage_plugins.call import deadlock
from sage_plugins.call.current import CURRENT
from sage_plugins.errors import RemoteError
from sage_plugins.threads import future_of
from sage_plugins.threads import start_thread as start_bare_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call

__all__ = ["in_thread", "outcome", "start_thread", "wait_until", "wake_up"]


async def outcome(call: Call) -> Any:
    """
    Await the outcome of *call* on the running loop, which watches the deadline.

    Cancelling the awaiting task abandons the call.
    """
    if not call.over():
        waiter = CURRENT.get()
        # In another task than the method's own, only that task waits; the method itself may go on.
        if waiter is not None and waiter.task is not asyncio.current_task():
            waiter = None
        if waiter is not None:
            deadlock.guard(call, waiter, blocks=False)
        loop = asyncio.get_running_loop()
        over, wake = wake_up()
        timer = None
        if call.expires < inf:
            timer = loop.call_later(call.expires - call.owner.clock.monotonic(), _expire, loop, call)
        call.on_over(lambda _: wake())
        try:
            await over
        except asyncio.CancelledError:
            call.abandon()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if waiter is not None:
                deadlock.went_on(waiter)
    try:
        return call.result()
    except StopIteration as error:  # a coroutine cannot raise it
        msg = f"{call.owner.service}.{call.method.name} raised StopIteration, which cannot be raised in a coroutine"
        raise RemoteError(
            msg,
            type_name="StopIteration",
            original_message=str(error),
            service=call.owner.service,
            method=call.method.name,
        ) from error


def wake_up() -> tuple[asyncio.Future[None], Callable[[], None]]:
    """Return a future of the running loop, and a function that completes it: from any thread, also repeatedly."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop was closed, so no task waits any more
            loop.call_soon_threadsafe(_set, woken)

    return woken, wake


async def wait_until(woken: asyncio.Future[None], seconds: float) -> None:
    """Wait for *woken*, at most *seconds*."""
    timer = None if seconds == inf else asyncio.get_running_loop().call_later(seconds, _set, woken)
    try:
        await woken
    finally:
        if timer is not None:
            timer.cancel()


def _set(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def _expire(loop: asyncio.AbstractEventLoop, call: Call) -> None:
    # If the call started in time, only its deadline applies now.
    if not call.expire() and call.deadline < inf:
        loop.call_later(max(0.001, call.deadline - call.owner.clock.monotonic()), _expire, loop, call)


async def in_thread(run: Callable[[], Any], *, name: str) -> Any:
    """
    Run *run* in a daemon thread with the present context variables, and return its result.
    """
    over, wake = wake_up()
    future = future_of(run, name, context=copy_context())
    future.add_done_callback(lambda _: wake())
    await over
    return future.result()


def start_thread(run: Callable[[], None], *, name: str) -> None:
    """Start a daemon thread that runs *run* with the present context variables."""
    start_bare_thread(run, name, context=copy_context())
