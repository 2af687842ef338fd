"""Threads that run one function: their result and context, and that none keeps the interpreter alive."""

from __future__ import annotations

import threading
from contextvars import ContextVar, copy_context

import pytest

from sage_plugins.threads import future_of, start_thread

NUMBER: ContextVar[int] = ContextVar("NUMBER", default=0)


def test_future_has_the_result_or_the_error():
    """The future has the function's result or its error, even a SystemExit."""
    assert future_of(lambda: 7, "seven").result(20) == 7

    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        future_of(leave, "leaves").result(20)


def test_future_cannot_be_cancelled():
    """The future cannot be cancelled, since its thread would go on."""
    gate = threading.Event()
    future = future_of(gate.wait, "waits")
    assert not future.cancel()
    gate.set()
    assert future.result(20)


@pytest.mark.parametrize("given", [True, False])
def test_body_sees_the_given_context_only(given):
    """
    The function sees the given context, or an empty one: a thread that outlives a call must not count as part of it.
    """
    NUMBER.set(5)
    future = future_of(NUMBER.get, "looks", context=copy_context() if given else None)
    assert future.result(20) == (5 if given else 0)


def test_thread_is_a_daemon_with_its_name():
    """The thread is a daemon, so it does not keep the interpreter alive, and has the given name."""
    gate = threading.Event()
    thread = start_thread(gate.wait, "waits")
    gate.set()
    thread.join(20)
    assert (thread.name, thread.daemon, thread.is_alive()) == ("waits", True, False)
