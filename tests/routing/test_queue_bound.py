"""
How `queue_size` bounds the queue: which calls take a place, and who gets a free one.

The suite of the strategies covers bound, order and overlap of calls.
"""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest

from sage_plugins import errors
from sage_plugins.clock import SystemClock
from sage_plugins.routing.draining import Closing
from sage_plugins.routing.lane import Lanes
from sage_plugins.routing.queue import Queue

PATIENCE = 20.0


# -- reject ------------------------------------------------------------------------------------------------------------


def test_unknown_method_takes_no_room(deploy, threaded, occupy):
    """A call that is refused for another reason takes no place in the queue."""
    service = deploy(threaded, queue_size=1, overload="reject")
    occupied = occupy(service)
    for _ in range(3):
        with pytest.raises(errors.MethodNotFoundError):
            service.handle.submit("ecco")
    waiting = service.handle.submit("echo", 1)
    occupied.open()
    assert waiting.result(PATIENCE) == 1


def test_large_queue(deploy, threaded, occupy):
    """A `queue_size` of several thousand is exact, too."""
    service = deploy(threaded, queue_size=3000, overload="reject")
    occupied = occupy(service)
    calls = [service.handle.submit("echo", number) for number in range(3000)]
    with pytest.raises(errors.OverloadedError):
        service.handle.submit("echo")
    assert service.waiting == 3000
    occupied.open()
    assert [call.result(PATIENCE) for call in calls] == list(range(3000))
    assert service.waiting == 0


# -- block -------------------------------------------------------------------------------------------------------------


def test_cancelled_call_makes_room_for_a_blocked_one(deploy, threaded, occupy, in_thread, until):
    """The place of a cancelled call goes to the submitter that has waited longest."""
    service = deploy(threaded, queue_size=1)
    occupied = occupy(service)
    waiting = service.handle.submit("echo")
    first = in_thread(service.handle.submit, "echo", "first")
    until(lambda: service.parked == 1)
    second = in_thread(service.handle.submit, "echo", "second")
    until(lambda: service.parked == 2)
    assert waiting.cancel()
    accepted = first.result(PATIENCE)
    assert (service.parked, service.waiting, second.done()) == (1, 1, False)
    assert accepted.cancel()
    accepted = second.result(PATIENCE)
    assert service.waiting == 1
    occupied.open()
    assert accepted.result(PATIENCE) == "second"


def test_blocked_submitters_go_on_in_order(deploy, occupy, in_thread, until):
    """Blocked submitters get a place, and run, in the order in which they came."""
    service = deploy("single", queue_size=1)
    occupied = occupy(service)
    ran = []
    waiting = service.handle.submit("run", ran.append, "queued")
    blocked = []
    for number in range(6):
        blocked.append(in_thread(service.handle.submit, "run", ran.append, number))
        until(lambda: service.parked == len(blocked))
    occupied.open()
    waiting.result(PATIENCE)
    for each in blocked:
        each.result(PATIENCE).result(PATIENCE)
    assert ran == ["queued", 0, 1, 2, 3, 4, 5]


# -- looking on --------------------------------------------------------------------------------------------------------


def test_number_that_waits_is_of_one_moment(monkeypatch):
    """Calls that leave while they are counted never make the number too high."""
    queue = Queue(Lanes(None, None, lambda _: None), SystemClock(), 1, "desk", print, print, "", late=False)
    queue.parked.extend(range(3))
    queue.shared.extend(range(4))

    def backlogs():
        counted = [tuple(queue.shared)]
        if len(queue.parked) == 3:  # while the thread counts, two calls are served
            queue.parked.popleft()
            queue.parked.popleft()
            queue.shared.popleft()
            queue.shared.popleft()
        return counted

    monkeypatch.setattr(queue, "backlogs", backlogs)
    assert queue.waiting == 1


LOOKS = {
    "oldest wait": lambda queue, _: queue.oldest_wait(),
    "sweep": lambda queue, _: (setattr(queue, "_sweep_at", 0.0), queue.sweep()),
    "turn away": lambda _, closing: closing._turn_away_parked(lambda _: True),
    "end": lambda _, closing: closing._end_waiting(None),
}


class Finalized:
    """An object in a reference cycle. The garbage collector runs its finalizer in the thread that it interrupts."""

    def __init__(self, finalize):
        self.itself, self.finalize = self, finalize

    def __del__(self):
        self.finalize()


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_at_waiting_calls_survives_a_change_of_them_by_a_finalizer(look):
    """A finalizer that adds calls to the queue while the router walks it does no harm."""
    lanes = Lanes(None, None, lambda _: None)
    queue = Queue(lanes, SystemClock(), 1, "desk", print, print, "", late=False)
    closing = Closing("desk", lanes, queue, lambda: None)
    closing.refusal = lambda _: None
    going_on = True

    def change():
        waiting = SimpleNamespace(since=0.0, parked=False, expire=bool, give_up=lambda *_, **__: None)
        queue.parked.append(waiting)
        queue.shared.append(waiting)
        if going_on:
            Finalized(change)  # for the next garbage collection

    change()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            look(queue, closing)
    finally:
        gc.set_threshold(*threshold)
        going_on = False
        gc.collect()
    assert len(queue.shared) > 1
