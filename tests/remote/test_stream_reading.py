"""The caller's end of a stream, step by step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sage_deploy_remote.link.stream_reading import StreamReading


@pytest.mark.timeout(20)
def test_a_thread_that_comes_too_late_for_a_step_runs_the_one_after_it():
    """Another thread takes the last step, and adds one, while this thread takes its turn: neither is lost."""
    reading = StreamReading(print, print, SimpleNamespace(channel=SimpleNamespace(on_room=print)), 1)
    queue, ran = reading._arrivals, []
    take, leave = queue.take, queue.leave

    def take_late():
        queue.take = take
        queue.items.popleft()()  # the thread that had the turn before
        return take()

    def leave_and_add():
        queue.leave = leave
        queue.items.append(lambda: ran.append("second"))  # its thread does not get the turn, and relies on this one
        leave()

    queue.take, queue.leave = take_late, leave_and_add
    queue.items.append(lambda: ran.append("first"))
    queue.drain(reading._do_next)
    assert ran == ["first", "second"]
    assert queue.idle
