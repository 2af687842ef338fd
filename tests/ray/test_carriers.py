"""How long an actor keeps references that Ray brings separately from the socket, in every order of events."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from sage_deploy_ray.actors import carriers as module
from sage_deploy_ray.actors.carriers import ActorCarrier
from sage_deploy_testing.doubles.virtual_clock import VirtualClock

MARK = "caller:1"


@pytest.fixture
def clock(monkeypatch):
    clock = VirtualClock()
    monkeypatch.setattr(module, "SYSTEM", clock)
    return clock


@pytest.fixture
def carrier(clock):
    return ActorCarrier()


def is_empty(carrier):
    return not (carrier._pending or carrier._in_use or carrier._ended_early)


class Thing:
    """Can be referenced weakly."""


def test_what_was_brought_is_kept_until_the_call_is_over_and_a_moment_longer(carrier, clock):
    """
    References are kept until shortly after their call ends: one that comes again during its release never resolves.
    """
    thing = Thing()
    found = weakref.ref(thing)
    carrier.deliver(MARK, [thing])
    assert carrier.receive(MARK) == [thing]
    del thing
    clock.advance(10)
    assert found() is not None
    carrier.release(MARK)
    assert is_empty(carrier)
    clock.advance(module._DROP_DELAY_S[0] / 2)
    assert found() is not None
    clock.advance(module._DROP_DELAY_S[1])
    assert found() is None


def test_who_reads_a_message_waits_for_what_belongs_to_it(carrier):
    """The reader of a message waits for its references: a Ray task may be slower than a socket."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(carrier.receive, MARK)
        carrier.deliver("caller:2", ["another"])
        carrier.deliver(MARK, ["reference"])
        assert waiting.result(20) == ["reference"]


def test_what_is_sent_can_be_fetched_once(carrier):
    """Sent references can be fetched once, by a mark that starts with their caller."""
    mark = carrier.send("caller", ["reference"])
    assert mark.startswith("caller:")
    assert carrier.fetch(mark) == ["reference"]
    assert carrier.fetch(mark) == ()


@pytest.mark.parametrize("first", ["release", "deliver"])
def test_what_nobody_has_read_is_not_kept(carrier, first):
    """References that nobody read are dropped when the call ends, whether they came before or after that."""
    steps = [lambda: carrier.release(MARK), lambda: carrier.deliver(MARK, ["reference"])]
    for step in steps if first == "release" else reversed(steps):
        step()
    assert is_empty(carrier)


def test_nothing_is_kept_of_a_caller_that_has_gone(carrier):
    """When a caller has gone, its references are dropped, also late ones, and a waiting reader gets LookupError."""
    for number in range(2):
        carrier.deliver(f"caller:{number}", ["reference"])
    carrier.receive("caller:0")
    carrier.send("caller", ["result"])
    carrier.release("caller:2")
    with ThreadPoolExecutor() as pool:
        begun = threading.Event()

        def wait():
            begun.set()
            return carrier.receive("caller:3")

        waiting = pool.submit(wait)
        assert begun.wait(20)
        carrier.forget_caller("caller")
        assert isinstance(waiting.exception(20), LookupError)
    carrier.deliver("caller:4", ["late"])
    carrier.release("caller:5")
    assert is_empty(carrier)


def test_callers_that_have_gone_are_not_remembered_for_ever(carrier, monkeypatch):
    """The list of callers that have gone is bounded."""
    monkeypatch.setattr(module, "_MAX_DEPARTED", 3)
    for number in range(10):
        carrier.forget_caller(f"caller {number}")
    assert len(carrier._departed) == 3
