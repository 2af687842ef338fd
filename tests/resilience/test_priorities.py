"""Waiting calls start by priority and age, and the test finds each fault planted in that order."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from first_failure import first_failure
from sage_plugins.resilience import priorities
from sage_plugins.resilience.priorities import HIGHEST, LEVEL_S, RankedQueue, rank

FIRST = first_failure(examples=200, steps=40)


class Waiting(NamedTuple):
    """A waiting call; no two are equal."""

    number: int
    priority: int
    since: float


def comes_first(one, other):
    """Return whether *one* starts before *other* by the rules."""
    levels = one.priority - other.priority
    head_start = (other.since - one.since) / LEVEL_S  # how many levels it has gained more than the other
    return (levels + head_start, other.number - one.number) > (0, 0)


class RowMachine(RuleBasedStateMachine):
    """Calls come, start, return and leave; the queue is compared with what the rules say of all waiting calls."""

    def __init__(self):
        super().__init__()
        self.now, self.made = 1000.0, 0
        self.queue = RankedQueue(lambda each: priorities.rank(each.priority, each.since))
        self.waiting, self.taken = [], []

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.5, LEVEL_S, 4 * LEVEL_S]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(priority=st.integers(-3, 3))
    def comes(self, priority):
        call = Waiting(self.made, priority, self.now)
        self.made += 1
        assert self.queue.before(call) == sum(comes_first(each, call) for each in self.waiting)
        self.queue.append(call)
        self.waiting.append(call)

    @precondition(lambda self: self.waiting)
    @rule()
    def starts(self):
        call = self.queue.popleft()
        for each in self.waiting:
            if each is not call:
                assert comes_first(call, each), f"{each} waits and {call} started"
                assert self.now - each.since < self.now - call.since + LEVEL_S * (call.priority - each.priority + 1)
        self.waiting.remove(call)
        self.taken.append(call)

    @precondition(lambda self: self.taken)
    @rule()
    def the_last_that_started_is_put_back(self):
        call = self.taken.pop()
        self.queue.appendleft(call)
        self.waiting.append(call)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leaves(self, data):
        call = data.draw(st.sampled_from(self.waiting))
        self.queue.remove(call)
        self.waiting.remove(call)
        with pytest.raises(ValueError, match="not in"):
            self.queue.remove(call)

    @invariant()
    def it_is_in_order(self):
        assert sorted(self.queue) == sorted(self.waiting)
        row = list(self.queue.copy())
        assert all(comes_first(one, other) for one, other in pairwise(row)), row


def test_row_keeps_the_rules():
    """Whatever comes and goes, the queue keeps its calls in the order of the rules."""
    run_state_machine_as_test(RowMachine, settings=settings(FIRST, phases=[Phase.generate, Phase.shrink]))


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("rank", lambda priority, since: since + LEVEL_S * priority),  # lower priorities first
        ("rank", lambda priority, since: 1e9 * -priority + since),  # calls never gain levels
        ("rank", lambda priority, _: -priority),  # the order of arrival is lost
        ("bisect_right", priorities.bisect_left),
        ("bisect_left", priorities.bisect_right),
    ],
    ids=["upside down", "no age", "no order", "the last first", "put back behind"],
)
def test_machine_finds_broken_rules(monkeypatch, name, broken):
    """The state machine finds each planted fault."""
    monkeypatch.setattr(priorities, name, broken)
    with pytest.raises((AssertionError, Flaky, ExceptionGroup)):
        run_state_machine_as_test(RowMachine, settings=FIRST)


def test_a_level_is_worth_thirty_seconds_exactly():
    """A level is worth exactly 30 s of waiting."""
    assert LEVEL_S == 30
    assert rank(0, 0.0) == rank(1, 30.0) == rank(-1, -30.0)


def test_ranks_of_the_highest_priorities_tell_times_apart():
    """Even for the highest priorities, ranks distinguish times a microsecond apart."""
    month = 2.6e6
    assert rank(HIGHEST, month) < rank(HIGHEST, month + 1e-6)
    assert rank(-HIGHEST, month) < rank(-HIGHEST, month + 1e-6)


def test_an_empty_row_gives_nothing():
    """An empty queue raises IndexError."""
    with pytest.raises(IndexError):
        RankedQueue(rank).popleft()
