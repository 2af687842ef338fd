"""
Detects deadlocks between service methods that wait for nested calls, and ends a call that could never start.

A method that calls its own service, directly or through others, holds a slot while it waits for another. If such
methods hold every slot that could help, none gets free again. Without this module they would wait until their timeouts.
Only nested calls are checked.

The start hooks of a replica count as such a method. They hold all slots of the replica until they end.

Each waiting method is an edge, from the work that holds its slot to the call that it waits for. Only a new edge can
close a deadlock. So every new edge is checked, and nothing else is.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeAlias

from sage_plugins.call.event_loops import running_loop
from sage_plugins.errors import ReentrantCallError
from sage_plugins.values import COROUTINES, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sage_plugins.call.batch import Batch
    from sage_plugins.call.call import Call

__all__ = ["after_fork", "awaited_by_hooks", "guard", "note", "went_on"]

#: A work item that holds a slot.
_Work: TypeAlias = "Call | Batch"

_lock = threading.RLock()  # if two threads close one deadlock, only one of them ends a call
_waits: dict[_Work, Call] = {}  # for each call or batch whose method waits: the awaited call; atomic steps, no lock


def guard(call: Call, waiter: Call, *, blocks: bool = True) -> None:
    """
    Note that the method of *waiter* waits for *call* from now on, and break a deadlock if this closes one.

    In a deadlock, the call that can never get a slot ends with ReentrantCallError: *call*, or the call for which
    *call* itself waits. So does *call* if the wait blocks the event loop that it needs. `went_on` must follow. Safe
    from any thread.

    Args:
        call: The awaited call.
        waiter: The call whose method waits.
        blocks: Whether the wait blocks the method's thread.
    """
    if waiter.has_ended():  # only a task or a thread that it has left waits
        return
    # A coroutine may wait in a thread, as with `asyncio.to_thread`, which blocks no loop.
    if blocks and waiter.on_loop and running_loop() is not None and _needs_loop(call, waiter):
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
        # A method may have stopped waiting since `_waits` was copied. Then there is no deadlock.
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
    """Tell the replica of *call* that its caller waits; a call that is not sent yet carries that information itself."""
    call.waits = True  # first, as the thread that sends the call reads it
    lane = call.lane
    if lane is not None and lane.told_waits is not None:
        lane.told_waits(call)


def note(call: Call, waiter: Call) -> None:
    """As `guard` without a check: *call* will be routed, and may run in the waiting method's own thread."""
    _waits[_work(waiter)] = call


def went_on(waiter: Call) -> None:
    """Note that the method of *waiter* waits no more."""
    _waits.pop(_work(waiter), None)


def awaited_by_hooks(lane: object) -> list[str]:
    """Return the methods that the start hooks of the replica of *lane* wait for, if these run in this process."""
    waits = _waits.copy().items()
    return [_name(call) for work, call in waits if getattr(work, "prepares", False) and work.lane is lane]


def _needs_loop(call: Call, waiter: Call) -> bool:
    """Whether *call* cannot go on while *waiter* blocks its event loop."""
    if call.lane is None:  # a slot of another replica may do
        return call.unstarted() and not call.owner.can_start(call, (), beside=waiter.lane)
    # A call that the loop has left to a thread no longer needs the loop.
    return call.lane is waiter.lane and (call.method.kind in COROUTINES or not call.off_loop)


def _refuse(call: Call, why: str, *, only_unstarted: bool = True) -> None:
    text = f"{_name(call)} would never {'start' if call.unstarted() else 'end'}: {why}"
    error = ReentrantCallError(text, service=call.owner.service, method=call.method.name)
    call.give_up(error, Outcome.ERROR, only_unstarted=only_unstarted)


def _stuck(waits: Mapping[_Work, Call]) -> set[Call]:
    """
    Return the calls that can never get a slot.

    Begin with all awaited calls that wait for a slot. Remove each call that can get a slot which is free, or which is
    held by work that waits for none of the remaining calls. Repeat until nothing changes.
    """
    stuck = {call for call in waits.values() if _is_queued(call)}
    while True:
        holders = [work for work, awaited in waits.items() if _queued_for(awaited, waits) in stuck]
        free = {call for call in stuck if call.owner.can_start(call, holders)}
        if not free:
            return stuck
        stuck -= free


def _queued_for(call: Call, waits: Mapping[_Work, Call]) -> Call | None:
    """Return the call without a slot for which *call* waits in the end, perhaps *call* itself; None if none."""
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
    """Yield *call*, the call whose method made it, and so on."""
    while call is not None:
        yield call
        call = call.outer


def _name(call: Call) -> str:
    return f"{call.owner.service}.{call.method.name}"


def after_fork() -> None:
    """In a forked child: forget the waits, whose threads do not exist here."""
    global _lock  # noqa: PLW0603 - the process is a new one
    _lock = threading.RLock()
    _waits.clear()
