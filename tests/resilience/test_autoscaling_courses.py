"""The autoscaler over long courses of load: it comes to rest, does not swing, and keeps its rules."""

from __future__ import annotations

from math import ceil
from random import Random

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sage_deploy_autoscalers.target_ongoing import TargetOngoing
from sage_plugins.resilience.autoscaling import FIRST_WAIT_S, AutoscaleSettings, Scaler
from scaled_service import LOOK, Stage, load


@pytest.mark.parametrize("seed", range(50))
def test_steady_load_is_a_fixed_point(seed):
    """Under steady load the number of replicas stays the same for an hour, whatever the settings."""
    random = Random(seed)  # noqa: S311 - no secret
    stage = Stage(
        min=random.randint(1, 3),
        initial=random.randint(3, 6),
        max=random.randint(6, 40),
        target_ongoing_requests=random.choice([0.3, 1, 1.7, 2, 5]),
        upscale_delay=random.choice([0, 1, 10]),
        downscale_delay=random.choice([0, 5, 60]),
        look_back=random.choice([1, 10, 30]),
        tolerance=random.choice([0, 0.1, 0.3]),
        upscale_factor=random.choice([0.1, 0.5, 1]),
        downscale_factor=random.choice([0.1, 0.5, 1]),
    )
    calls = random.randint(0, 60)
    stage.hold(calls, 3000)
    assert stage.hold(calls, 3600) == []
    needed = ceil(calls / stage.settings.target_ongoing_requests - 1e-9)
    least = min(max(needed, stage.settings.min), stage.settings.max)
    assert least * (1 - stage.settings.tolerance) - 1 <= stage.replicas


def test_square_wave_does_not_swing_the_replicas_within_a_delay():
    """A load that switches every twenty seconds scales up once, and not down within `downscale_delay`."""
    stage = Stage(max=10, target_ongoing_requests=1, upscale_delay=10, downscale_delay=100, look_back=10)
    for _ in range(30):
        stage.hold(8, 20)
        stage.hold(0, 20)
    assert len(stage.changes) <= 2
    assert stage.replicas == 8


class AutoscalerMachine(RuleBasedStateMachine):
    """The bounds and delays hold under any load, changes by hand, and slow or failing starts."""

    @initialize(
        low=st.integers(0, 3),
        more=st.integers(0, 6),
        others=st.fixed_dictionaries(
            {
                "upscale_delay": st.sampled_from([0.0, 3.0, 10.0]),
                "downscale_delay": st.sampled_from([0.0, 5.0, 30.0]),
                "look_back": st.sampled_from([1.0, 8.0]),
                "target_ongoing_requests": st.sampled_from([0.5, 1.0, 3.0]),
            },
            optional={"scale_to_zero_delay": st.sampled_from([4.0, 50.0])},
        ),
    )
    def begin(self, low, more, others):
        self.settings = AutoscaleSettings.of({"min": low, "max": max(1, low + more)} | others)
        self.scaler = Scaler(self.settings, TargetOngoing().decide)
        self.now, self.replicas, self.starting = 0.0, self.settings.initial, 0
        self.calls = 0
        self.looked_at, self.changed_at = None, None  # the number at the last look, and since when
        self.asked = None  # a decision not yet carried out and not failed
        self.not_before = -1.0

    @rule(calls=st.integers(0, 30), seconds=st.integers(1, 15))
    def look(self, calls, seconds):
        for _ in range(seconds):
            self.now += LOOK
            self.calls = calls
            if self.replicas != self.looked_at:
                self.looked_at, self.changed_at = self.replicas, self.now
            ready = self.replicas - self.starting
            ongoing = min(calls, ready)
            decision = self.scaler.look(load(self.now, self.replicas, ongoing, calls - ongoing, ready=ready))
            if decision is not None:
                self.check(decision.replicas, ongoing)
                return

    def check(self, number, ongoing):
        low, most = self.settings.min, self.settings.max
        assert low <= number <= most
        assert number != self.replicas
        assert number >= min(self.replicas, ongoing)
        if number > self.replicas:
            assert self.now >= self.not_before
        if self.changed_at is not None and self.replicas:
            waited = self.now - self.changed_at
            if number > self.replicas:
                assert waited >= self.settings.upscale_delay
            elif number:
                assert waited >= self.settings.downscale_delay
            else:
                assert waited >= self.settings.scale_to_zero_delay
        if number == 0:
            assert self.calls == 0
        self.asked = number
        if number < self.replicas:
            self.done()

    def done(self):
        self.starting = max(0, min(self.starting, self.asked))
        self.replicas, self.asked = self.asked, None
        self.scaler.succeeded()
        self.not_before = -1.0

    @precondition(lambda self: self.asked is not None)
    @rule(fails=st.booleans(), slowly=st.booleans())
    def start(self, fails, slowly):
        if fails:
            self.scaler.failed(self.now)
            self.not_before = self.now + FIRST_WAIT_S
            self.asked = None
            return
        self.starting = self.asked - self.replicas if slowly else 0
        self.done()

    @rule()
    def started(self):
        self.starting = 0

    @precondition(lambda self: self.settings.min != self.settings.max)
    @rule(where=st.floats(0, 1))
    def by_hand(self, where):
        low, most = max(1, self.settings.min), self.settings.max
        number = round(low + where * (most - low))
        if number != self.replicas:
            self.replicas, self.starting, self.asked = number, 0, None

    @invariant()
    def wanted_is_within_the_bounds(self):
        if hasattr(self, "scaler"):
            assert self.settings.min <= self.scaler.wanted <= self.settings.max


AutoscalerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, phases=[Phase.generate, Phase.shrink]
)
TestAutoscalerMachine = AutoscalerMachine.TestCase
