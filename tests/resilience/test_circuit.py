"""A circuit breaker opens, probes and closes by its rules, and the test finds each fault planted in it."""

from __future__ import annotations

import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from first_failure import first_failure
from sage_plugins.config.nested_keys import BREAKER_FIELDS, BreakerPolicy
from sage_plugins.resilience import circuit
from sage_plugins.resilience.circuit import CLOSED, HALF_OPEN, OPEN, Admitted, Circuit, Rejected

FIRST = first_failure(examples=300, steps=60)


class CircuitMachine(RuleBasedStateMachine):
    """Calls start and end in any order; a model written from the contract says what must happen to them."""

    @initialize(failures=st.integers(1, 4), probes=st.integers(1, 3))
    def begin(self, failures, probes):
        self.policy = BreakerPolicy(failures, 10.0, 5.0, probes)
        self.circuit = Circuit(self.policy)
        self.now = 1000.0
        self.running = []  # the probe number of each running call; 0 for other calls
        self.row = []  # times of the failures in a row
        self.state, self.opened_at, self.succeeded, self.round = CLOSED, 0.0, 0, 0
        self.told = []

    @rule(seconds=st.sampled_from([0.01, 1.0, 4.9, 5.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def call_is_made(self):
        found = self.circuit.admit(self.now)
        if self.state == OPEN and self.now >= self.opened_at + self.policy.open:
            self.state, self.succeeded, self.round = HALF_OPEN, 0, self.round + 1
        if self.state == CLOSED:
            assert found == Admitted(), "closed"
        elif self.state == OPEN:
            assert isinstance(found, Rejected), "open"
            assert found.retry_after == pytest.approx(self.opened_at + self.policy.open - self.now), "after"
        elif len(self.probing()) + self.succeeded < self.policy.probes:
            assert isinstance(found, Admitted), "no probe"
            assert found.probe, "no probe"
        else:
            assert isinstance(found, Rejected), "probes"
            assert found.retry_after == min(1.0, self.policy.open), "after"
        if isinstance(found, Admitted):
            self.running.append(found.probe)
            if found.probe:
                self.round_of_probes = found.probe
        else:
            assert re.search(r"\d", found.reason), "numbers"
        self.look()

    def probing(self):
        current = getattr(self, "round_of_probes", 0)
        return [each for each in self.running if each and each == current and self.state == HALF_OPEN]

    @precondition(lambda self: getattr(self, "running", None))
    @rule(data=st.data(), how=st.sampled_from(["ok", "ok", "fault", "fault", "fault", "nothing"]))
    def call_ends(self, data, how):
        probe = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        counts = self.state == HALF_OPEN and probe and probe == self.round_of_probes
        if how == "ok":
            self.circuit.succeeded(probe)
            if self.state == CLOSED:
                self.row = []
            elif counts:
                self.succeeded += 1
                if self.succeeded == self.policy.probes:
                    self.state, self.row = CLOSED, []
        elif how == "fault":
            self.circuit.failed(self.now, probe)
            if self.state == CLOSED:
                self.row = [*self.row, self.now][-self.policy.failures :]
                if len(self.row) == self.policy.failures and self.now - self.row[0] <= self.policy.window:
                    self.state, self.opened_at, self.row = OPEN, self.now, []
            elif counts:
                self.state, self.opened_at = OPEN, self.now
        else:
            self.circuit.inconclusive(probe)
        self.look()

    def look(self):
        assert self.circuit.state == self.state, f"state: {self.circuit.state}, not {self.state}"
        assert self.circuit.watches is (self.state != CLOSED or bool(self.row)), "watches"
        while self.circuit.changes:
            state, why = self.circuit.changes.popleft()
            assert not self.told or self.told[-1] != state or state == OPEN, "told twice"
            assert re.search(r"\d", why), "numbers"
            self.told.append(state)
        assert (self.told or [CLOSED])[-1] == self.state, "not told"


TestCircuit = CircuitMachine.TestCase
TestCircuit.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def test_defaults_are_those_of_the_configuration():
    """The policy's defaults are those of the configuration's fields."""
    assert BreakerPolicy()._asdict() == {name: info.default for name, info in BREAKER_FIELDS.items()}


def never_opens(patch):
    patch.setattr(Circuit, "_open", lambda *_: None)


def opens_early(patch):
    failed = Circuit.failed
    patch.setattr(Circuit, "failed", lambda self, now, probe: (failed(self, now, probe), failed(self, now, probe)))


def forgets_no_failure(patch):
    succeeded = Circuit.succeeded
    patch.setattr(Circuit, "succeeded", lambda self, probe: succeeded(self, probe) if self.state != CLOSED else None)


def minds_no_window(patch):
    begin = Circuit.__init__
    patch.setattr(Circuit, "__init__", lambda self, policy: begin(self, policy._replace(window=1e9)))


def lets_all_probe(patch):
    begin = Circuit.__init__
    patch.setattr(Circuit, "__init__", lambda self, policy: begin(self, policy._replace(probes=policy.probes + 1)))


def believes_latecomers(patch):
    patch.setattr(Circuit, "_is_current", lambda self, _: self.state == HALF_OPEN)


def keeps_lost_probes(patch):
    patch.setattr(Circuit, "inconclusive", lambda *_: None)


def stays_open(patch):
    begin = Circuit.__init__
    patch.setattr(Circuit, "__init__", lambda self, policy: begin(self, policy._replace(open=9.0)))


def tells_nothing(patch):
    patch.setattr(Circuit, "_change", lambda *_: None)


def overlooks_failures(patch):
    patch.setattr(Circuit, "watches", property(lambda _: False, lambda *_: None), raising=False)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (never_opens, "state|open"),
        (opens_early, "state"),
        (forgets_no_failure, "state|watches"),
        (minds_no_window, "state"),
        (lets_all_probe, "probes|state"),
        (believes_latecomers, "state|probe"),
        (keeps_lost_probes, "no probe"),
        (stays_open, "probe|after|state"),
        (tells_nothing, "not told"),
        (overlooks_failures, "watches"),
    ],
)
def test_fault_is_found(monkeypatch, fault, word):
    """The state machine finds each planted fault: a check that has never failed proves nothing."""
    fault(monkeypatch)
    with pytest.raises((AssertionError, Flaky), match=word):
        run_state_machine_as_test(CircuitMachine, settings=FIRST)


def test_states_are_those_that_events_name():
    """The circuit's states have the names that events use."""
    assert (circuit.CLOSED, circuit.OPEN, circuit.HALF_OPEN) == ("closed", "open", "half_open")
