"""Replicas are recycled by the rules, and the test finds each fault planted in them."""

from __future__ import annotations

import re
from itertools import pairwise
from math import inf

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from first_failure import first_failure
from sage_plugins.config.nested_keys import RecyclePolicy
from sage_plugins.resilience import recycling
from sage_plugins.resilience.recycling import Recycling, ReplicaUsage
from sage_plugins.resilience.restarts import FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S

FIRST = first_failure(examples=100, steps=40)


class RecyclingMachine(RuleBasedStateMachine):
    """Replicas take calls, grow and age; each decision is compared with a model of the contract."""

    @initialize(
        calls=st.none() | st.integers(1, 50),
        memory=st.none() | st.floats(1.0, 500.0),
        age=st.none() | st.floats(0.5, 300.0),
        number=st.integers(0, 4),
    )
    def begin(self, calls, memory, age, number):
        self.policy = RecyclePolicy(calls, memory, age)
        self.machine = Recycling(self.policy)
        self.now = 1000.0
        self.usage = {id: ReplicaUsage(id, 0, 10.0, 0.0) for id in "abcd"[:number]}
        self.busy = None
        self.young = False
        self.not_before = 0.0
        self.pauses = []

    @rule(id=st.sampled_from("abcd"), calls=st.integers(0, 30), memory=st.floats(-20.0, 100.0))
    def works(self, id, calls, memory):
        usage = self.usage.get(id)
        if usage is not None:
            self.usage[id] = usage._replace(calls=usage.calls + calls, memory_mb=max(1.0, usage.memory_mb + memory))

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.usage = {id: usage._replace(age=usage.age + seconds) for id, usage in self.usage.items()}

    def share(self, usage):
        """Return how much of its nearest limit a replica has reached."""
        pairs = zip((usage.calls, usage.memory_mb, usage.age), self.policy, strict=True)
        return max((found / limit for found, limit in pairs if limit is not None), default=0.0)

    @rule()
    def look(self):
        due = self.machine.look(self.usage.values(), self.now)
        shares = {id: self.share(usage) for id, usage in self.usage.items()}
        free = self.busy is None and self.now >= self.not_before
        reached = max(shares.values(), default=0.0) >= 1.0
        if not free:
            assert due is None, "one at a time, after its pause"
            return
        assert (due is not None) == reached, "limit"
        if due is None:
            return
        assert shares[due.replica] == max(shares.values()), "furthest"
        usage = self.usage[due.replica]
        numbers = [float(number) for number in re.findall(r"\d[\d.]*(?:e[+-]?\d+)?", due.reason)]
        assert len(numbers) == 2, "numbers"
        assert re.match(r"(calls|memory|age) .*recycle\.max_(calls|memory_mb|age) is ", due.reason), "numbers"
        most = self.policy.max_memory_mb
        self.young = most is not None and usage.memory_mb >= most and usage.age < STEADY_S
        self.busy = due.replica

    @rule()
    def is_replaced(self):
        if self.busy is None:
            return
        self.machine.replaced(self.now)
        self.usage[self.busy] = ReplicaUsage(self.busy, 0, 10.0, 0.0)
        self.busy = None
        if self.young:
            self.paused()
        else:
            self.pauses = []

    @rule()
    def fails(self):
        if self.busy is None:
            return
        told = self.machine.failed(self.now)
        self.busy = None
        self.paused()
        assert self.now + told == self.not_before, "told"

    def paused(self):
        """Set the pause before the next recycling: 1 s, then twice as long each time."""
        self.pauses.append(min(FIRST_WAIT_S * 2 ** len(self.pauses), LONGEST_WAIT_S))
        self.not_before = self.now + self.pauses[-1]

    @invariant()
    def bounded(self):
        assert all(pause <= LONGEST_WAIT_S for pause in getattr(self, "pauses", ())), "bounded"


def test_recycling_keeps_its_rules():
    """Whatever replicas do, recycling keeps its rules."""
    run_state_machine_as_test(RecyclingMachine, settings=settings(FIRST, phases=[Phase.generate, Phase.shrink]))


BROKEN = {
    "never busy": ("one at a time", lambda m: setattr(m, "look", _look_again(m.look))),
    "no pause": ("told|one at a time", lambda m: setattr(m, "_wait", lambda now: None)),
    "never due": ("limit", lambda m: setattr(m, "look", lambda usage, now: None)),
    "any of them": (
        "furthest|limit",
        lambda m: setattr(m, "look", lambda usage, now, look=m.look: look(list(usage)[:1], now)),
    ),
}


def _look_again(look):
    def looks(usage, now):
        found = look(usage, now)
        if found is None:
            usage = list(usage)
            return recycling.Due(usage[0].replica, "calls 1, recycle.max_calls is 1") if usage else None
        return found

    return looks


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_rule_is_found(fault, monkeypatch):
    """The state machine finds each planted fault."""
    said, break_it = BROKEN[fault]

    class Broken(Recycling):
        def __init__(self, policy):
            super().__init__(policy)
            break_it(self)

    monkeypatch.setattr(f"{__name__}.Recycling", Broken)
    with pytest.raises((AssertionError, Flaky), match=f"{said}|limit"):
        run_state_machine_as_test(RecyclingMachine, settings=FIRST)


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        (ReplicaUsage("a", 1000, 10.0, 1.0), "calls 1000, recycle.max_calls is 1000"),
        (ReplicaUsage("a", 1, 512.25, 1.0), "memory 512.2 MiB, recycle.max_memory_mb is 512 MiB"),
        (ReplicaUsage("a", None, None, 3600.5), "age 3600.5 s, recycle.max_age is 3600.0 s"),
    ],
)
def test_reason_has_the_numbers_that_decided(usage, reason):
    """The reason contains the value and its limit."""
    assert Recycling(RecyclePolicy(1000, 512, 3600.0)).look([usage], 0.0) == recycling.Due("a", reason)


def test_what_is_not_known_makes_nothing_due():
    """An unknown value reaches no limit."""
    assert Recycling(RecyclePolicy(1, 1.0, inf)).look([ReplicaUsage("a", None, None, 1e9)], 0.0) is None


def test_limit_below_what_the_service_needs_costs_a_start_a_minute():
    """If a new replica exceeds its memory limit at once, replacements slow down to one a minute."""
    machine, now, starts = Recycling(RecyclePolicy(max_memory_mb=10.0)), 0.0, []
    while now < 1000.0:
        if machine.look([ReplicaUsage("a", 0, 20.0, 1.0)], now) is not None:
            starts.append(now)
            machine.replaced(now)
        now += 1.0
    assert starts[:7] == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0]
    assert {later - before for before, later in pairwise(starts[6:])} == {LONGEST_WAIT_S}
