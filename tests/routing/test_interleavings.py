"""
The router keeps all its rules, whatever one thread does between any two steps of another.

The router and its calls use few locks. So a thread can be interrupted anywhere, and the state can change meanwhile.
This test tries every such moment, one by one, in a single thread:

- Python calls a trace function (`sys.settrace` with `f_trace_opcodes`) at each step of the interpreter.
- Before the n-th step of the first operation, the trace function runs the whole second operation. Only steps in the
  code of routers, calls and batches count.
- Then the first operation goes on, the world runs to its end, and the rules are checked.
- This is repeated in a new world for n = 1, 2, 3 ... until the first operation has no n-th step.

`Turnstile`s replace the locks. If the second operation would have to wait for a lock that the first holds, the step is
skipped: a second thread could not run there either.

The riskiest pairs of operations always run. `make test-long` runs all pairs, in both orders, in every setting. A
failure names setting, operations and step. To repeat it:

    SAGE_INTERLEAVING="one slot: route / answer / 17" pytest tests/routing/test_interleavings.py
"""

from __future__ import annotations

import os
import re
import signal

import pytest

import sage_plugins.call.call
import sage_plugins.call.lazy_future
from interleaved_world import OPERATIONS
from interleaving_search import interleave, search, spins
from interleaving_settings import SETTINGS
from sage_plugins.routing.router import Router
from turnstile import Shared, Turnstile

ONE = os.environ.get("SAGE_INTERLEAVING")

#: More steps than any operation has.
NEVER = 1_000_000


# -- the second operation in the middle of the first -------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _locks_know_whose_turn_it_is(monkeypatch):
    monkeypatch.setattr(sage_plugins.call.call, "_GIVING_UP", Turnstile())
    monkeypatch.setattr(sage_plugins.call.lazy_future, "_MAKING", Turnstile())
    monkeypatch.setattr(sage_plugins.call.lazy_future, "_Shared", Shared)


@pytest.fixture(autouse=True)
def _circles_are_found():
    if not hasattr(signal, "SIGVTALRM"):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, spins)
    yield
    signal.signal(signal.SIGVTALRM, before)


# -- the tests ---------------------------------------------------------------------------------------------------------


SUSPECTED = [(first, "suspect") for first in ("route", "answer", "cancel", "give up running")]

#: For each setting, pairs in which one operation undoes, or takes, what the other looks for. The second interrupts the
#: first; the other order runs with all pairs.
AT_RISK = {
    "two slots": SUSPECTED,
    "a slot is free": [("route", "suspect"), ("answer", "suspect")],
    "one slot": [
        *SUSPECTED,
        ("route", "answer"),
        ("answer", "give up running"),
        ("die", "give up running"),
        ("drain", "route"),
        ("close to outsiders", "drain"),
        ("watch running", "answer"),
        ("wait", "answer"),
        ("replace", "route"),
        ("replace", "answer"),
    ],
    "with a standby": [("change balancer", "route"), ("change balancer", "answer"), ("avoid", "route")],
    "nothing waits": [("route", "answer"), ("die", "drain")],
    "narrow queue": [*SUSPECTED, ("route", "answer"), ("route", "cancel"), ("answer", "cancel"), ("drain", "route")],
    "sent": [("start", "cancel"), ("die", "give up waiting")],
    "in turn, no queue": [("route", "answer"), ("close", "route")],
    "in turn": [("retire", "route"), ("change balancer", "answer")],
    "by key": [("close", "route"), ("change balancer", "route"), ("change balancer", "answer"), ("avoid", "route")],
    "by key, nothing waits": [("change balancer", "route")],
    "for the first": [("close", "drain"), ("close", "ask whether idle")],
    "bound, without keys": [
        ("route", "answer"),
        ("answer", "cancel"),
        ("close", "route"),
        ("die", "route"),
        ("drain", "answer"),
        ("change balancer", "answer"),
    ],
    "turns, bound, without keys": [("route", "answer"), ("answer", "cancel")],
    "turns": [("route", "answer"), ("answer", "cancel")],
    "a batch is open": [
        ("route", "suspect"),
        ("cancel", "suspect"),
        ("gather", "suspect"),
        ("route", "gather"),
        ("route", "die"),
        ("gather", "cancel"),
        ("gather", "die"),
        ("gather", "close"),
        ("close", "route"),
    ],
    "batches wait": [("answer", "cancel"), ("answer", "give up running"), ("die", "drain")],
    "ahead": [
        ("answer", "cancel"),
        ("answer", "die"),
        ("answer", "drain"),
        ("give back", "route"),
        ("give back", "give up running"),
        ("give back", "die"),
        ("give back", "drain"),
        ("give back", "close"),
    ],
    "ahead, sent": [
        ("start", "route"),
        ("start", "cancel"),
        ("start", "die"),
        ("start", "drain"),
        ("start", "give up running"),
    ],
    "ahead, mixed": [("answer", "route"), ("answer", "give up waiting")],
    "ahead, narrow queue": [("answer", "cancel"), ("give back", "route")],
    "ahead, two replicas": [("give back", "answer"), ("answer", "close"), ("die", "give back")],
    "ahead, bound, without keys": [("answer", "route"), ("give back", "answer")],
    "ahead, turns": [("answer", "route"), ("answer", "cancel")],
    "inline": [("give up waiting", "take turns"), ("answer", "give up waiting"), *SUSPECTED],
}

only_without_a_wish = pytest.mark.skipif(ONE is not None, reason="SAGE_INTERLEAVING asks for one interleaving only")


@only_without_a_wish
@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [
        pytest.param(setting, *pair, id=f"{setting}: {' / '.join(pair)}")
        for setting, pairs in AT_RISK.items()
        for pair in pairs
    ],
)
def test_pairs_at_risk_keep_the_rules_at_every_step(setting, first, second):
    """Whichever step of one operation of a risky pair the other interrupts, the router keeps its rules."""
    steps, failure = search(setting, first, second)
    if failure:
        pytest.fail(failure, pytrace=False)
    assert steps > 3, "the first operation was hardly looked at"


@pytest.mark.slow
@only_without_a_wish
@pytest.mark.parametrize("first", OPERATIONS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_all_pairs_keep_the_rules_at_every_step(setting, first):
    """Whichever step of any operation any other interrupts, the router keeps its rules."""
    failures = [failure for second in OPERATIONS if (failure := search(setting, first, second)[1])]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


if ONE is not None:

    def test_the_one_interleaving_asked_for():
        """The router keeps its rules in the interleaving that SAGE_INTERLEAVING names."""
        setting, operations = ONE.split(": ")
        first, second, step = operations.split(" / ")
        reached, failure = interleave(setting, first, second, int(step))
        if failure:
            pytest.fail(failure, pytrace=False)
        assert reached, f"{first!r} has no step {step} any more"


# -- faults that the search must find: a check that has never failed proves nothing ------------------------------------


class SubtractsOnlyAbove0(Router):
    """Mistakes an abandoned call that ends before it was counted for one that was never counted."""

    def abandoned_ended(self, call):
        with self._lock:
            if call.lane.abandoned > 0:
                call.lane.abandoned -= 1


class NeverLooksAgain(Router):
    """A call that joins the queue does not check whether a slot got free meanwhile."""

    def _joined(self, call):
        pass


class LooksOnlyOnce(Router):
    """Takes for lost what one look misses, though a thread may hold it."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self._recovery._looks_needed = 1


@pytest.mark.parametrize(
    ("router", "setting", "first", "second", "rule"),
    [
        (
            LooksOnlyOnce,
            "a slot is free",
            "route",
            "suspect",
            "holds . pieces of work|has 0 free slots and 3 withdrawn",
        ),
        (SubtractsOnlyAbove0, "one slot", "give up running", "answer", "counts 1 abandoned calls at the end"),
        (NeverLooksAgain, "nothing waits", "route", "answer", "has a free slot"),
    ],
)
def test_a_router_that_breaks_a_rule_between_two_steps_is_found_out(router, setting, first, second, rule):
    """The search finds each faulty router, and its message repeats the failure; the real router passes at that step."""
    _, failure = search(setting, first, second, router)
    assert re.search(rule, failure), failure
    again = re.search(rf'SAGE_INTERLEAVING="{setting}: {first} / {second} / (\d+)"', failure)
    assert interleave(setting, first, second, int(again[1]), router) == (True, failure)
    assert interleave(setting, first, second, int(again[1]), Router) == (True, None)


@pytest.mark.parametrize("router", [SubtractsOnlyAbove0, NeverLooksAgain])
def test_the_same_faults_are_not_seen_when_one_operation_comes_after_the_other(router):
    """If one operation runs after the other, not inside it, the same faults stay hidden."""
    for setting, first, second in (("one slot", "give up running", "answer"), ("nothing waits", "route", "answer")):
        assert interleave(setting, first, second, NEVER, router) == (False, None)
