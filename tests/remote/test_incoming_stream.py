"""Turn-taking of threads at the caller's end of a stream."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sage_deploy_remote.link.incoming_stream import IncomingStream


@pytest.mark.timeout(20)
def test_a_thread_that_comes_too_late_for_a_step_runs_the_one_after_it():
    """No step is lost when another thread takes the last step and adds one while this thread gets its turn."""
    stream = IncomingStream(print, print, SimpleNamespace(channel=SimpleNamespace(on_room=print)), 1)
    queue, ran = stream._arrivals, []
    try_acquire, release = queue.try_acquire, queue.release

    def acquire_late():
        queue.try_acquire = try_acquire
        queue.items.popleft()()  # the thread that had the turn before takes the last step
        return try_acquire()

    def release_and_add():
        queue.release = release
        queue.items.append(lambda: ran.append("second"))  # its thread does not get the turn, and relies on this one
        release()

    queue.try_acquire, queue.release = acquire_late, release_and_add
    queue.items.append(lambda: ran.append("first"))
    queue.drain(stream._do_next)
    assert ran == ["first", "second"]
    assert queue.idle
