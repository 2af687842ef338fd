"""If a thread leaves at the moment when work comes, the work still gets a thread, whichever step that is."""

from __future__ import annotations

import sys
import threading
from itertools import count
from queue import SimpleQueue

import pytest

from sage_deploy_threading.workers import Workers


class MustWaitError(BaseException):
    """The other thread would have to wait for the lock."""


class StuckError(BaseException):
    """The other thread has taken a call and never returns."""


class Turnstile:
    """A lock that raises if the other thread would have to wait for it."""

    held = False

    def __enter__(self):
        if self.held:
            raise MustWaitError
        self.held = True

    def __exit__(self, *_):
        self.held = False


class Seat:
    """Starts no thread, and counts the threads that it was asked to start."""

    name = "svc#0"

    def __init__(self):
        self.threads = [threading.current_thread(), threading.Thread()]  # the one that leaves, and the other
        self.started = 0

    def spawn(self, _work, _suffix):
        self.started += 1
        return self.threads[self.started - 1] if self.started <= 2 else threading.Thread()

    def get(self):
        raise AssertionError

    get_within = get

    def worker(self):
        def execute(_work):
            raise StuckError

        return execute


def calls_come(workers, queue, number):
    """Put *number* calls; the other thread takes one. Return what must wait until the lock is free."""
    try:
        for call in range(number):
            queue.put(call)
            if not workers.idle:
                workers.grow()
        if number > 1:
            workers._work_elastic()
    except MustWaitError:
        return workers.grow
    except StuckError:
        pass
    return lambda: None


def leave(step, threads):
    """
    Let an idle thread leave. Before the given step, as many calls come as there are threads; the other takes one.

    Returns:
        Whether there was such a step, and whether the last call gets a thread.
    """
    seat, queue = Seat(), SimpleQueue()
    workers = Workers(seat, first=threads, most=threads, idle_timeout=1.0, queue=queue)
    workers._lock = Turnstile()
    steps, later = count(), []

    def trace(frame, event, _arg):
        if frame.f_code is not Workers._leave.__code__:
            return None
        frame.f_trace = trace  # set it first: without it, Python 3.13 reports no steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and next(steps) == step:
            sys.settrace(None)
            later.append(calls_come(workers, queue, threads))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        left = workers._leave()
    finally:
        sys.settrace(before)
    for do in later:
        do()
    return bool(later), not left or seat.started > threads or queue.qsize() == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_work_that_comes_while_a_thread_leaves_gets_a_thread(threads):
    """A call that comes while a thread leaves gets that thread or a new one, whichever step it comes at."""
    for step in count():
        reached, served = leave(step, threads)
        if not reached:
            break
        assert served, f"a call is left to nobody if it comes before step {step}"
    assert step > 10


class QuickSeat(Seat):
    """Its threads find no work and may end before `spawn` returns."""

    def spawn(self, work, _suffix):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.1)  # gives the thread time to end
        self.threads.append(thread)
        return thread

    def worker(self):
        return lambda _work: None


def test_a_thread_that_leaves_as_soon_as_it_starts_keeps_no_place():
    """A thread that ends as soon as it starts does not count towards the maximum."""
    seat = QuickSeat()
    workers = Workers(seat, first=2, most=2, idle_timeout=0.0, queue=SimpleQueue())
    for thread in seat.threads[2:]:
        thread.join()
    assert len(seat.threads) == 4
    assert not workers._threads
