"""Retries stay within their budget, and the test finds each fault planted in the rules."""

from __future__ import annotations

import re
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from first_failure import first_failure
from sage_plugins.config.nested_keys import RETRY_FIELDS, RetryPolicy
from sage_plugins.resilience import retries
from sage_plugins.resilience.retries import LONGEST_WAIT_S, MOST_DEATHS, WINDOW_S, Retries, Retry

FIRST = first_failure(examples=300, steps=50)


class RetryMachine(RuleBasedStateMachine):
    """Calls start and fail at any time; each decision is compared with the rules."""

    @initialize(
        seed=st.integers(0, 2**16),
        attempts=st.integers(1, 4),
        backoff=st.sampled_from([0.0, 0.025, 0.5]),
        budget=st.sampled_from([0.0, 0.2, 1.0]),
        least=st.integers(0, 3),
    )
    def begin(self, seed, attempts, backoff, budget, least):
        self.policy = RetryPolicy(attempts, backoff, budget, least)
        self.machine = Retries(self.policy, Random(seed))  # noqa: S311 - no secret
        self.now = 1000.0
        self.calls, self.spent = [], []

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.9, 1.0, 3.0, 9.9, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(number=st.integers(1, 30))
    def calls_are_made(self, number):
        for _ in range(number):
            self.machine.called(self.now)
        self.calls += [self.now] * number

    @rule(number=st.integers(1, 12), attempts=st.integers(1, 4), remaining=st.sampled_from([0.0, 0.01, 30.0]))
    def calls_fail(self, number, attempts, remaining):
        for _ in range(number):
            decided = self.machine.failed(self.now, remaining, attempts)
            longest = min(self.policy.backoff * 2 ** (attempts - 1), LONGEST_WAIT_S)
            if isinstance(decided, Retry):
                assert 0 <= decided.wait <= longest, "wait"
            self.check(decided, attempts, remaining, longest)

    @rule(attempts=st.integers(1, 4), deaths=st.integers(1, 3), remaining=st.sampled_from([0.01, 30.0]))
    def replica_dies(self, attempts, deaths, remaining):
        decided = self.machine.died(self.now, remaining, attempts, deaths)
        if isinstance(decided, Retry):
            assert deaths < MOST_DEATHS, "poison"
            assert decided.wait == 0, "wait"
        self.check(decided, attempts, remaining, 0.0, may=deaths < MOST_DEATHS)

    def check(self, decided, attempts, remaining, longest, *, may=True):
        late = [each for each in self.calls if each > self.now - WINDOW_S]
        spent = [each for each in self.spent if each > self.now - WINDOW_S]
        allowed = self.policy.min + self.policy.budget * len(late)
        if isinstance(decided, Retry):
            assert attempts < self.policy.max_attempts, "attempts"
            assert decided.wait < remaining, "deadline"
            self.spent.append(self.now)
            assert len(spent) + 1 <= allowed, "budget"
        else:
            # The policy leaves out calls of the oldest second, so that it never allows too many retries.
            surely = [each for each in late if each > self.now - WINDOW_S + 1]
            room = len(spent) + 1 <= self.policy.min + self.policy.budget * len(surely)
            assert not (may and room and attempts < self.policy.max_attempts and longest < remaining), "refused"
        assert re.search(r"\d", decided.reason), "numbers"

    @invariant()
    def knows_little(self):
        """The memory used does not grow with the number of calls."""
        if hasattr(self, "machine"):
            assert len(self.machine._buckets) <= WINDOW_S + 1, "memory"


TestRetries = RetryMachine.TestCase
TestRetries.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_defaults_are_those_of_the_configuration():
    """The policy's defaults are those of the configuration's fields."""
    assert RetryPolicy()._asdict() == {name: info.default for name, info in RETRY_FIELDS.items()}


class ParentError(Exception): ...


class ChildError(ParentError): ...


@pytest.mark.parametrize(
    ("on", "error", "matches"),
    [
        (("ChildError",), ChildError(), True),
        (("ParentError",), ChildError(), True),
        (("ChildError",), ParentError(), False),
        (("OSError",), ConnectionResetError(), True),
        ((), ChildError(), False),
    ],
)
def test_exception_is_named_by_its_class_or_a_base(on, error, matches):
    """`retry.on` matches an exception's class and base classes, as `except` does."""
    assert RetryPolicy(on=on).matches(error) is matches


def test_error_that_stands_for_an_unknown_class_goes_by_its_name():
    """A RemoteError matches by the name of the class that it stands for."""
    error = Exception()
    error.type_name = "somewhere.Busy"
    assert RetryPolicy(on=("Busy",)).matches(error)


def forgets_its_budget(patch):
    patch.setattr(Retries, "_recent_retries", lambda *_: 0)


def counts_calls_for_ever(patch):
    patch.setattr(Retries, "_forget", lambda *_: None)


def counts_no_calls(patch):
    patch.setattr(Retries, "called", lambda *_: None)


def tries_once_too_often(patch):
    decide = Retries._decide
    patch.setattr(
        Retries, "_decide", lambda self, now, left, attempts, wait: decide(self, now, left, attempts - 1, wait)
    )


def waits_past_the_deadline(patch):
    decide = Retries._decide
    patch.setattr(Retries, "_decide", lambda self, now, left, attempts, wait: decide(self, now, 1e9, attempts, wait))


def spares_poison(patch):
    patch.setattr(retries, "MOST_DEATHS", 3)


def waits_too_long(patch):
    failed = Retries.failed

    def faulty(*args):
        decided = failed(*args)
        return decided._replace(wait=9.0) if isinstance(decided, Retry) else decided

    patch.setattr(Retries, "failed", faulty)


def says_no_numbers(patch):
    decide = Retries._decide
    patch.setattr(Retries, "_decide", lambda *args: decide(*args)._replace(reason="because"))


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (forgets_its_budget, "budget"),
        (counts_calls_for_ever, "budget|memory"),
        (counts_no_calls, "refused"),
        (tries_once_too_often, "attempts"),
        (waits_past_the_deadline, "deadline"),
        (spares_poison, "poison"),
        (waits_too_long, "wait"),
        (says_no_numbers, "numbers"),
    ],
)
def test_fault_is_found(monkeypatch, fault, word):
    """The state machine finds each planted fault: a check that has never failed proves nothing."""
    fault(monkeypatch)
    with pytest.raises((AssertionError, Flaky), match=word):
        run_state_machine_as_test(RetryMachine, settings=FIRST)


@pytest.mark.parametrize("seed", range(20))
def test_dependency_that_is_down_gets_a_fifth_more_and_no_more(seed):
    """While every call fails, retries in any 10 s stay at `min` plus a fifth of the calls."""
    random = Random(seed)  # noqa: S311 - no secret
    machine = Retries(RetryPolicy(), random)
    due = [(number / 100, 1) for number in range(3000)]
    spent = []
    while due:
        now, attempt = heappop(due)
        if attempt == 1:
            machine.called(now)
        decided = machine.failed(now, 30.0, attempt)
        if isinstance(decided, Retry):
            spent.append(now)
            heappush(due, (now + decided.wait + random.random() * 0.01, attempt + 1))
    for begin in range(-10, 30):
        end = begin + WINDOW_S
        calls = 100 * (min(end, 30) - max(begin, 0))
        within = [each for each in spent if begin < each <= end]
        assert len(within) <= 0.2 * calls + 3, f"seed {seed}, from {begin} s on"
    assert len(spent) >= 0.15 * 3000, f"seed {seed}: hardly any call was retried"


class Longest(Random):
    """Always draws the longest wait."""

    def uniform(self, a, b):
        return b


def test_the_longest_wait_doubles_up_to_a_second():
    """The longest wait doubles with each attempt, up to `LONGEST_WAIT_S`."""
    machine = Retries(RetryPolicy(10_000, 0.025, 0.0, 10_000), Longest())
    waits = [machine.failed(0.0, 1e9, attempts).wait for attempts in (1, 2, 3, 4, 5, 6, 7, 2000)]
    assert waits == [0.025, 0.05, 0.1, 0.2, 0.4, 0.8, LONGEST_WAIT_S, LONGEST_WAIT_S]


def test_decisions_say_the_numbers_that_decided():
    """The reason of each decision contains the attempt, the retry, the budget and the calls."""
    machine = Retries(RetryPolicy(3, 0.025, 0.5, 1), Longest())
    for _ in range(4):
        machine.called(100.0)
    found = [machine.failed(100.0, 30.0, 1), machine.failed(100.0, 30.0, 2), machine.failed(100.0, 30.0, 1)]
    assert [each.reason for each in found] == [
        "attempt 2 of 3 in 0.025 s; retry 1, 3 allowed, of 4 calls in the last 10 s",
        "attempt 3 of 3 in 0.05 s; retry 2, 3 allowed, of 4 calls in the last 10 s",
        "attempt 2 of 3 in 0.025 s; retry 3, 3 allowed, of 4 calls in the last 10 s",
    ]
    used_up = machine.failed(100.0, 30.0, 1)
    assert used_up.reason == "the budget is used up: 3 retries, 3 allowed, of 4 calls in the last 10 s"
    assert machine.failed(100.0, 30.0, 3).reason == "attempt 3 of 3 was the last"
    assert machine.failed(100.0, 0.01, 1).reason == "0.01 s are left, and the wait would be 0.025 s"


def test_what_is_exactly_a_window_old_counts_no_more():
    """Calls and retries exactly 10 s old no longer count."""
    machine = Retries(RetryPolicy(3, 0.0, 1.0, 0), Longest())
    machine.called(100.0)
    assert isinstance(machine.failed(100.0, 30.0, 1), Retry)
    assert not isinstance(machine.failed(100.0, 30.0, 1), Retry)
    machine.called(110.0)
    again = machine.failed(110.0, 30.0, 1)
    assert again.reason.endswith("retry 1, 1 allowed, of 1 calls in the last 10 s")
