"""What an actor keeps of references that travel beside a socket, whichever comes first."""

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
    """Can be looked for."""


def test_what_was_brought_is_kept_until_the_call_is_over_and_a_moment_longer(carrier, clock):
    """A reference that comes again while it is let go of would never be resolved."""
    thing = Thing()
    found = weakref.ref(thing)
    carrier.deliver(MARK, [thing])
    assert carrier.receive(MARK) == [thing]
    del thing
    clock.advance(10)
    assert found() is not None
    carrier.end(MARK)
    assert is_empty(carrier)
    clock.advance(module._DROP_DELAY_S[0] / 2)
    assert found() is not None
    clock.advance(module._DROP_DELAY_S[1])
    assert found() is None


def test_who_reads_a_message_waits_for_what_belongs_to_it(carrier):
    """A task of Ray may be slower than a socket."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(carrier.receive, MARK)
        carrier.deliver("caller:2", ["another"])
        carrier.deliver(MARK, ["reference"])
        assert waiting.result(20) == ["reference"]


def test_what_is_sent_can_be_fetched_once(carrier):
    """The mark says whose it is."""
    mark = carrier.send("caller", ["reference"])
    assert mark.startswith("caller:")
    assert carrier.fetch(mark) == ["reference"]
    assert carrier.fetch(mark) == ()


@pytest.mark.parametrize("first", ["end", "deliver"])
def test_what_nobody_has_read_is_not_kept(carrier, first):
    """A call may be given up before its arguments are read, and before they have come."""
    steps = [lambda: carrier.end(MARK), lambda: carrier.deliver(MARK, ["reference"])]
    for step in steps if first == "end" else reversed(steps):
        step()
    assert is_empty(carrier)


def test_nothing_is_kept_of_a_caller_that_has_gone(carrier):
    """Nor what comes of it afterwards; who waits for it waits no more."""
    for number in range(2):
        carrier.deliver(f"caller:{number}", ["reference"])
    carrier.receive("caller:0")
    carrier.send("caller", ["result"])
    carrier.end("caller:2")
    with ThreadPoolExecutor() as pool:
        begun = threading.Event()

        def wait():
            begun.set()
            return carrier.receive("caller:3")

        waiting = pool.submit(wait)
        assert begun.wait(20)
        carrier.leave("caller")
        assert isinstance(waiting.exception(20), LookupError)
    carrier.deliver("caller:4", ["late"])
    carrier.end("caller:5")
    assert is_empty(carrier)


def test_callers_that_have_gone_are_not_remembered_for_ever(carrier, monkeypatch):
    """As many come and go as want."""
    monkeypatch.setattr(module, "_MAX_DEPARTED", 3)
    for number in range(10):
        carrier.leave(f"caller {number}")
    assert len(carrier._departed) == 3
