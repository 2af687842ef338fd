"""Replicas are ejected, probed and return by the rules, and the tests find each fault planted in them."""

from __future__ import annotations

import re
from math import floor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from first_failure import first_failure
from sage_plugins.config.nested_keys import OUTLIER_FIELDS, OutlierPolicy
from sage_plugins.resilience import outliers
from sage_plugins.resilience.outliers import FEWEST_CALLS, AllServe, Ejected, Outliers, Probed, Returned

FIRST = first_failure(examples=300, steps=60)
REPLICAS = st.sampled_from(["a", "b", "c", "d"])


class OutlierMachine(RuleBasedStateMachine):
    """Calls end well or badly at some replicas; each decision is compared with a model of the contract."""

    @initialize(
        consecutive=st.integers(1, 3), percent=st.sampled_from([0.0, 34.0, 50.0, 100.0]), number=st.integers(1, 4)
    )
    def begin(self, consecutive, percent, number):
        self.policy = OutlierPolicy(consecutive, 10.0, 5.0, 18.0, percent)
        self.now = 1000.0
        self.machine = Outliers(self.policy, self.now)
        self.replicas = list("abcd"[:number])
        self.machine.replicas_are(self.replicas)
        self.rows = dict.fromkeys(self.replicas, 0)
        self.out = {}  # until when each ejected replica is out
        self.probed = set()
        self.last = {}  # how long each replica was out last time

    def replica(self, id):
        return self.replicas[ord(id) % len(self.replicas)]

    @rule(id=REPLICAS)
    def call_succeeds(self, id):
        id = self.replica(id)
        found = self.machine.succeeded(id, 0.1, self.now)
        if id not in self.out:
            assert isinstance(found, Returned) == (id in self.probed), "probe"
            self.probed.discard(id)
        else:
            assert found is None, "late"
        self.rows[id] = 0

    @rule(id=REPLICAS, times=st.integers(1, 3))
    def calls_fail(self, id, times):
        id = self.replica(id)
        for _ in range(times):
            self.one_fails(id)

    def one_fails(self, id):
        found = self.machine.failed(id, self.now)
        if id in self.out:
            assert found is None, "late"
            return
        self.rows[id] += 1
        if id not in self.probed and self.rows[id] < self.policy.consecutive:
            assert found is None, "early"
            return
        assert re.search(r"\d", found.reason), "numbers"
        if len(self.out) + 1 > floor(len(self.replicas) * self.policy.max_percent / 100):
            assert isinstance(found, AllServe), "percent"
            self.out, self.probed = {}, set()
            self.rows = dict.fromkeys(self.replicas, 0)
            return
        assert isinstance(found, Ejected), "row"
        spent = round(found.until - self.now, 6)
        if id in self.probed:
            assert spent == min(2 * self.last[id], self.policy.max_ejection), "time"
        assert self.policy.base_ejection <= spent <= self.policy.max_ejection, "time"
        self.out[id], self.last[id], self.rows[id] = found.until, spent, 0
        self.probed.discard(id)

    @rule(seconds=st.sampled_from([0.1, 4.9, 5.0, 20.0]))
    def time_passes(self, seconds):
        self.now += seconds
        due = {id for id, until in self.out.items() if until <= self.now}
        found = self.machine.look(self.now)
        assert {each.replica for each in found if isinstance(each, Probed)} == due, "return"
        assert len(found) == len(due), "slow"
        for id in due:
            del self.out[id]
            self.probed.add(id)
            self.rows[id] = 0

    @invariant()
    def knows_who_is_out(self):
        if hasattr(self, "machine"):
            assert self.machine.out == self.out.keys(), "out"
            assert self.machine.probed == self.probed, "probe"
            assert self.machine.next_return() == min(self.out.values(), default=None), "return"
            assert len(self.out) <= len(self.replicas) * self.policy.max_percent / 100, "percent"


TestOutliers = OutlierMachine.TestCase
TestOutliers.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def test_defaults_are_those_of_the_configuration():
    """The policy's defaults are those of the configuration's fields."""
    assert OutlierPolicy()._asdict() == {name: info.default for name, info in OUTLIER_FIELDS.items()}


def after_an_interval(calls, seconds, others=0.01):
    """Return the decisions about three replicas, of which `a` has had so many calls of so many seconds."""
    machine = Outliers(OutlierPolicy(), 0.0)
    machine.replicas_are("abc")
    for id, number, took in (("a", calls, seconds), ("b", FEWEST_CALLS, others), ("c", 1000, others)):
        for _ in range(number):
            machine.succeeded(id, took, 1.0)
    return machine.look(10.0)


@pytest.mark.parametrize(
    ("calls", "seconds", "ejects"),
    [(FEWEST_CALLS, 0.051, True), (FEWEST_CALLS, 0.049, False), (FEWEST_CALLS - 1, 1.0, False)],
)
def test_replica_far_slower_than_its_peers_is_ejected(calls, seconds, ejects):
    """A replica far slower than the others is ejected, if it had enough calls in the interval."""
    found = after_an_interval(calls, seconds)
    assert [(type(each), each.replica) for each in found] == ([(Ejected, "a")] if ejects else [])
    assert not found or "20 calls took 0.051 s" in found[0].reason


def test_durations_of_an_interval_are_forgotten_with_it():
    """Run times count only within their interval: a replica is not ejected for earlier ones."""
    machine = Outliers(OutlierPolicy(), 0.0)
    machine.replicas_are("ab")
    for _ in range(FEWEST_CALLS):
        machine.succeeded("a", 1.0, 1.0)
    assert machine.look(10.0) == []
    for _ in range(FEWEST_CALLS):
        machine.succeeded("b", 0.01, 11.0)
    assert machine.look(20.0) == []


def test_replica_that_was_well_for_long_begins_again():
    """A replica that was healthy long enough is ejected for the shortest time again."""
    machine = Outliers(OutlierPolicy(consecutive=1), 0.0)
    machine.replicas_are("abcd")
    spent = []
    for now, ends_well in [(0, False), (5, False), (15, True), (200, False)]:
        machine.look(now)
        if ends_well:
            assert isinstance(machine.succeeded("a", 0.1, now), Returned)
        else:
            spent.append(machine.failed("a", now))
    assert [each.until for each in spent] == [5, 15, 205]


def ejects_all(patch):
    patch.setattr(outliers, "floor", lambda _: 100)


def ejects_early(patch):
    failed = Outliers.failed
    patch.setattr(Outliers, "failed", lambda self, id, now: failed(self, id, now) or failed(self, id, now))


def never_doubles(patch):
    eject = Outliers._eject

    def faulty(self, replica, record, now, why):
        record.probes = False
        record.returned_at = -1e9
        return eject(self, replica, record, now, why)

    patch.setattr(Outliers, "_eject", faulty)


def never_returns(patch):
    look = Outliers.look
    patch.setattr(
        Outliers, "look", lambda self, now: [each for each in look(self, now) if not isinstance(each, Probed)]
    )


def believes_no_probe(patch):
    succeeded = Outliers.succeeded
    patch.setattr(Outliers, "succeeded", lambda *args: succeeded(*args) and None)


def forgets_no_failure(patch):
    patch.setattr(Outliers, "succeeded", lambda *_: None)


def says_no_numbers(patch):
    eject = Outliers._eject
    patch.setattr(Outliers, "_eject", lambda *args: eject(*args)._replace(reason="because"))


def stays_out_for_ever(patch):
    begin = Outliers.__init__
    patch.setattr(Outliers, "__init__", lambda self, policy, now: begin(self, policy._replace(max_ejection=1e9), now))


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (ejects_all, "percent"),
        (ejects_early, "early|row|late"),
        (never_doubles, "time"),
        (never_returns, "return"),
        (believes_no_probe, "probe"),
        (forgets_no_failure, "probe|early"),
        (says_no_numbers, "numbers"),
        (stays_out_for_ever, "time"),
    ],
)
def test_fault_is_found(monkeypatch, fault, word):
    """The state machine finds each planted fault: a check that has never failed proves nothing."""
    fault(monkeypatch)
    with pytest.raises((AssertionError, Flaky), match=word):
        run_state_machine_as_test(OutlierMachine, settings=FIRST)


def test_decisions_name_the_replica_and_the_numbers():
    """Each decision names the replica, the reason, the duration and how many are out."""
    machine = outliers.Outliers(OutlierPolicy(2, 10.0, 5.0, 300.0, 50), 0.0)
    machine.replicas_are(["a", "b", "c", "d"])
    assert machine.failed("a", 1.0) is None
    assert machine.failed("a", 1.0) == (
        "a",
        6.0,
        "2 calls in a row died or timed out; no calls for 5 s, 1 of 4 are out",
    )
    assert machine.look(6.0) == [("a", "it was out for 5 s; its next call decides")]
    assert machine.failed("a", 7.0) == ("a", 17.0, "its probe failed; no calls for 10 s, 1 of 4 are out")
    assert machine.look(17.0) == [("a", "it was out for 10 s; its next call decides")]
    assert machine.succeeded("a", 0.25, 18.0) == ("a", "its probe succeeded in 0.25 s, after 10 s without calls")
    machine.failed("b", 18.0)
    machine.failed("c", 18.0)
    assert machine.failed("b", 18.0).reason.endswith("1 of 4 are out")
    assert machine.failed("c", 18.0).reason.endswith("2 of 4 are out")
    machine.failed("d", 18.0)
    assert machine.failed("d", 18.0) == (
        "d",
        "2 calls in a row died or timed out; 2 of 4 were out, and at most 50 % may be",
    )


def test_a_replica_begins_again_after_its_probe():
    """
    After its probe a replica starts over: earlier failures do not count.

    Soon after its return it is out twice as long.
    """
    machine = outliers.Outliers(OutlierPolicy(2, 10.0, 5.0, 300.0, 50), 0.0)
    machine.replicas_are(["a", "b"])
    machine.failed("a", 1.0)
    machine.failed("a", 1.0)
    machine.look(6.0)
    machine.succeeded("a", 0.1, 6.5)
    assert machine.failed("a", 7.0) is None, "one failure is not two"
    assert machine.failed("a", 7.0).until == 17.0, "soon after its return it is out for twice as long"
    machine.look(17.0)
    machine.succeeded("a", 0.1, 17.0)
    machine.failed("a", 26.9)
    assert machine.failed("a", 26.9).until == 46.9, "less than 10 s after its return"
    machine.look(46.9)
    machine.succeeded("a", 0.1, 47.0)
    machine.failed("a", 67.0)
    assert machine.failed("a", 67.0).until == 72.0, "well for as long as it was out: it starts again"


def test_an_interval_forgets_calls_and_seconds():
    """A mean of exactly five times the others' is not enough, and each interval counts alone."""
    machine = outliers.Outliers(OutlierPolicy(5, 10.0, 5.0, 300.0, 50), 0.0)
    machine.replicas_are(["slow", "fast"])
    for interval in (1, 2):
        for _ in range(outliers.FEWEST_CALLS):
            machine.succeeded("slow", outliers.SLOWER * 0.25, 0.0)
            machine.succeeded("fast", 0.25, 0.0)
        assert machine.look(10.0 * interval) == [], "exactly five times is not more"
    for _ in range(outliers.FEWEST_CALLS - 1):
        machine.succeeded("slow", 100.0, 0.0)
        machine.succeeded("fast", 0.25, 0.0)
    assert machine.look(30.0) == [], "one call fewer than it takes"
