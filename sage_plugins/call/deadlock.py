"""
Services' methods that wait for calls, and whether what they wait for can ever happen.

A method that calls its own service, directly or through others, holds a slot while it waits for another. Once every
slot that could help is held by a method that waits in this way, none gets free again: without a look at the whole they
would wait until their timeouts. Only calls made from within a call are looked at.

The start hooks of a replica are such a method, too: they hold every slot that the replica is to have until they end.

Each method that waits is an edge, from the work that holds its slot to the call that it waits for. A new edge closes a
deadlock or none is closed, for nothing else makes a method wait; so every new one is looked at, and no other moment.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

from sage_plugins.errors import ReentrantCallError
from sage_plugins.values import COROUTINES, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sage_plugins.call.batch import Batch
    from sage_plugins.call.call import Call

__all__ = ["after_fork", "awaited_by_hooks", "guard", "note", "went_on"]

#: What holds a slot.
_Work: TypeAlias = "Call | Batch"

_lock = threading.RLock()  # of two that close a deadlock together, one is enough
_waits: dict[_Work, Call] = {}  # each call or batch whose method waits, and for what; single steps need no lock


def guard(call: Call, waiter: Call, *, blocks: bool = True) -> None:
    """
    Note that the method answering *waiter* waits for *call* from now on, and end that wait if it would be for ever.

    Then the call that never gets a slot ends with ReentrantCallError: *call*, or the one for which *call* waits itself.
    Must be followed by `went_on`. Safe from any thread.

    Args:
        call: What is waited for.
        waiter: Whose method waits.
        blocks: Whether its thread does nothing else meanwhile.
    """
    if blocks and waiter.on_loop and _needs_loop(call, waiter):
        _refuse(
            call,
            f"the coroutine {_name(waiter)} waits for it with call() and so keeps the event loop that it needs. Use "
            "`await handle.acall(...)`",
            only_unstarted=False,
        )
        return
    _waits[_work(waiter)] = call
    if not call.waits and (call.lane is None or call.lane.told_waits is not None):
        _tell(call)
    if _queued_for(call, _waits) is None:
        return
    with _lock:
        waits = _waits.copy()
        queued = _queued_for(call, waits)
        if queued is None or queued not in (stuck := _stuck(waits)):
            return
        # Those who went on meanwhile may have been counted as if they held their slots: then there is no deadlock.
        if not all(
            _waits.get(work) is awaited for work, awaited in waits.items() if _queued_for(awaited, waits) in stuck
        ):
            return
    chain = list(_chain(queued.outer or waiter))
    path = " -> ".join([*(_name(each) for each in reversed(chain)), _name(queued)])
    if any(each.prepares for each in chain):
        _refuse(
            queued,
            f"a replica gets no calls before its start hooks have ended, and those that could take it wait: {path}. "
            "Use `submit` in the hook and do not wait for the result, or make the call once the service is ready",
        )
        return
    _refuse(
        queued,
        f"every slot that it could get is held by a method that itself waits for one: {path}. Give the service more "
        "threads or replicas, raise the method's `max_concurrency`, or do not call a service from within its own calls",
    )


def _tell(call: Call) -> None:
    """Say where *call* has gone that its caller waits; one that has not is on its way with that word."""
    call.waits = True  # first: its sender says so from now on
    lane = call.lane
    if lane is not None and lane.told_waits is not None:
        lane.told_waits(call)


def note(call: Call, waiter: Call) -> None:
    """As `guard` without the look: *call* is about to be routed, and may run in the thread of the method that waits."""
    _waits[_work(waiter)] = call


def went_on(waiter: Call) -> None:
    """The method answering *waiter* waits no more."""
    _waits.pop(_work(waiter), None)


def awaited_by_hooks(lane: object) -> list[str]:
    """The methods whose calls the start hooks of the replica behind *lane* wait for, if they run in this process."""
    waits = _waits.copy().items()
    return [_name(call) for work, call in waits if getattr(work, "prepares", False) and work.lane is lane]


def _needs_loop(call: Call, waiter: Call) -> bool:
    """Whether *call* cannot go on while the loop of *waiter* stands still."""
    if call.lane is None:  # a slot that gets free elsewhere may do
        return call.unstarted() and not call.owner.can_start(call, (), beside=waiter.lane)
    # What the loop has left to a thread needs it no more.
    return call.lane is waiter.lane and (call.method.kind in COROUTINES or not call.off_loop)


def _refuse(call: Call, why: str, *, only_unstarted: bool = True) -> None:
    text = f"{_name(call)} would never {'start' if call.unstarted() else 'end'}: {why}"
    error = ReentrantCallError(text, service=call.owner.service, method=call.method.name)
    call.give_up(error, Outcome.ERROR, only_unstarted=only_unstarted)


def _stuck(waits: Mapping[_Work, Call]) -> set[Call]:
    """
    The calls that never get a slot.

    All that wait for one are taken to be stuck first; one is not if it can get a slot that is free, or held by work
    that waits for none of them. That is repeated until nothing changes.
    """
    stuck = {call for call in waits.values() if _is_queued(call)}
    while True:
        holders = [work for work, awaited in waits.items() if _queued_for(awaited, waits) in stuck]
        free = {call for call in stuck if call.owner.can_start(call, holders)}
        if not free:
            return stuck
        stuck -= free


def _queued_for(call: Call, waits: Mapping[_Work, Call]) -> Call | None:
    """The call without a slot for which *call* waits in the end, perhaps itself; None if it runs or is over."""
    seen = set()
    awaited: Call | None = call
    while awaited is not None and awaited not in seen:
        if _is_queued(awaited):
            return awaited
        seen.add(awaited)
        awaited = None if awaited.over() else waits.get(_work(awaited))
    return None


def _is_queued(call: Call) -> bool:
    return call.lane is None and call.unstarted()


def _work(call: Call) -> _Work:
    work: _Work = call.batch or call
    return work


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
    _waits.clear()
