"""
A replica that dies is replaced: what the service does meanwhile, and what else can happen then.

In virtual time, on replicas in this process that a test can kill. tests/testing/test_supervision_cases.py shows what
happens to calls that run when a replica's process really dies.
"""

from __future__ import annotations

import threading

import pytest

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.deployment.replicas.member import ManagedBy
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.resilience.restarts import LONGEST_WAIT_S, MOST_STARTS, STEADY_S
from sage_plugins.values import Placed, Refused, Registration, ReplicaState

STARTUP_S = 1000.0


class Service:
    """Returns the index of its replica; the test chooses what its constructor does."""

    build = staticmethod(lambda _index: None)

    def __init__(self):
        self.build(self.ctx.replica_index)

    def index(self):
        return self.ctx.replica_index

    def run(self, function, *args):
        return function(*args)


class MortalTarget(LocalTarget):
    """Replicas in this process that a test can kill. The test chooses whether there is room for new ones."""

    def __init__(self):
        self.living = {}
        self.started = []
        self.stopped = []
        self.refused = None
        self.progress = None
        self.on_place = lambda: None

    def place(self, specs):
        self.on_place()
        if self.refused is not None:
            return [Refused(self.refused, {"node-1": "is gone"}) for _ in specs]
        return [Placed("node-1", "there is room") for _ in specs]

    def start(self, spec, at, events, clock):
        self.started.append(spec.id)
        replica = super().start(spec, at, events, clock)
        self.living[spec.id] = replica, events
        stop = replica.stop

        def stopping(grace):
            self.stopped.append(spec.id)
            return stop(grace)

        replica.stop = stopping
        if self.progress is not None:
            replica.progress = lambda *, timeout: self.progress(spec.id)
        return replica

    def kill(self, id, *running):
        """End a replica. Its running methods go on; the calls *running* are lost."""
        replica, events = self.living.pop(id)
        events.lost((), running, ConnectionError(f"{id} was killed"))
        return replica


class Stage:
    """One service on this target, in virtual time."""

    def __init__(self, environments, until, in_thread, capabilities, fields):
        self.in_thread = in_thread
        self.target = MortalTarget()
        self.clock = VirtualClock()
        self.events = []
        self.until = until
        target = self.target

        class Plugin:
            @hookimpl
            def sage_register_targets(self):
                declared = frozenset({"in_process", *capabilities})
                return [Registration("mortal", lambda _: target, "Of the tests", capabilities=declared)]

        self.service = type("Service", (Service,), {})
        registry = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())
        self.listen = lambda _event: None
        self.env = environments("test", registry=registry, clock=self.clock, on_event=self.hear)
        config = ServiceDeploymentConfig(**{"target": "mortal", "startup_timeout": STARTUP_S} | fields)
        self.env.register_service_with_config("svc", self.service, deployment_config=config)
        self.env.deploy()
        self.handle = self.env.service("svc")
        self.task = self.env.task("svc")

    def hear(self, event):
        self.events.append(event)
        self.listen(event)

    @property
    def status(self):
        return self.env.get_service_status("svc")

    def counted(self, name):
        """Return a metric's values, without those that are 0."""
        return {labels: number for labels, number in self.env.metrics()["svc"][name].values.items() if number}

    @property
    def ids(self):
        """The state of each replica, by its id."""
        return {replica["id"]: replica["state"] for replica in self.status["replicas"]}

    @property
    def kinds(self):
        return [event.kind for event in self.events]

    def reason(self, kind):
        """Return the reason of the latest event of this kind."""
        return [event.reason for event in self.events if event.kind == kind][-1]

    def kill(self, id, *running):
        self.target.kill(id, *running)

    def ready(self, *ids):
        """Wait until there are exactly these replicas, all ready."""
        self.until(lambda: self.ids == dict.fromkeys(ids, "ready"))

    def pass_wait(self):
        """Advance the clock to the next start."""
        self.until(lambda: self.clock.next_at() <= self.clock.monotonic() + LONGEST_WAIT_S)
        self.clock.run_until(self.clock.next_at())

    def loop(self, id="svc#0"):
        """Kill a replica and let its replacements fail until it is in a crash loop."""

        def fail(_index):
            raise LookupError("no database")

        self.service.build = staticmethod(fail)
        self.kill(id)
        for _ in range(MOST_STARTS - 1):
            self.pass_wait()
        self.until(lambda: "crash_loop" in self.ids.values())

    def heal(self):
        self.service.build = staticmethod(lambda _index: None)


@pytest.fixture
def stage(environments, until, in_thread):
    def make(*capabilities, **fields):
        return Stage(environments, until, in_thread, capabilities, fields)

    return make


BALANCED = {"load_balancing": True, "load_balancer": "round_robin"}


# -- the new replica ---------------------------------------------------------------------------------------------------


def test_replica_that_dies_is_replaced_at_once(stage):
    """A replica that died is replaced at its index. Its counts stay in the metrics, and its target stops it."""
    stage = stage(replicas=2, **BALANCED)
    for _ in range(4):
        stage.handle.index()
    stage.kill("svc#1")
    stage.ready("svc#0", "svc#1.1")
    assert sorted(stage.handle.index() for _ in range(4)) == [0, 0, 1, 1]
    assert stage.status["metrics"].request_count == 8
    stage.until(lambda: "svc#1" in stage.target.stopped)
    assert stage.clock.pending == 0


def test_replica_has_failed_before_its_callers_are_told(stage):
    """A replica has failed before the callers of its lost calls learn of it."""
    stage = stage()
    runs, goes_on = threading.Event(), threading.Event()
    call = stage.handle.submit("run", lambda: (runs.set(), goes_on.wait()))
    runs.wait()
    told = []
    stage.listen = lambda event: told.append((event.kind, call.done()))
    stage.kill("svc#0", call)
    goes_on.set()
    assert ("replica_failed", False) in told
    assert isinstance(call.exception(), errors.ReplicaDiedError)


def test_nothing_of_the_supervision_is_left_when_there_is_nothing_to_do(stage):
    """When there is nothing to supervise, there is no thread and no timer."""
    stage = stage()
    stage.kill("svc#0")
    stage.ready("svc#0.1")
    stage.until(lambda: not [each for each in threading.enumerate() if each.name == "svc-supervisor"])
    assert stage.clock.pending == 0


def test_the_more_replicas_die_the_longer_it_takes(stage):
    """Repeated deaths delay the replacement, until a replica has been ready long enough."""
    stage = stage()
    stage.kill("svc#0")
    stage.ready("svc#0.1")
    stage.kill("svc#0.1")
    stage.until(lambda: "replacement_delayed" in stage.kinds)
    assert stage.ids == {"svc#0.1": "failed"}
    assert stage.target.started == ["svc#0", "svc#0.1"]
    stage.pass_wait()
    stage.ready("svc#0.2")
    stage.clock.advance(STEADY_S + 1)  # the sum of fractions may be slightly too small
    stage.kill("svc#0.2")
    stage.ready("svc#0.3")
    assert stage.status["replaced"] == 3
    assert stage.counted("sage_replica_restarts_total") == {("died",): 3}


def test_second_report_of_an_end_changes_nothing(stage):
    """If a target reports the end of a replica twice, the second report changes nothing."""
    stage = stage()
    _, events = stage.target.living["svc#0"]
    stage.kill("svc#0")
    events.lost((), (), ConnectionError("again"))
    events.changed(ReplicaState.READY)
    stage.ready("svc#0.1")
    assert stage.target.started == ["svc#0", "svc#0.1"]
    assert stage.kinds.count("replica_failed") == 1


def test_start_that_takes_too_long_has_failed(stage, gate):
    """A replica that is not ready after `startup_timeout` has failed. It is stopped, and the next one starts."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    gate.wait_entered()
    stage.heal()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.1": "failed"})
    assert "Raise `startup_timeout`" in stage.status["replicas"][0]["error"]
    stage.until(lambda: "svc#0.1" in stage.target.stopped)
    stage.pass_wait()
    stage.ready("svc#0.2")
    gate.open()


def test_who_waits_until_a_service_is_healthy_waits_for_replacements(stage, gate):
    """`wait_healthy` waits for the replacement of a dead replica, and names it if it is not ready in time."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    gate.wait_entered()
    with pytest.raises(errors.DeployError, match=r"not ready after 0 s: svc#0\.1 is starting$"):
        stage.task.wait_healthy(0)
    gate.open()
    stage.task.wait_healthy()
    assert stage.ids == {"svc#0.1": "ready"}


def test_replica_that_waits_for_something_says_so_when_it_is_late(stage, gate):
    """
    A late replica's error says what it waits for, if its target knows.

    If the target fails to answer, the error says so.
    """
    stage = stage("reports_progress")
    stage.service.build = staticmethod(lambda _index: gate())
    stage.target.progress = lambda id: f"{id} waits for a GPU"
    stage.kill("svc#0")
    gate.wait_entered()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.1": "failed"})
    assert stage.reason("replica_failed").endswith("svc#0.1 not ready after 1000 s; svc#0.1 waits for a GPU")
    stage.target.progress = lambda _id: {}["a fault"]
    stage.pass_wait()
    gate.wait_entered()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.2": "failed"})
    assert stage.reason("replica_failed").endswith("its progress is unknown: KeyError: 'a fault'")
    gate.open()


def test_only_targets_that_declare_it_are_asked_what_a_late_replica_waits_for(stage, gate):
    """Only targets that declare `reports_progress` are asked what a late replica waits for."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.target.progress = lambda id: f"{id} waits for a GPU"
    stage.kill("svc#0")
    gate.wait_entered()
    stage.clock.advance(STARTUP_S)
    stage.until(lambda: stage.ids == {"svc#0.1": "failed"})
    assert "GPU" not in stage.reason("replica_failed")
    gate.open()


def test_deployment_says_of_each_late_replica_what_it_waits_for(stage, gate):
    """
    The error of a deployment says what each late replica waits for, and names those with the same reason together.
    """
    # The thread waits `startup_timeout` in real time before it checks the virtual clock, so it is short.
    stage = stage("reports_progress", startup_timeout=0.03)
    stage.service.build = staticmethod(lambda _index: gate())
    stage.target.progress = lambda id: "" if id == "svc#2" else "it waits for a GPU"
    scaling = stage.in_thread(stage.env.scale, "svc", 4)
    gate.wait_entered(3)
    stage.clock.advance(1)
    with pytest.raises(errors.DeployError) as caught:
        scaling.result(20)
    assert str(caught.value) == (
        "service 'svc': svc#1, svc#3 not ready after 0.03 s; it waits for a GPU. svc#2 not ready after 0.03 s; the "
        "constructor or a start hook still runs. Raise `startup_timeout` (in an update `update.progress_deadline`) if "
        "it needs that long"
    )
    gate.open()


def test_deployment_that_fails_is_not_tried_again(environments):
    """A deployment that fails is not repeated: supervision begins once the service is ready."""
    built = []

    class Broken(Service):
        def __init__(self):
            built.append(self)
            raise LookupError("no database")

    clock = VirtualClock()
    env = environments("broken", clock=clock)
    env.register_service("broken", Broken)
    with pytest.raises(errors.DeployError, match="no database"):
        env.deploy()
    assert len(built) == 1
    assert clock.pending == 0


# -- no place ----------------------------------------------------------------------------------------------------------


def test_service_goes_on_without_a_replica_that_cannot_be_placed(stage):
    """A service goes on without a replica that cannot be placed, says why, and tries again until there is room."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    assert [stage.handle.index() for _ in range(3)] == [1, 1, 1]
    status = stage.status
    (dead, _) = status["replicas"]
    assert (dead["id"], dead["state"]) == ("svc#0", "failed")
    assert "no node has room\n  node-1: is gone" in dead["error"]
    assert "svc#0 was killed" in dead["error"]
    assert status["state"] == "degraded"
    health = status["health"]
    assert (health["healthy"], health["ready"], health["replicas"]) == (False, 1, 2)
    assert "no node has room" in health["missing"]["svc#0"]
    for _ in range(10):
        before = stage.kinds.count("replacement_refused")
        stage.pass_wait()
        stage.until(lambda before=before: stage.kinds.count("replacement_refused") > before)
    assert stage.target.started == ["svc#0", "svc#1"]
    stage.target.refused = None
    stage.pass_wait()
    stage.ready("svc#0.1", "svc#1")
    assert "missing" not in stage.status["health"]


def test_target_that_fails_is_asked_again(stage):
    """If the target fails to place or to start a replica, it is asked again."""
    stage = stage()

    def fail():
        raise ConnectionError("no head node")

    stage.target.on_place = fail
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    assert "failed to place it: ConnectionError: no head node" in stage.reason("replacement_refused")
    stage.target.on_place = lambda: None
    stage.pass_wait()
    stage.ready("svc#0.1")
    start, stage.target.start = stage.target.start, lambda *_: fail()
    stage.kill("svc#0.1")
    stage.pass_wait()
    stage.until(lambda: stage.ids == {"svc#0.2": "failed"})
    assert "no head node" in stage.status["replicas"][0]["error"]
    stage.target.start = start
    stage.pass_wait()
    stage.ready("svc#0.3")


# -- calls meanwhile ---------------------------------------------------------------------------------------------------


def test_calls_wait_for_a_replica_that_is_coming(stage):
    """Calls made while no replica is alive wait for the replacement and start in order."""
    stage = stage()
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    seen = []
    calls = [stage.handle.submit("run", seen.append, number) for number in range(5)]
    assert stage.status["metrics"].queue_size == 5
    stage.until(lambda: "replacement_refused" in stage.kinds)
    stage.target.refused = None
    stage.pass_wait()
    for call in calls:
        call.result(20)
    assert seen == list(range(5))


def test_calls_that_wait_for_a_replica_end_at_their_deadlines(stage):
    """Calls that wait for a replica end at their deadlines."""
    stage = stage(timeout=5.0)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    call = stage.handle.submit("index")
    stage.clock.advance(5.0)
    with pytest.raises(errors.CallTimeoutError) as caught:
        call.result(20)
    assert caught.value.stage == "queue"


# -- the crash loop ----------------------------------------------------------------------------------------------------


def test_crash_loop_of_the_only_replica_refuses_calls_and_ends_those_that_wait(stage):
    """
    If the only replica is in a crash loop, waiting and new calls end with NoReplicaError.

    `restart` ends the crash loop.
    """
    stage = stage(timeout=None)
    waiting = []

    def fail(_index):
        waiting.append(stage.handle.submit("index")) if not waiting else None
        raise LookupError("no database")

    stage.service.build = staticmethod(fail)
    stage.kill("svc#0")
    for _ in range(MOST_STARTS - 1):
        stage.pass_wait()
    with pytest.raises(errors.NoReplicaError, match=r"svc#0\.5 is in a crash loop.*no database.*restart\('svc'\)"):
        waiting[0].result(20)
    with pytest.raises(errors.NoReplicaError):
        stage.handle.index()
    status = stage.status
    assert status["state"] == "crash_loop"
    assert "test_supervision.py" in status["replicas"][0]["error"]
    assert "LookupError: no database" in status["health"]["missing"]["svc#0.5"]
    stage.until(lambda: "crash_loop" in stage.kinds)
    assert "no database" in stage.reason("crash_loop")
    assert stage.clock.pending == 0
    stage.heal()
    stage.env.restart("svc")
    assert stage.handle.index() == 0
    assert stage.status["state"] == "ready"
    stage.kill(next(iter(stage.ids)))
    stage.until(lambda: list(stage.ids.values()) == ["ready"])


def test_crash_loop_of_one_replica_leaves_the_others_alone(stage):
    """A crash loop of one replica leaves the others alone, and scaling down removes that replica."""
    stage = stage(replicas=2, **BALANCED)
    stage.loop("svc#0")
    assert [stage.handle.index() for _ in range(3)] == [1, 1, 1]
    status = stage.status
    assert status["state"] == "crash_loop"
    assert stage.ids == {"svc#0.5": "crash_loop", "svc#1": "ready"}
    assert status["health"]["ready"] == 1
    stage.env.scale("svc", 1)
    assert stage.ids == {"svc#1": "ready"}
    assert stage.status["state"] == "ready"


def test_restart_that_fails_leaves_the_crash_loop_as_it_is(stage):
    """A restart that fails leaves the crash loop as it is, and waiting calls end."""
    stage = stage(timeout=None)
    stage.loop()
    restarts = {("died",): 1, ("start_failed",): MOST_STARTS - 1}
    assert stage.counted("sage_replica_restarts_total") == restarts
    with pytest.raises(errors.DeployError, match="no database"):
        stage.env.restart("svc")
    assert stage.ids == {"svc#0.5": "crash_loop"}
    with pytest.raises(errors.NoReplicaError):
        stage.handle.index()
    assert stage.clock.pending == 0


def test_replica_that_waits_for_its_start_gives_hope_beside_a_crash_loop(stage):
    """If one replica is in a crash loop, calls still wait while another one can start."""
    stage = stage(replicas=2, **BALANCED)
    stage.loop("svc#0")
    stage.target.refused = "no node has room"
    stage.heal()
    stage.kill("svc#1")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    call = stage.handle.submit("index")
    stage.target.refused = None
    stage.pass_wait()
    assert call.result(20) == 1


# -- changes meanwhile -------------------------------------------------------------------------------------------------


def test_scaling_down_takes_the_replicas_that_are_missing_first(stage):
    """Scaling down removes missing replicas first."""
    stage = stage(replicas=3, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    stage.env.scale("svc", 2)
    assert stage.ids == {"svc#1": "ready", "svc#2": "ready"}
    assert stage.clock.pending == 0
    assert stage.status["health"]["healthy"]


def test_a_missing_replica_counts_as_one(stage):
    """A missing replica counts as one, both for `scale` and for the difference from the configuration."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    assert stage.task.drift == {}
    stage.env.scale("svc", 2)
    assert "scaled" not in stage.kinds
    stage.target.refused = None
    stage.env.scale("svc", 3)
    assert stage.ids == {"svc#0": "failed", "svc#1": "ready", "svc#2": "ready"}
    stage.pass_wait()
    stage.ready("svc#0.1", "svc#1", "svc#2")


def test_restart_replaces_missing_replicas_now(stage):
    """`restart` replaces missing replicas at once and cancels their planned starts."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    stage.target.refused = None
    stage.env.restart("svc")
    assert stage.ids == {"svc#0.1": "ready", "svc#1.1": "ready"}
    assert stage.clock.pending == 0


def test_restart_while_a_replacement_is_starting_leaves_one_replica(stage, gate, in_thread):
    """If `restart` comes while a replacement is starting, that one is stopped and one replica is left."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    gate.wait_entered()
    restarting = in_thread(stage.env.restart, "svc")
    gate.wait_entered()
    gate.open()
    restarting.result(20)
    assert stage.ids == {"svc#0.2": "ready"}
    assert stage.handle.index() == 0


def test_restart_that_fails_leaves_a_dead_replica_to_the_supervisor(stage):
    """After a restart that failed, supervision goes on replacing the dead replica."""
    stage = stage()
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    stage.until(lambda: "replacement_refused" in stage.kinds)
    with pytest.raises(errors.DeployError, match="no node has room"):
        stage.env.restart("svc")
    stage.until(lambda: stage.kinds.count("replacement_refused") == 2)
    stage.target.refused = None
    stage.until(lambda: stage.ids != {"svc#0": "failed"} or stage.clock.pending)
    if stage.ids == {"svc#0": "failed"}:  # if not, the pending timer is the startup timeout of its successor
        stage.pass_wait()
    stage.until(lambda: list(stage.ids.values()) == ["ready"])


@pytest.mark.parametrize("change", ["scale", "restart"])
def test_change_while_a_replacement_is_placed_leaves_one_replica(stage, gate, in_thread, change):
    """A replacement whose place `scale` or `restart` takes while it is being placed is not started."""
    stage = stage(replicas=2, **BALANCED)
    stage.target.on_place = gate
    stage.kill("svc#0")
    gate.wait_entered()
    stage.target.on_place = lambda: None
    changing = in_thread(stage.env.scale, "svc", 1) if change == "scale" else in_thread(stage.env.restart, "svc")
    (dead,) = [member for member in stage.task.replicas.members if member.id == "svc#0"]
    stage.until(lambda: dead.managed_by is ManagedBy.NOBODY or dead.replacement is not None)
    gate.open()
    changing.result(20)
    if change == "scale":
        assert (stage.ids, stage.target.started) == ({"svc#1": "ready"}, ["svc#0", "svc#1"])
    else:
        assert stage.ids == {"svc#0.1": "ready", "svc#1.1": "ready"}
        assert stage.target.started == ["svc#0", "svc#1", "svc#0.1", "svc#1.1"]


def test_drain_without_a_replica_ends_what_waits(stage):
    """`drain` without a replica ends waiting calls at once, since no replica will start."""
    stage = stage()
    stage.target.refused = "no node has room"
    stage.kill("svc#0")
    waiting = stage.handle.submit("index")
    stage.env.drain("svc")
    with pytest.raises(errors.ServiceStoppedError):
        waiting.result(0)


@pytest.mark.parametrize("moment", ["waits", "is placed", "starts"])
def test_close_while_a_replica_is_being_replaced_starts_nothing_more(stage, gate, in_thread, moment):
    """`close` during a replacement starts nothing more, and waiting calls end with ServiceStoppedError."""
    stage = stage()
    if moment == "waits":
        stage.target.refused = "no node has room"
        stage.kill("svc#0")
        stage.until(lambda: "replacement_refused" in stage.kinds)
    elif moment == "is placed":
        stage.target.on_place = gate
        stage.kill("svc#0")
        gate.wait_entered()
    else:
        stage.service.build = staticmethod(lambda _index: gate())
        stage.kill("svc#0")
        gate.wait_entered()
    waiting = stage.handle.submit("index")
    closing = in_thread(stage.env.close, drain_timeout=0)
    stage.until(lambda: stage.status["state"] in {"draining", "stopped"})
    gate.open()
    closing.result(20)
    with pytest.raises(errors.ServiceStoppedError):
        waiting.result(20)
    assert stage.target.started == (["svc#0", "svc#0.1"] if moment == "starts" else ["svc#0"])
    assert set(stage.ids.values()) == {"stopped"}
    assert stage.clock.pending == 0


def test_close_waits_for_a_replacement_that_answers_what_waits(stage, gate, in_thread):
    """`close` waits, within `drain_timeout`, for a replacement that answers waiting calls."""
    stage = stage()
    stage.service.build = staticmethod(lambda _index: gate())
    stage.kill("svc#0")
    waiting = stage.handle.submit("index")
    closing = in_thread(stage.env.close)
    stage.until(lambda: stage.status["state"] == "draining")
    gate.open()
    assert waiting.result(20) == 0
    closing.result(20)


def test_service_may_be_closed_by_who_is_told_of_an_end(stage):
    """A listener can close the environment from the supervisor's thread."""
    stage = stage()
    stage.target.refused = "no node has room"
    closed = threading.Event()

    def close(event):
        if event.kind == "replacement_refused":
            stage.env.close(drain_timeout=0)
            closed.set()

    stage.listen = close
    stage.kill("svc#0")
    assert closed.wait(20)
    assert stage.status["state"] == "stopped"


# -- standby -----------------------------------------------------------------------------------------------------------


def test_standby_takes_over_and_keeps_the_calls(stage):
    """Without balancing the standby takes over, and the replacement becomes the standby: calls do not move back."""
    stage = stage(replicas=2, load_balancing=False, failover_enabled=True)
    assert stage.handle.index() == 0
    stage.kill("svc#0")
    assert stage.handle.index() == 1
    stage.ready("svc#0.1", "svc#1")
    assert [stage.handle.index() for _ in range(3)] == [1, 1, 1]
    stage.kill("svc#1")
    assert stage.handle.index() == 0
    stage.ready("svc#0.1", "svc#1.1")
    assert [stage.handle.index() for _ in range(3)] == [0, 0, 0]


def test_restart_makes_the_first_replica_the_primary_again(stage):
    """`restart` makes the first replica the primary again."""
    stage = stage(replicas=2, load_balancing=False, failover_enabled=True)
    stage.kill("svc#0")
    stage.ready("svc#0.1", "svc#1")
    stage.env.restart("svc")
    assert stage.handle.index() == 0


# -- unhealthy replicas ------------------------------------------------------------------------------------------------


def mark(stage, state=ReplicaState.UNHEALTHY, reason="it hangs"):
    (member,) = stage.task.replicas.places
    member.mark(state, reason)


def test_unhealthy_replica_is_left_alone_where_what_hangs_would_go_on(stage):
    """An unhealthy replica is replaced only if its target declares `replaces_unhealthy`."""
    stage = stage()
    mark(stage)
    assert stage.ids == {"svc#0": "unhealthy"}
    assert stage.task._supervisor._restarts is None


def test_unhealthy_replica_is_replaced_by_one_that_is_started_first(stage, gate):
    """An unhealthy replica is replaced once its successor is ready, and gets `drain_timeout` to finish its calls."""
    stage = stage("replaces_unhealthy", threading_strategy="pool", thread_pool_size=2)
    running = stage.handle.submit("run", gate)
    gate.wait_entered()
    mark(stage)
    stage.until(lambda: stage.ids == {"svc#0": "draining", "svc#0.1": "ready"})
    assert stage.handle.index() == 0
    gate.open()
    running.result(20)
    stage.ready("svc#0.1")
    assert stage.reason("replica_draining") == "replaced by svc#0.1"
    assert stage.counted("sage_replica_restarts_total") == {("unhealthy",): 1}


def test_unhealthy_replica_that_is_well_in_time_stays(stage):
    """An unhealthy replica that recovers before its delayed replacement starts is kept."""
    stage = stage("replaces_unhealthy")
    mark(stage)
    stage.ready("svc#0.1")
    mark(stage)
    stage.until(lambda: "replacement_delayed" in stage.kinds)
    mark(stage, ReplicaState.READY, "")
    stage.pass_wait()
    stage.until(lambda: not [each for each in threading.enumerate() if each.name.startswith("svc-")])
    assert stage.ids == {"svc#0.1": "ready"}


def test_unhealthy_replica_goes_first_where_there_is_no_room_for_two(stage, gate):
    """Without room for two, the unhealthy replica stops first. It gets `drain_timeout` for its running calls."""
    stage = stage("replaces_unhealthy")
    stage.target.refused = "the one GPU is taken"
    running = stage.handle.submit("run", gate)
    gate.wait_entered()
    mark(stage)
    stage.until(lambda: not stage.task._router.lanes)
    assert (stage.ids, stage.target.stopped) == ({"svc#0": "unhealthy"}, [])
    gate.open()
    running.result(20)
    stage.until(lambda: "svc#0" in stage.target.stopped and "failed" in stage.ids.values())
    assert "there is no room for a second one: the one GPU is taken" in stage.status["replicas"][0]["error"]
    stage.target.refused = None
    stage.pass_wait()
    stage.ready("svc#0.1")
    assert stage.counted("sage_replica_restarts_total") == {("unhealthy",): 1}


def test_unhealthy_replica_stays_while_its_heirs_fail(stage):
    """If all replacements fail, up to a crash loop, the unhealthy replica stays, since it may still answer."""
    stage = stage("replaces_unhealthy")

    def fail(_index):
        raise LookupError("no database")

    stage.service.build = staticmethod(fail)
    mark(stage)
    for number in range(1, MOST_STARTS):
        stage.until(lambda number=number: stage.kinds.count("replacement_failed") == number and stage.clock.pending)
        assert "no database" in stage.status["replicas"][0]["error"]
        stage.pass_wait()
    stage.until(lambda: "crash_loop" in stage.kinds)
    stage.until(lambda: stage.ids == {"svc#0": "unhealthy"})
    assert stage.handle.index() == 0
    assert stage.clock.pending == 0


def test_unhealthy_replica_that_dies_while_its_heir_starts_is_replaced_by_that(stage, gate):
    """If an unhealthy replica dies while its successor starts, that successor replaces it."""
    stage = stage("replaces_unhealthy")
    stage.service.build = staticmethod(lambda _index: gate())
    mark(stage)
    gate.wait_entered()
    stage.kill("svc#0")
    call = stage.handle.submit("index")
    gate.open()
    assert call.result(20) == 0
    stage.ready("svc#0.1")
    assert stage.target.started == ["svc#0", "svc#0.1"]


def test_restart_while_an_heir_starts_leaves_one_replica(stage, gate, in_thread):
    """If `restart` comes while a successor starts, one replica is left."""
    stage = stage("replaces_unhealthy")
    stage.service.build = staticmethod(lambda _index: gate())
    mark(stage)
    gate.wait_entered()
    restarting = in_thread(stage.env.restart, "svc")
    gate.wait_entered()
    gate.open()
    restarting.result(20)
    stage.until(lambda: list(stage.ids.values()) == ["ready"])
    assert stage.handle.index() == 0
    assert set(stage.target.started) == {"svc#0", "svc#0.1", "svc#0.2"}
