"""Updates of running services: which way each change takes, and what happens meanwhile."""

from __future__ import annotations

import signal
import threading

import pytest

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.clock import SYSTEM
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Refused, Registration


class Versioned:
    """Returns its version; its constructor runs a function of the test."""

    def __init__(self, version=1, begin=None):
        if begin is not None:
            begin(self.ctx.replica_index)
        self.version = version

    def which(self):
        return self.version

    def run(self, function):
        return function()


class Checked(Versioned):
    ready = True

    def check_ready(self):
        return self.version == 1 or Checked.ready


class Reconfigured(Versioned):
    def reconfigure(self, user_config):
        self.version = user_config["version"]


class Wordy(Versioned):
    def words(self):
        return []


class Full(LocalTarget):
    """A target with room for three replicas."""

    def __init__(self):
        super().__init__()
        self.replicas = []

    def place(self, specs):
        return [
            Refused("three is all there is") if len(self.living) + number >= 3 else place
            for number, place in enumerate(super().place(specs))
        ]

    @property
    def living(self):
        return [each for each in self.replicas if each.id not in self.stopped]

    stopped: set[str]

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        self.replicas.append(replica)
        stop = replica.stop

        def stopping(grace):
            self.stopped.add(replica.id)
            return stop(grace)

        replica.stop = stopping
        return replica


@pytest.fixture
def clock(request):
    return getattr(request, "param", SYSTEM)


@pytest.fixture
def env(environments, clock):
    return environments("updates", clock=clock)


def update(env, *args, cls=Versioned, name="svc", **fields):
    config = ServiceDeploymentConfig(**fields)
    env.register_service_with_config(name, cls, *args, deployment_config=config)


def ids(env):
    return [replica["id"] for replica in env.get_service_status("svc")["replicas"]]


def rolls(env):
    return [(event.kind, event.reason) for _, _, event in env.events(0) if "roll" in event.kind]


WAYS = {
    "rolls replica by replica": [
        {"args": [2]},
        {"thread_count": 4, "threading_strategy": "pool"},
        {"cpu_cores": 1.0},
        {"memory_mb": 100},
        {"cls": type("Versioned", (Versioned,), {"__qualname__": "Other"})},
        {"cls": type("Versioned", (Versioned,), {"__doc__": "Defined again under the same name."})},
        {"user_config": {"a": 1}},
        {"options": {"single": {}}, "args": [2]},
    ],
    "changes in place": [
        {"replicas": 3},
        {"load_balancer": "random"},
        {"load_balancer": "random", "options": {"random": {"seed": 3}}},
        {"drain_timeout": 7.0, "startup_timeout": 8.0},
        {"update": {"max_surge": 2}},
        {"user_config": {"version": 3}, "cls": Reconfigured},
    ],
    "is replaced as a whole": [
        {"timeout": 7.0},
        {"queue_size": 7},
        {"cls": Wordy},
        {"cls": Checked},
        {"threading_strategy": "inline"},
        {"monitors": ("metrics",)},
        {"methods": {"which": {"idempotent": True}}},
        {"retry": {}, "args": [2]},
    ],
}


@pytest.mark.parametrize(
    ("way", "change"),
    [(way, change) for way, changes in WAYS.items() for change in changes],
    ids=[f"{way}: {'-'.join(change)}" for way, changes in WAYS.items() for change in changes],
)
def test_each_change_goes_the_way_that_the_plan_says(env, way, change):
    """Each change takes the way that the plan announced: in place, replica by replica, or as a whole."""
    change = dict(change)
    args, cls = change.pop("args", [1]), change.pop("cls", Versioned)
    first = Reconfigured if cls is Reconfigured else Versioned
    given = {"user_config": {"version": 1}} if cls is Reconfigured else {}
    update(env, 1, cls=first, replicas=2, **given)
    env.deploy()
    task, before = env.task("svc"), ids(env)
    update(env, *args, cls=cls, **{"replicas": 2, **change})
    (service,) = env.plan().services
    assert service.way.startswith(way)
    assert f"    > {service.way}" in env.plan().summary()
    assert f"    > {service.way}" in str(env.plan())
    env.apply()
    assert (env.task("svc") is task) is (way != "is replaced as a whole")
    assert (ids(env)[:2] == before) is (way != "rolls replica by replica")
    assert not env.plan().has_changes
    assert env.service("svc").which() in {1, 2, 3}


def test_a_balancer_that_is_configured_chooses_from_then_on(env):
    """A balancer that is configured later takes over the choice; without one the first replica serves again."""
    update(env, replicas=2, failover_enabled=True)
    env.deploy()
    update(env, replicas=2, failover_enabled=True, load_balancer="round_robin")
    env.apply()
    assert env.task("svc").status_view.drift() == {}
    assert env.task("svc")._balancing.choice.id == "round_robin"
    update(env, replicas=2, failover_enabled=True, load_balancing=False)
    env.apply()
    assert env.task("svc")._balancing.choice is None
    assert not env.plan().has_changes


@pytest.mark.parametrize("clock", [VirtualClock()], indirect=True, ids=["virtual time"])
def test_a_replica_counts_after_min_ready_s(env, clock, in_thread, until):
    """A new replica counts as ready after `min_ready_s`. Until then old replicas stay, and both versions serve."""
    several = {"replicas": 2, "load_balancer": "round_robin", "update": {"max_surge": 2, "min_ready_s": 100}}
    update(env, 1, **several)
    env.deploy()
    update(env, 2, **several)
    applied = in_thread(env.apply)
    until(lambda: [env.service("svc").which() for _ in range(4)].count(2) == 2)
    clock.advance(99)
    assert not applied.done()
    assert len(ids(env)) == 4
    until(lambda: applied.done() or clock.advance(1))  # `apply` may have noticed later that the replicas were ready
    applied.result(20)
    assert env.service("svc").which() == 2


@pytest.mark.parametrize("clock", [VirtualClock()], indirect=True, ids=["virtual time"])
def test_progress_deadline_wins_over_startup_timeout(env, clock, in_thread, gate, until):
    """During an update, `progress_deadline` applies instead of `startup_timeout`, and the error names it."""
    update(env, 1, startup_timeout=1)
    env.deploy()
    update(env, 2, lambda _: gate(), startup_timeout=1, update={"progress_deadline": 500})
    applied = in_thread(env.apply)
    gate.wait_entered()
    clock.advance(499)
    assert not applied.done()
    until(lambda: clock.next_at() <= clock.monotonic() + 1)
    clock.advance(1)
    with pytest.raises(
        errors.DeployError, match=r"rolled back.*svc#0\.1 not ready after 500 s.*`update\.progress_deadline`"
    ):
        applied.result(20)
    gate.open()
    assert env.service("svc").which() == 1


def test_a_version_whose_check_is_false_is_rolled_back_when_it_is_replaced_as_a_whole_too(env):
    """If a service is replaced as a whole and `check_ready` stays false, the update is rolled back."""
    update(env, 1, cls=Checked)
    env.deploy()
    Checked.ready = False
    update(env, 2, cls=Checked, timeout=7.0, update={"progress_deadline": 0.3})
    with pytest.raises(errors.DeployError, match=r"was rolled back.*check_ready"):
        env.apply()
    Checked.ready = True
    assert env.service("svc").which() == 1


def test_calls_that_wait_are_answered_by_whichever_version_is_free(env, gate, in_thread, until):
    """During an update, waiting calls keep their queue, and any version with a free slot answers them."""
    update(env, 1, queue_size=10)
    env.deploy()
    running = env.service("svc").submit("run", gate)
    gate.wait_entered()
    waiting = [env.service("svc").submit("which") for _ in range(10)]
    update(env, 2, queue_size=10)
    applied = in_thread(env.apply)
    assert [call.result(20) for call in waiting] == [2] * 10
    gate.open()
    running.result(20)
    applied.result(20)


def test_closing_in_the_middle_of_an_update_ends_it(env, gate, in_thread):
    """`close` during an update ends it with DeployError."""
    update(env, 1)
    env.deploy()
    update(env, 2, lambda _: gate())
    applied = in_thread(env.apply)
    gate.wait_entered()
    closing = in_thread(env.close)
    with pytest.raises(errors.DeployError, match="was stopped"):
        applied.result(20)
    gate.open()
    closing.result(20)


def test_an_interrupted_update_is_rolled_back(env, until):
    """Ctrl-C during an update raises at once, and the update is rolled back in the background."""
    main = threading.main_thread().ident
    going_on = threading.Event()

    def begin(index):
        if index == 1:
            signal.pthread_kill(main, signal.SIGINT)
            going_on.wait(20)

    update(env, 1, replicas=2)
    env.deploy()
    update(env, 2, begin, replicas=2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            env.apply()
    finally:
        signal.signal(signal.SIGINT, before)
    going_on.set()
    until(lambda: ids(env) == ["svc#0.2", "svc#1"])
    assert {env.service("svc").which() for _ in range(4)} == {1}
    update(env, 3, replicas=2)
    env.apply()
    assert {env.service("svc").which() for _ in range(4)} == {3}


def test_an_update_from_within_a_call_of_the_service_waits_for_no_replica_that_leaves(env):
    """An update made within a call of the service does not wait for the replica that runs this call."""
    update(env, 1)
    env.deploy()

    def change():
        update(env, 2)
        env.apply()

    env.service("svc").run(change)
    assert env.service("svc").which() == 2


def test_what_was_scaled_by_hand_is_taken_back_and_the_plan_says_so(env):
    """An update sets back a number of replicas that was changed with `scale`, and the plan says so."""
    update(env, 1, replicas=2)
    env.deploy()
    env.scale("svc", 3)
    update(env, 2, replicas=2)
    (service,) = env.plan().services
    assert [(each.key, each.old, each.new) for each in service.changes if each.key == "replicas"] == [
        ("replicas", 3, 2)
    ]
    env.apply()
    assert ids(env) == ["svc#0.1", "svc#1.1"]


# -- without room ------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(environments):
    Full.stopped = set()

    class Plugin:
        @hookimpl
        def sage_register_targets(self):
            return [Registration("full", lambda _: Full(), "Three replicas", capabilities=frozenset({"in_process"}))]

    registry = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())
    env = environments("full", registry=registry)
    update(env, 1, target="full", replicas=3)
    env.deploy()
    return env


def test_without_room_an_update_is_rolled_back_with_the_reason(full):
    """Without room for new replicas an update is rolled back, and the error gives the reason."""
    update(full, 2, target="full", replicas=3)
    with pytest.raises(errors.DeployError, match=r"was rolled back.*three is all there is"):
        full.apply()
    assert ids(full) == ["svc#0", "svc#1", "svc#2"]


def test_without_room_one_leaves_first_if_max_unavailable_allows(full):
    """Without room, an old replica stops first if `max_unavailable` allows it."""
    update(full, 2, target="full", replicas=3, update={"max_unavailable": 1})
    full.apply()
    assert {full.service("svc").which() for _ in range(6)} == {2}
    assert ids(full) == ["svc#0.1", "svc#1.1", "svc#2.1"]


# -- under load --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"max_surge": 2}, {"max_surge": 0, "max_unavailable": 1}])
def test_no_call_fails_under_load_while_versions_come_and_go_back(env, in_thread, settings):
    """Under load no call fails, while good versions roll out and broken ones are rolled back."""
    update(env, 0, replicas=3, queue_size=0, update=settings)
    handle = env.service("svc")
    over, heard = threading.Event(), set()

    def call():
        made = 0
        while not over.is_set():
            heard.add(handle.which())
            made += 1
        return made

    def breaks(index):
        if index == 2:
            raise ValueError("broken")

    env.deploy()
    callers = [in_thread(call) for _ in range(6)]
    for version in range(1, 6):
        if version % 2:
            update(env, version, replicas=3, queue_size=0, update=settings)
            env.apply()
        else:
            update(env, version, breaks, replicas=3, queue_size=0, update=settings)
            with pytest.raises(errors.DeployError, match="was rolled back"):
                env.apply()
    over.set()
    assert sum(caller.result(20) for caller in callers) > 0
    assert {handle.which() for _ in range(6)} == {5}
    counted = env.get_service_status("svc")["metrics"]
    assert counted.error_count == counted.rejected_count == 0
    assert heard <= set(range(6))
