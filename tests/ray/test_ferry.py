"""What an actor keeps of references that travel beside a socket, whichever comes first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sage_deploy_ray.actors import ferry as module
from sage_deploy_ray.actors.ferry import ActorFerry

MARK = "caller:1"


@pytest.fixture
def ferry():
    return ActorFerry()


def is_empty(ferry):
    return not (ferry._kept or ferry._unwanted)


def test_what_was_brought_is_received_once(ferry):
    """Then the actor keeps it no longer."""
    ferry.bring(MARK, ["reference"])
    assert ferry.receive(MARK) == ["reference"]
    assert is_empty(ferry)


def test_who_reads_a_message_waits_for_what_belongs_to_it(ferry):
    """A task of Ray may be slower than a socket."""
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(ferry.receive, MARK)
        ferry.bring("caller:2", ["another"])
        ferry.bring(MARK, ["reference"])
        assert waiting.result(20) == ["reference"]


def test_what_is_sent_can_be_fetched_once(ferry):
    """The mark says whose it is."""
    mark = ferry.send("caller", ["reference"])
    assert mark.startswith("caller:")
    assert ferry.fetch(mark) == ["reference"]
    assert ferry.fetch(mark) == ()


@pytest.mark.parametrize("first", ["drop", "bring"])
def test_what_nobody_wants_is_not_kept(ferry, first):
    """Whether it is there already, or still to come."""
    steps = [lambda: ferry.drop(MARK), lambda: ferry.bring(MARK, ["reference"])]
    for step in steps if first == "drop" else reversed(steps):
        step()
    assert is_empty(ferry)


def test_nothing_is_kept_of_a_caller_that_has_gone(ferry):
    """Nor what comes of it afterwards; who waits for it waits no more."""
    ferry.bring(MARK, ["reference"])
    ferry.send("caller", ["result"])
    ferry.drop("caller:2")
    with ThreadPoolExecutor() as pool:
        begun = threading.Event()

        def wait():
            begun.set()
            return ferry.receive("caller:3")

        waiting = pool.submit(wait)
        assert begun.wait(20)
        ferry.leave("caller")
        assert isinstance(waiting.exception(20), LookupError)
    ferry.bring("caller:4", ["late"])
    ferry.drop("caller:5")
    assert is_empty(ferry)


def test_callers_that_have_gone_are_not_remembered_for_ever(ferry, monkeypatch):
    """As many come and go as want."""
    monkeypatch.setattr(module, "_GONE", 3)
    for number in range(10):
        ferry.leave(f"caller {number}")
    assert len(ferry._gone) == 3
