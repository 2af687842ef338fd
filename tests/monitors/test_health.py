"""
The monitor `health` in virtual time: which replicas it checks when, what answers mean, and who gets calls meanwhile.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.hookspecs import hookimpl
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.plugins.registry import Registry
from sage_plugins.routing.slot_recovery.recovery import SlotRecovery
from sage_plugins.values import Registration

PATIENCE = 20.0
INTERVAL = 10.0
TIMEOUT = 5.0


class Patient:
    """A replica that answers checks as the test has set for its index."""

    def __init__(self, answers):
        self.answers = answers

    def answer(self, hook):
        self.answers.asked.append((hook, self.ctx.replica_index, threading.current_thread().name))
        answer = self.answers.get((hook, self.ctx.replica_index), True)
        if isinstance(answer, BaseException):
            raise answer
        return answer() if callable(answer) else answer

    def index(self):
        return self.ctx.replica_index

    def run(self, function):
        return function()


class Alive(Patient):
    def check_health(self):
        return self.answer("check_health")


class Ready(Patient):
    def check_ready(self):
        return self.answer("check_ready")


class Both(Alive, Ready):
    pass


class Async(Patient):
    async def check_health(self):
        return self.answer("check_health")

    async def check_ready(self):
        return self.answer("check_ready")


class Answers(dict):
    def __init__(self):
        super().__init__()
        self.asked = []


class Ward:
    """One service watched by the monitor, in virtual time."""

    def __init__(self, env, clock, answers, events, until):
        self.env, self.clock, self.answers, self.events, self._until = env, clock, answers, events, until

    @property
    def monitor(self):
        monitors = self.env.task("svc")._monitors._monitors
        return next(monitor for choice, monitor in monitors if choice.id == "health")

    @property
    def states(self):
        return [each["state"] for each in self.env.get_service_status("svc")["replicas"]]

    @property
    def told(self):
        return [(event.kind.removeprefix("replica_"), event.replica, event.reason) for event in self.events]

    def advance(self, seconds):
        """Advance the clock, and let each due check be answered first unless the test holds it."""
        until = self.clock.monotonic() + seconds
        while self.clock.next_at() <= until:
            self.clock.run_until(self.clock.next_at())
            self.settle()
        self.clock.run_until(until)

    def settle(self):
        self._until(lambda: all(map(self._is_settled, tuple(self.monitor._probes.values()))))

    def _is_settled(self, probe):
        index = probe.replica.spec.index
        held = any(callable(answer) for (_, which), answer in self.answers.items() if which == index)
        return held or probe._round is None

    def seen(self, calls=6):
        return {self.env.service("svc").index() for _ in range(calls)}


@pytest.fixture
def ward(environments, until):
    """Deploys a service in virtual time, watched by `health`, and waits for the first checks."""

    def make(cls=Both, *, replicas=1, strategy="single", monitors=("health", "noted"), **config):
        events, answers, clock = [], Answers(), VirtualClock()

        class Noted(QuietMonitor):
            event = staticmethod(events.append)

        class Plugin:
            @hookimpl
            def sage_register_monitors(self):
                return [Registration("noted", lambda _: Noted(), "notes")]

        registry = Registry.of(
            sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading, Plugin()
        )
        env = environments("ward", registry=registry, clock=clock)
        config = ServiceDeploymentConfig(
            threading_strategy=strategy,
            replicas=replicas,
            load_balancing=replicas > 1,
            monitors=monitors,
            health_check_interval=INTERVAL,
            health_check_timeout=TIMEOUT,
            **config,
        )
        env.register_service_with_config("svc", cls, answers, deployment_config=config)
        env.deploy()
        made = Ward(env, clock, answers, events, until)
        if "health" in monitors:
            made.advance(0)
        return made

    return make


# -- which replicas are checked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Both, Async])
def test_each_replica_is_asked_at_once_and_then_every_interval(ward, strategy, cls):
    """Each replica is checked at once and then every interval, on its own thread: first health, then readiness."""
    service = ward(cls, replicas=2, strategy=strategy)
    once = [("check_health", 0), ("check_ready", 0), ("check_health", 1), ("check_ready", 1)]
    assert sorted(asked[:2] for asked in service.answers.asked) == sorted(once)
    assert {name for *_, name in service.answers.asked} == {"svc#0-health", "svc#1-health"}
    service.advance(INTERVAL - 0.1)
    assert len(service.answers.asked) == 4
    service.advance(0.1)
    assert len(service.answers.asked) == 8


def test_nothing_is_asked_of_a_class_without_checks(ward):
    """A class without checks needs no timer and no probe."""
    service = ward(Patient)
    assert service.clock.pending == 0
    assert not service.monitor._probes


def test_new_replicas_are_asked_and_those_that_left_are_not(ward):
    """New replicas are checked, and replicas that left are not."""
    service = ward(Alive)
    service.env.scale("svc", 2)
    service.advance(0)
    assert [index for _, index, _ in service.answers.asked] == [0, 1]
    service.env.scale("svc", 1)
    del service.answers.asked[:]
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert [index for _, index, _ in service.answers.asked] == [0, 0]
    assert list(service.monitor._probes) == ["svc#0"]


def test_nobody_is_asked_after_the_end(ward):
    """After the service ends nothing is checked."""
    service = ward()
    service.env.close()
    del service.answers.asked[:]
    service.clock.advance(10 * INTERVAL)
    assert service.answers.asked == []
    assert service.clock.pending == 0


def test_without_the_monitor_nobody_is_asked_and_the_plan_says_so(ward):
    """Without the monitor no check is called, and the plan says so."""
    service = ward(monitors=("noted",), failure_threshold=2)
    service.clock.advance(10 * INTERVAL)
    assert service.answers.asked == []
    plan = str(service.env.plan())
    for what in ("its check_health() is not called", "its check_ready() is not called", "failure_threshold: has no"):
        assert what in plan
    assert "add 'health' to monitors" in plan


def test_with_the_monitor_the_plan_says_what_it_does(ward):
    """With the monitor the plan shows interval and timeout, without a warning."""
    plan = str(ward().env.plan())
    assert "every 10 s, for at most 5 s" in plan
    assert "W1" not in plan


# -- liveness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (False, "check_health() failed: RuntimeError: check_health() of svc#0 returned False"),
        (ValueError("no pulse"), "check_health() failed: ValueError: no pulse"),
        (SystemExit(3), "check_health() failed: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize(("cls", "strategy"), [(Alive, "single"), (Async, "single"), (Async, "async")])
def test_replica_is_unhealthy_after_so_many_failures_in_a_row(ward, cls, strategy, answer, why):
    """A replica is unhealthy after `failure_threshold` failures in a row, with the last reason."""
    service = ward(cls, strategy=strategy, failure_threshold=3)
    service.answers["check_health", 0] = answer
    for _ in range(2):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    service.answers["check_health", 0] = True
    service.advance(INTERVAL)
    service.answers["check_health", 0] = answer
    for _ in range(2):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]
    reason = f"3 health checks in a row failed, the last one because {why}"
    assert service.told[-1] == ("unhealthy", "svc#0", reason)
    status = service.env.get_service_status("svc")
    assert status["health"] == {"healthy": False, "ready": 0, "replicas": 1, "missing": {"svc#0": reason}}
    assert status["replicas"][0]["error"] == reason
    assert service.env.service("svc").index() == 0


def test_unhealthy_replica_is_ready_after_so_many_successes_in_a_row(ward):
    """An unhealthy replica is ready after `success_threshold` passes in a row."""
    service = ward(Alive, failure_threshold=1, success_threshold=2)
    for answer, state in (
        (False, "unhealthy"),
        (True, "unhealthy"),
        (False, "unhealthy"),
        (True, "unhealthy"),
        (True, "ready"),
        (True, "ready"),
    ):
        service.answers["check_health", 0] = answer
        service.advance(INTERVAL)
        assert service.states == [state]
    assert service.told[-1] == ("ready", "svc#0", "2 health checks in a row passed")
    assert [kind for kind, *_ in service.told].count("unhealthy") == 1
    assert service.env.get_service_status("svc")["health"]["healthy"]


def test_unhealthy_replica_gets_no_calls_while_another_serves(ward, strategy):
    """An unhealthy replica gets no calls while another is healthy. If none is, all get calls."""
    service = ward(Alive, replicas=2, strategy=strategy, failure_threshold=1, success_threshold=1)
    assert service.seen() == {0, 1}
    service.answers["check_health", 0] = False
    service.advance(INTERVAL)
    assert service.seen() == {1}
    service.answers["check_health", 1] = False
    service.advance(INTERVAL)
    assert service.states == ["unhealthy", "unhealthy"]
    assert service.seen() == {0, 1}
    service.answers["check_health", 0] = True
    service.advance(INTERVAL)
    assert service.seen() == {0}


# -- readiness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Ready, Async])
def test_readiness_counts_at_once_and_is_no_illness(ward, cls):
    """Readiness takes effect after one check, whatever the thresholds, and does not mean unhealthy."""
    service = ward(cls, replicas=2, failure_threshold=3, success_threshold=3)
    service.answers["check_ready", 0] = False
    service.advance(INTERVAL)
    assert service.states == ["unready", "ready"]
    assert service.seen() == {1}
    service.answers["check_ready", 0] = True
    service.advance(INTERVAL)
    assert service.states == ["ready", "ready"]
    assert service.seen() == {0, 1}
    assert [each for each in service.told if each[1] == "svc#0"][-2:] == [
        ("unready", "svc#0", "check_ready() failed: RuntimeError: check_ready() of svc#0 returned False"),
        ("ready", "svc#0", "check_ready() passed"),
    ]


def test_unready_from_the_start(ward):
    """A new replica's readiness is checked before the first interval has passed."""
    service = ward(Ready, replicas=2)

    class Warming(Ready):
        def __init__(self, answers):
            super().__init__(answers)
            answers["check_ready", self.ctx.replica_index] = self.ctx.replica_index == 1

    service.env.close()
    service = ward(Warming, replicas=2)
    assert service.states == ["unready", "ready"]
    assert service.seen() == {1}


def test_illness_is_worse_than_not_being_ready(ward):
    """Unhealthy wins over unready. A replica that recovers has the state that its readiness says."""
    service = ward(failure_threshold=1, success_threshold=1)
    for health, ready, state in (
        (False, False, "unhealthy"),
        (True, False, "unready"),
        (False, False, "unhealthy"),
        (False, True, "unhealthy"),
        (True, True, "ready"),
    ):
        service.answers["check_health", 0], service.answers["check_ready", 0] = health, ready
        service.advance(INTERVAL)
        assert service.states == [state]


# -- checks that hang --------------------------------------------------------------------------------------------------


def test_check_that_hangs_fails_at_its_timeout_and_is_not_put_twice(ward, gate):
    """
    A check that hangs fails at its timeout and again each interval, on one thread.

    Its late answer does not count.
    """
    service = ward(Alive, replicas=2, failure_threshold=3)
    service.answers["check_health", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.advance(TIMEOUT)
    assert service.states == ["ready", "ready"]
    for _ in range(3):
        service.advance(INTERVAL)
    assert service.states == ["unhealthy", "ready"]
    assert gate.entered == 0, "it was started again"
    assert [thread.name for thread in threading.enumerate()].count("svc#0-health") == 1
    assert [index for _, index, _ in service.answers.asked].count(1) == 5, "the other one was not asked in time"
    del service.answers["check_health", 0]
    gate.open()
    service.settle()
    assert service.states == ["unhealthy", "ready"]
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert service.states == ["ready", "ready"]


def test_first_timeout_is_told_as_such(ward, gate):
    """The reason says that the check gave no answer in time."""
    service = ward(Alive, failure_threshold=1)
    service.answers["check_health", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.advance(TIMEOUT)
    reason = "1 health check failed, the last one because check_health() gave no answer in 5 s"
    assert service.told[-1] == ("unhealthy", "svc#0", reason)
    service.advance(INTERVAL - TIMEOUT)
    assert [kind for kind, *_ in service.told].count("unhealthy") == 1


def test_readiness_that_hangs_is_not_ready(ward, gate):
    """A replica whose readiness check hangs is unready."""
    service = ward(failure_threshold=2)
    service.answers["check_ready", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.advance(TIMEOUT)
    for _ in range(3):
        service.advance(INTERVAL)
    assert service.states == ["unready"]
    del service.answers["check_ready", 0]
    gate.open()
    service.settle()
    service.advance(INTERVAL)
    assert service.states == ["ready"]


def test_close_does_not_wait_for_a_check_that_hangs(ward, gate):
    """`close` does not wait for a check that hangs."""
    service = ward(Alive)
    service.answers["check_health", 0] = gate
    service.advance(INTERVAL)
    gate.wait_entered()
    service.env.close()
    assert service.env.task("svc").state == "stopped"
    gate.open()


def test_a_moment_without_threads_is_no_illness(ward, monkeypatch):
    """If no thread can be started, that check is left out: nothing is judged, and the next one runs."""
    service = ward(Alive, failure_threshold=1)
    start, refused = threading.Thread.start, []

    def start_or_refuse(thread):
        if thread.name.endswith("-health") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    asked = len(service.answers.asked)
    service.advance(2 * INTERVAL + TIMEOUT)
    assert refused
    assert service.states == ["ready"]
    assert len(service.answers.asked) == asked + 1


# -- lost slots --------------------------------------------------------------------------------------------------------


def abandon(service, gate, handle):
    """Abandon one call while it runs."""
    call = handle.submit("run", gate)
    gate.wait_entered()
    call.abandon()


@pytest.mark.parametrize("cls", [Patient, Both])
def test_replica_whose_slots_are_all_abandoned_is_unhealthy(ward, gates, threaded, cls):
    """A replica whose slots are all held by abandoned calls is unhealthy until one is free, even without checks."""
    two = {"thread_count": 2, "thread_pool_size": 2} if threaded == "pool" else {}
    slots = 2 if two else 1
    service = ward(cls, strategy=threaded, failure_threshold=3, success_threshold=1, **two)
    handle = service.env.service("svc")
    held = [gates() for _ in range(slots)]
    for gate in held[1:]:
        abandon(service, gate, handle)
    for _ in range(4):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    abandon(service, held[0], handle)
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert service.states == ["ready"]
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]
    assert f"all its {slots} slots are held by calls that were given up and still run" in service.told[-1][2]
    held[0].open()
    handle.index()
    service.advance(INTERVAL)
    assert service.states == ["ready"]


def test_replica_whose_slots_are_taken_and_that_runs_nothing_is_unhealthy(ward, monkeypatch):
    """A replica whose slots are all taken while no worker runs anything is unhealthy."""
    monkeypatch.setattr(SlotRecovery, "look", lambda _: None)
    service = ward(Patient, timeout=1.0)
    (lane,) = service.env.task("svc")._router.lanes
    lane.free.clear()
    call = service.env.service("svc").submit("index")
    service.advance(INTERVAL)
    assert call.expire()
    for _ in range(2):
        service.advance(INTERVAL)
        assert service.states == ["ready"]
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]
    assert "all its slots (1) are taken, but no worker runs anything" in service.told[-1][2]
    lane.free.append(None)
    service.advance(2 * INTERVAL)
    assert service.states == ["ready"]


def test_replica_that_is_seen_between_two_calls_is_well(ward, monkeypatch):
    """
    A replica that answers short calls between the checks is healthy, though all its slots are taken at each check.
    """
    monkeypatch.setattr(SlotRecovery, "look", lambda _: None)
    service = ward(Patient, timeout=1.0)
    handle, (lane,) = service.env.service("svc"), service.env.task("svc")._router.lanes
    lane.free.clear()
    lost = handle.submit("index")
    service.advance(INTERVAL)
    assert lost.expire()  # from now on the monitor watches the replica
    for _ in range(4):
        service.advance(INTERVAL / 2)
        lane.free.append(None)
        handle.index()
        lane.free.clear()
        service.advance(INTERVAL / 2)
        assert service.states == ["ready"]
    service.advance(3 * INTERVAL)
    assert service.states == ["unhealthy"]
    lane.free.append(None)


def test_replica_that_runs_a_call_for_long_is_well(ward, gate):
    """A replica that runs one long call is healthy."""
    service = ward(Patient, timeout=1.0)
    service.env.service("svc").with_options(timeout=1000).submit("run", gate)
    gate.wait_entered()
    call = service.env.service("svc").submit("index")
    service.advance(INTERVAL)
    assert call.expire()
    for _ in range(5):
        service.advance(INTERVAL)
        assert service.monitor._probes
        assert service.states == ["ready"]
    gate.open()


def test_nothing_is_looked_at_once_no_call_is_abandoned(ward, gate):
    """Once no call is abandoned any more, a service without checks has no timer."""
    service = ward(Patient)
    abandon(service, gate, service.env.service("svc"))
    service.advance(INTERVAL)
    assert service.clock.pending == 1
    gate.open()
    service.env.service("svc").index()
    service.advance(INTERVAL)
    service.advance(INTERVAL)
    assert service.clock.pending == 0
    assert not service.monitor._probes


# -- outside environments ----------------------------------------------------------------------------------------------


def test_status_of_a_service_outside_environments():
    """`health` works for a service outside an environment."""
    env = Environment("outside")
    env.register_service_with_config(
        "svc", Alive, Answers(), deployment_config=ServiceDeploymentConfig(monitors=["health"])
    )
    task = env.task("svc")
    task.start_running()
    assert task.status()["health"]["healthy"]
    task.stop()
    env.close()


# -- on an event loop --------------------------------------------------------------------------------------------------


class OnLoop(Patient):
    """Its checks await something of the loop on which it was built."""

    async def setup(self):
        self.loop = asyncio.get_running_loop()
        self.forever = self.loop.create_future()

    async def check_health(self):
        answer = self.answer("check_health")
        if answer == "hang":
            await self.forever
        return answer and asyncio.get_running_loop() is self.loop

    def check_ready(self):
        return self.answer("check_ready")


def test_coroutines_are_asked_on_the_loop_of_the_replica(ward):
    """Coroutine checks run on the replica's loop, others on their own thread so that they do not block it."""
    service = ward(OnLoop, strategy="async", failure_threshold=1)
    service.advance(INTERVAL)
    assert service.states == ["ready"]
    assert {(hook, name) for hook, _, name in service.answers.asked} == {
        ("check_health", "svc#0-loop"),
        ("check_ready", "svc#0-health"),
    }
    service.answers["check_health", 0] = False
    service.advance(INTERVAL)
    assert service.states == ["unhealthy"]


def test_loop_that_is_blocked_is_unhealthy(ward, gate, in_thread):
    """A replica whose loop is blocked is unhealthy."""

    class Blocking(OnLoop):
        async def block(self):
            gate()

    service = ward(Blocking, strategy="async", failure_threshold=1, success_threshold=1)
    in_thread(service.env.service("svc").block)
    gate.wait_entered()
    service.clock.advance(INTERVAL)
    service.clock.advance(TIMEOUT)
    assert service.states == ["unhealthy"]
    gate.open()
    service.settle()
    service.advance(INTERVAL)
    assert service.states == ["ready"]


def test_close_ends_a_coroutine_that_hangs(ward, until):
    """`close` cancels a check coroutine that hangs."""
    service = ward(OnLoop, strategy="async")
    service.answers["check_health", 0] = "hang"
    before = len(service.answers.asked)
    service.clock.advance(INTERVAL)
    until(lambda: len(service.answers.asked) > before)
    service.env.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("svc#0")])


def test_close_releases_a_check_that_a_blocked_loop_never_starts(ward, gate, in_thread, until):
    """`close` releases a check that waits for a blocked loop; the check never runs."""

    class Blocking(OnLoop):
        async def block(self):
            gate()

    def asked(service):
        return sum(hook == "check_health" for hook, _, _ in service.answers.asked)

    service = ward(Blocking, strategy="async")
    in_thread(service.env.service("svc").block)
    gate.wait_entered()
    before = asked(service)
    service.clock.advance(INTERVAL)
    until(lambda: _named("svc#0-health"))
    service.env.close(0)
    until(lambda: not _named("svc#0-health"))
    assert asked(service) == before
    gate.open()
    until(lambda: not _named("svc#0"))


def _named(start):
    return [thread for thread in threading.enumerate() if thread.name.startswith(start)]
