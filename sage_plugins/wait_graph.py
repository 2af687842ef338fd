"""
Calls made by services' methods that wait for a slot, and whether one can ever get it.

A method that calls its own service, directly or through others, holds a slot while it waits for another. Once every
slot is held by a method that waits in this way, none gets free again: without a look at the whole they would wait until
their time-outs. Only calls made from within a call, and only those that must wait, are looked at.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sage_plugins.errors import ReentrantCallError
from sage_plugins.values import MethodKind, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.call import Call
    from sage_plugins.router import Router

__all__ = ["after_fork", "guard"]

_COROUTINES = (MethodKind.ASYNC, MethodKind.ASYNC_GENERATOR)

_lock = threading.RLock()
_waiting: dict[Call, Call] = {}  # each call that waits for a slot, and the call whose method waits for it


def guard(call: Call, waiter: Call, *, blocks: bool) -> None:
    """
    End *call* with ReentrantCallError if the method that answers *waiter*, and is about to wait for it, never gets it.

    Does nothing in every other case, and it is no error if *call* has started.

    Args:
        call: What is waited for.
        waiter: Whose method waits.
        blocks: Whether its thread does nothing else meanwhile.
    """
    if blocks and waiter.on_loop and call.lane is waiter.lane and call.method.kind in _COROUTINES:
        _refuse(
            call,
            f"the coroutine {_name(waiter)} waits for it with call() and so keeps the event loop on which it would "
            "run. Use `await handle.acall(...)`",
        )
        return
    if not call.unstarted() or call.lane is not None:
        return
    with _lock:
        for other in [other for other in _waiting if not other.unstarted() or other.settled()]:
            del _waiting[other]
        _waiting[call] = waiter
        stuck = call.owner in _stuck()
    if stuck:
        path = " -> ".join([*(_name(each) for each in reversed(list(_chain(waiter)))), _name(call)])
        _refuse(
            call,
            f"every slot is held by a method that itself waits for a slot: {path}. Give the service more threads or "
            "replicas, or do not call a service from within its own calls",
        )


def _refuse(call: Call, why: str) -> None:
    text = f"{_name(call)} would never start: {why}"
    error = ReentrantCallError(text, service=call.owner.service, method=call.method.name)
    call.give_up(error, Outcome.ERROR, only_unstarted=True)


def _stuck() -> set[Router]:
    """
    The services no slot of which can get free, among those for which calls wait.

    All are taken to be stuck first; one is not if it has a slot that is free or held by a call that waits for none of
    them. That is repeated until nothing changes.
    """
    stuck: set[Router] = {call.owner for call in _waiting}  # type: ignore[misc] # every owner of a call is a router
    while True:
        holders = {
            outer.batch or outer
            for call, waiter in _waiting.items()
            if call.owner in stuck
            for outer in _chain(waiter)
            if not outer.over()
        }
        free = {router for router in stuck if router.can_move(holders)}
        if not free:
            return stuck
        stuck -= free


def _chain(call: Call | None) -> Iterator[Call]:
    """*call*, the call whose method made it, and so on."""
    while call is not None:
        yield call
        call = call.outer


def _name(call: Call) -> str:
    return f"{call.owner.service}.{call.method.name}"


def after_fork() -> None:
    """In a forked child: nobody of these waits here."""
    global _lock  # noqa: PLW0603 - the process is a new one
    _lock = threading.RLock()
    _waiting.clear()
