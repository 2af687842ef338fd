"""Services that scale by themselves, on real threads, mostly with short delays or a clock that the test controls."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading

import pytest

import process_target
import sage_deploy_autoscalers
import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.clock import SYSTEM
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Placed, Refused, Registration

PATIENCE = 20.0

#: Delays short enough that a test need not wait, and long enough that the autoscaler looks within them.
QUICK = {"target_ongoing_requests": 1, "upscale_delay": 0.1, "downscale_delay": 0.2, "look_back": 0.3}


class Held:
    """Its calls run until the gate opens."""

    gate = threading.Event()

    def hold(self):
        assert self.gate.wait(PATIENCE)
        return self.ctx.replica_index

    def echo(self, value):
        return value


class Noted:
    """Records every event, and can wait for one."""

    def __init__(self):
        self.events = []
        self._came = threading.Condition()

    def event(self, event):
        """Called by the environment for each event."""
        with self._came:
            self.events.append(event)
            self._came.notify_all()

    def of(self, kind):
        return [event.reason for event in tuple(self.events) if event.kind == kind]

    def wait(self, found):
        """Wait until *found* is true of this object."""
        with self._came:
            assert self._came.wait_for(lambda: found(self), PATIENCE), [tuple(event) for event in self.events]

    def wait_scaled(self, text):
        self.wait(lambda noted: any(text in reason for reason in noted.of("scaled")))


class Narrow:
    """A target with room for a limited number of replicas."""

    def __init__(self, room):
        self.room = room
        self.target = sage_deploy_local.sage_register_targets()[0].create(None)

    def place(self, specs):
        return [
            Placed(None, "there is room") if spec.index < self.room[0] else Refused("the house is full")
            for spec in specs
        ]

    def start(self, spec, at, events, clock):
        return self.target.start(spec, at, events, clock)

    def close(self):
        self.target.close()


@pytest.fixture
def noted():
    return Noted()


@pytest.fixture
def gate():
    Held.gate = threading.Event()
    yield Held.gate
    Held.gate.set()


@pytest.fixture
def room():
    return [2]


@pytest.fixture
def deploy(noted, room, environments):
    """Deploys `Held`, or another class, with `autoscale` and returns the environment."""

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [
                process_target.registration(),
                Registration("narrow", lambda _: Narrow(room), "little room", capabilities=frozenset({"in_process"})),
            ]

        @hookimpl
        def sage_register_autoscalers(self):
            class Broken:
                def decide(self, load):
                    raise RuntimeError(f"no idea what to do with {load.ongoing}")

            return [Registration("broken", lambda _: Broken(), "breaks"), Registration("none", lambda _: 1 / 0, "none")]

    def make(autoscale, cls=Held, *, clock=None, aim=True, **config):
        plugins = (sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
        registry = Registry.of(*plugins, sage_deploy_autoscalers, Plugin())
        env = environments("elastic", registry=registry, clock=SYSTEM if clock is None else clock, on_event=noted.event)
        config = {"timeout": PATIENCE, "drain_timeout": PATIENCE} | config
        autoscale = QUICK | autoscale
        if not aim:
            del autoscale["target_ongoing_requests"]
        env.register_service_with_config(
            "svc", cls, deployment_config=ServiceDeploymentConfig(autoscale=autoscale, **config)
        )
        env.deploy()
        return env

    return make


def living(env):
    return [each["id"] for each in env.get_service_status("svc")["replicas"]]


# -- more and fewer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["local", "process"])
def test_service_grows_under_load_and_shrinks_after_it(deploy, noted, until, target, tmp_path):
    """A service grows to its maximum under load and shrinks afterwards, and every call gets its result."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        env = deploy({"max": 3}, HeldByFile, target=target)
        calls = [env.service("svc").submit("hold", str(tmp_path / "lock")) for _ in range(5)]
        noted.wait_scaled("to 3 replicas")
        assert env.get_service_status("svc")["autoscale"] == {"wanted": 3, "min": 1, "max": 3}
    results = [call.result(PATIENCE) for call in calls]
    assert len(set(results)) > 1
    noted.wait_scaled("to 1 replica")
    noted.wait(lambda noted: sum(event.kind == "replica_stopped" for event in noted.events) == 2)
    until(lambda: living(env) == ["svc#0"])


class HeldByFile:
    """Like `Held`, but works in any process: calls run while the test holds a lock on the file."""

    def hold(self, path):
        import fcntl

        with open(path) as file:  # noqa: PTH123 - the test is about the lock
            fcntl.flock(file, fcntl.LOCK_SH)
        return self.ctx.replica_index


def test_scaling_in_drains_the_replica(deploy, noted, gate):
    """A call that runs on a replica which scaling removes gets its result."""
    env = deploy({"max": 3, "initial": 3, "target_ongoing_requests": 10})
    calls = [env.service("svc").submit("hold")]
    noted.wait_scaled("to 1 replica")
    assert not calls[0].done()
    gate.set()
    assert calls[0].result(PATIENCE) in range(3)


def test_pool_uses_its_threads_before_there_is_another_replica(deploy, noted, gate):
    """Without `target_ongoing_requests`, a pool of four threads takes four calls; eight bring a second replica."""
    clock = Stepping()
    threads = {"threading_strategy": "pool", "thread_count": 1, "thread_pool_size": 4}
    env = deploy({"max": 3}, clock=clock, timeout=None, aim=False, **threads)
    calls = [env.service("svc").submit("hold") for _ in range(4)]
    clock.run(5)
    assert living(env) == ["svc#0"]
    calls += [env.service("svc").submit("hold") for _ in range(4)]
    clock.run(5)
    assert living(env) == ["svc#0", "svc#1"]
    gate.set()
    assert len([call.result(PATIENCE) for call in calls]) == 8


def test_decisions_are_events_with_their_numbers(deploy, noted, gate):
    """The event of a decision contains the policy's numbers."""
    env = deploy({"max": 2})
    calls = [env.service("svc").submit("hold") for _ in range(3)]
    noted.wait_scaled("to 2 replicas")
    (reason,) = noted.of("scaled")
    assert reason.startswith("scaled from 1 to 2 replicas: target_ongoing wants 3: 3 calls run or wait on average over")
    gate.set()
    assert [call.result(PATIENCE) for call in calls]


# -- zero --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single", "multi", "pool", "async", "inline"])
def test_to_zero_and_back_on_a_call(deploy, noted, until, strategy):
    """A service at zero replicas is ready. The next call starts a replica and is answered."""
    threads = {"thread_count": 2} if strategy == "multi" else {}
    env = deploy({"min": 0, "max": 2, "scale_to_zero_delay": 0.2}, threading_strategy=strategy, **threads)
    for _ in range(2):
        noted.wait(lambda noted: noted.events and noted.events[-1].kind == "replica_stopped")
        until(lambda: living(env) == [])
        status = env.get_service_status("svc")
        assert status["state"] == "ready"
        assert status["health"] == {"healthy": True, "ready": 0, "replicas": 0}
        assert env.overview()["svc"]["state"] == "ready"
        assert env.service("svc").echo(1) == 1
    assert "a call waits while there is no replica" in noted.of("scaled")[1]


def test_no_call_is_lost_between_zero_and_one(deploy, noted):
    """While the service keeps going to zero and back, every call is answered once."""
    env = deploy({"min": 0, "max": 2, "scale_to_zero_delay": 0.0, "downscale_delay": 0.0, "look_back": 0.05})
    service, done = env.service("svc"), []

    def call(name):
        for number in range(30):
            assert service.echo((name, number)) == (name, number)
            done.append(1)
            if number % 5 == 0:
                seen = len(noted.events)
                noted.wait(lambda noted: len(noted.events) > seen)  # noqa: B023 - used before the next iteration

    threads = [threading.Thread(target=call, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert len(done) == 90
    assert any("to 0 replicas" in reason for reason in noted.of("scaled"))


def test_call_that_waits_at_zero_ends_at_its_deadline(deploy, noted, room):
    """A call that waits for a replica that cannot be placed ends at its deadline, and an event says why."""
    env = deploy({"min": 0, "max": 2, "scale_to_zero_delay": 0.1}, target="narrow")
    noted.wait(lambda noted: noted.events and noted.events[-1].kind == "replica_stopped")
    room[0] = 0
    with pytest.raises(errors.CallTimeoutError):
        env.service("svc").with_options(timeout=0.5).echo(1)
    assert "1 are wanted (a call waits" in noted.of("scaling_refused")[0]
    room[0] = 1
    assert env.service("svc").echo(1) == 1


def test_service_that_stops_answers_the_call_for_which_it_wakes_up(deploy, noted, gate, in_thread):
    """While the service stops, a call accepted before still gets its replica and its result."""
    gate.set()
    env = deploy({"min": 0, "max": 1, "scale_to_zero_delay": 0.1}, SlowToStart)
    noted.wait(lambda noted: noted.events and noted.events[-1].kind == "replica_stopped")
    gate.clear()
    call = env.service("svc").submit("echo", 7)
    noted.wait(lambda noted: noted.events[-1].kind == "replica_starting")
    stopping = in_thread(env.drain, "svc")
    gate.set()
    assert call.result(PATIENCE) == 7
    stopping.result(PATIENCE)
    assert env.get_service_status("svc")["state"] == "stopped"


class SlowToStart(Held):
    """Its constructor ends when the gate opens."""

    def __init__(self):
        assert self.gate.wait(PATIENCE)


def test_constructor_that_fails_at_every_call_is_given_up(deploy, noted):
    """After five failed starts, waiting calls end with NoReplicaError; `scale` brings the service back."""
    env = deploy({"min": 0, "max": 1, "scale_to_zero_delay": 0.1}, Fragile, clock=Hasty())
    noted.wait(lambda noted: noted.events and noted.events[-1].kind == "replica_stopped")
    Fragile.broken = True
    try:
        with pytest.raises(errors.NoReplicaError, match=r"5 starts .* have failed.*broken glass.*`scale\('svc', 1\)`"):
            env.service("svc").echo(1)
    finally:
        Fragile.broken = False
    assert len(noted.of("scaling_failed")) == 5
    env.scale("svc", 1)
    assert env.service("svc").echo(1) == 1


class Fragile(Held):
    broken = False

    def __init__(self):
        if self.broken:
            raise ValueError("broken glass")


class Hasty:
    """The real clock, ten times faster."""

    def __init__(self):
        self.monotonic = lambda: 10 * SYSTEM.monotonic()
        self.call_at = lambda when, callback: SYSTEM.call_at(when / 10, callback)


# -- no room, no policy ------------------------------------------------------------------------------------------------


def test_target_without_room_is_said_and_what_fits_starts(deploy, noted, gate, room):
    """
    If the target has no room for all wanted replicas, those that fit start and an event says why.

    The rest follow later.
    """
    env = deploy({"max": 4}, target="narrow")
    calls = [env.service("svc").submit("hold") for _ in range(6)]
    noted.wait_scaled("to 2 replicas")
    assert noted.of("scaling_refused")[0].endswith("and there is room for 2: the house is full")
    assert env.get_service_status("svc")["autoscale"]["wanted"] == 4
    room[0] = 9
    noted.wait_scaled("to 4 replicas")
    gate.set()
    assert len([call.result(PATIENCE) for call in calls]) == 6


def test_policy_that_raises_leaves_the_number(deploy, noted):
    """If the policy raises, an event says so, the number of replicas stays and calls go on."""
    env = deploy({"max": 4, "policy": "broken"})
    noted.wait(lambda noted: noted.of("scaling_failed"))
    assert "autoscaler 'broken'" in noted.of("scaling_failed")[0]
    assert env.service("svc").echo(1) == 1
    assert living(env) == ["svc#0"]


def test_policy_that_cannot_be_made_is_said_at_the_deployment(deploy):
    """If the policy cannot be created, the deployment fails with PluginError."""
    with pytest.raises(errors.PluginError, match=r"autoscaler 'none' .* cannot be made: ZeroDivisionError"):
        deploy({"max": 4, "policy": "none"})


def test_unknown_policy_is_an_error_with_the_nearest_one(deploy):
    """An unknown policy is an error that suggests the nearest name."""
    with pytest.raises(errors.UnknownPluginError, match="did you mean 'target_ongoing'"):
        deploy({"max": 4, "policy": "target_ongoin"})


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_scaled_by_hand_within_the_bounds_it_stays_until_the_next_decision(deploy, noted, until):
    """`scale` within the bounds holds until the autoscaler's next decision."""
    env = deploy({"max": 4, "downscale_delay": 0.5})
    env.scale("svc", 3)
    assert living(env) == ["svc#0", "svc#1", "svc#2"]
    # the autoscaler may have been deciding meanwhile
    until(lambda: env.get_service_status("svc")["autoscale"]["wanted"] == 3)
    noted.wait_scaled("to 1 replica")


@pytest.mark.parametrize("replicas", [1, 5])
def test_scaled_by_hand_beyond_the_bounds_is_refused(deploy, replicas):
    """`scale` outside the bounds is refused and changes nothing."""
    env = deploy({"min": 2, "max": 4})
    with pytest.raises(errors.ConfigError, match=f"between 2 and 4 replicas, and cannot be given {replicas}"):
        env.scale("svc", replicas)
    assert living(env) == ["svc#0", "svc#1"]


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_plan_shows_policy_bounds_and_delays(deploy):
    """The plan shows the policy, the bounds and the delays."""
    env = deploy({"min": 0, "max": 4, "scale_to_zero_delay": 60})
    text = str(env.plan())
    assert "autoscale target_ongoing  [sage_deploy_autoscalers]" in text
    assert "enforced: 0 to 4 replicas, 1 at the start" in text
    assert "more after 0.1 s, fewer after 0.2 s, none after 60 s without calls" in text
    assert not env.plan().has_changes


def test_service_without_autoscale_has_nothing_of_it(environments):
    """A service without `autoscale` has neither an autoscaler nor a status of one."""
    env = environments("fixed")
    env.register_service("svc", Held)
    env.deploy()
    assert "autoscale" not in env.get_service_status("svc")
    assert env.task("svc").replicas.scaler is None


# -- virtual time ------------------------------------------------------------------------------------------------------


def test_hours_of_load_in_virtual_time(deploy, noted, gate):
    """Delays of minutes are kept to the second, in virtual time."""
    clock = Stepping()
    env = deploy({"max": 3, "upscale_delay": 60, "downscale_delay": 600, "look_back": 30}, clock=clock, timeout=None)
    calls = [env.service("svc").submit("hold") for _ in range(3)]
    clock.run(60)
    assert noted.of("scaled") == []
    clock.run(2)
    assert len(noted.of("scaled")) == 1
    assert len(living(env)) == 3
    gate.set()
    assert [call.result(PATIENCE) for call in calls]
    clock.run(590)
    assert len(noted.of("scaled")) == 1
    clock.run(60)
    assert noted.of("scaled")[1].startswith("scaled from 3 to 1 replica")


def test_call_at_zero_waits_for_no_timer(deploy, noted):
    """A call at zero replicas starts one at once, without waiting for a timer."""
    clock = Stepping()
    env = deploy({"min": 0, "max": 1, "downscale_delay": 600}, clock=clock, timeout=None)
    clock.run(599)
    assert living(env) == ["svc#0"]
    clock.run(5)
    assert living(env) == []
    assert env.service("svc").submit("echo", 1).result(PATIENCE) == 1


class Stepping(VirtualClock):
    """A virtual clock that advances second by second and lets each decision end first."""

    def run(self, seconds):
        until = self.monotonic() + seconds
        while self.monotonic() < until:
            self.advance(min(1.0, until - self.monotonic()))
            for thread in threading.enumerate():
                if thread.name.endswith(("-autoscale", "-scale")):
                    thread.join(PATIENCE)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_nothing_is_left_of_it_when_the_service_stops(deploy):
    """A stopped service leaves no timer and no thread of its autoscaler."""
    clock = VirtualClock()
    env = deploy({"max": 3}, clock=clock)
    assert clock.pending == 1
    env.drain("svc")
    assert clock.pending == 0
    assert not [each.name for each in threading.enumerate() if each.name.startswith("svc-")]


def test_interpreter_ends_although_the_service_was_not_stopped():
    """A program ends even if a service with an autoscaler was not stopped."""
    code = """
from sage_plugins import Environment, ServiceDeploymentConfig
env = Environment("left")
config = ServiceDeploymentConfig(autoscale={"min": 0, "max": 2})
env.register_service_with_config("svc", type("A", (), {"f": lambda self: 1}), deployment_config=config)
print(env.service("svc").f())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1\n"
