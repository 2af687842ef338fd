"""A thread may leave in the instant in which work comes: at whichever step that is, the work gets a thread."""

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
    """The other thread is at work, and will not be back."""


class Turnstile:
    """A lock of which the trace function must know that another thread could not take it now."""

    held = False

    def __enter__(self):
        if self.held:
            raise MustWaitError
        self.held = True

    def __exit__(self, *_):
        self.held = False


class Seat:
    """Starts no thread, and counts those that it was to start."""

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
    """*number* calls come, and the other thread takes one; what is to be done when the lock is free."""
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
    One of one or two idle threads leaves; before its *step*-th step as many calls come, and the other thread takes one.

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
        frame.f_trace = trace  # first: else Python 3.13 tells of no steps
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
    """The other thread is at work for good, so the last call needs the one that leaves, or a new one."""
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
        thread.join(0.1)  # the moment in which it may end
        self.threads.append(thread)
        return thread

    def worker(self):
        return lambda _work: None


def test_a_thread_that_leaves_as_soon_as_it_starts_keeps_no_place():
    """Work that comes later gets a new thread; a dead one does not count towards the maximum."""
    seat = QuickSeat()
    workers = Workers(seat, first=2, most=2, idle_timeout=0.0, queue=SimpleQueue())
    for thread in seat.threads[2:]:
        thread.join()
    assert len(seat.threads) == 4
    assert not workers._threads
