"""The callers of a batch are woken while the next batch runs."""

from __future__ import annotations

import threading

import pytest

from sage_plugins import batch_of

PATIENCE = 20.0
SIZE = 8


class Model:
    """Answers in batches, each of which waits for its gate."""

    def __init__(self, gates):
        self.gates = gates

    def ask(self, number):
        return self.ask_many([number])[0]

    @batch_of("ask")
    def ask_many(self, numbers):
        self.gates[numbers[0] // SIZE]()
        return [(number, threading.current_thread()) for number in numbers]


@pytest.fixture
def two_batches(deploy, gates, in_thread):
    """
    One batch runs while its callers wait in threads, and another waits.

    Yields gates, callers, waking threads, service.
    """
    doors = [gates(), gates()]
    service = deploy("single", Model, doors, batch_size=SIZE, batch_wait=PATIENCE)
    told = []

    def ask(number):
        call = service.handle.submit("ask", number)
        call.on_over(lambda _: told.append(threading.current_thread()))
        return call.result(PATIENCE)

    first = [in_thread(ask, number) for number in range(SIZE)]
    doors[0].wait_entered()
    second = [service.handle.submit("ask", number) for number in range(SIZE, 2 * SIZE)]
    yield doors, first, told, service
    doors[1].open()
    for call in second:
        call.result(PATIENCE)


def test_callers_of_a_batch_are_woken_by_another_thread_than_runs_the_next(two_batches):
    """Another thread than the worker wakes the callers of a batch, so that the next batch does not wait for it."""
    doors, callers, told, _ = two_batches
    doors[0].open()
    answers = [each.result(PATIENCE) for each in callers]
    assert sorted(number for number, _ in answers) == list(range(SIZE))
    assert len(told) == SIZE
    assert not {worker for _, worker in answers} & set(told)


def test_callers_of_a_batch_are_woken_where_no_thread_can_be_started(two_batches, monkeypatch):
    """If no thread can be started, the worker wakes the callers itself."""
    doors, callers, told, service = two_batches

    def refuse(_):
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(service.env.task(service.name)._router, "aside", refuse, raising=False)
    doors[0].open()
    answers = [each.result(PATIENCE) for each in callers]
    assert {worker for _, worker in answers} == set(told)
