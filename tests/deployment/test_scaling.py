"""
Changes to a running service: more replicas, fewer, new ones, another balancer; and draining.

Rules that hold for every strategy and target are in `sage_deploy_testing.cases.change_cases`.
"""

from __future__ import annotations

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import Environment, ServiceDeploymentConfig, errors
from sage_plugins.hookspecs import hookimpl
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

PATIENCE = 20.0


class Numbered:
    """A replica that returns its index."""

    def index(self):
        return self.ctx.replica_index

    def echo(self, value):
        return value

    def run(self, function, *args):
        return function(*args)


class Noted(QuietMonitor):
    """A monitor that records every event and the service that it is attached to."""

    def __init__(self):
        self.events = []
        self.service = None

    def event(self, event):
        self.events.append(event)

    def attach(self, service):
        self.service = service

    def of(self, kind):
        return [(event.replica, event.reason) for event in tuple(self.events) if event.kind == kind]


class FirstOfAll:
    """A binding balancer: every call goes to the first replica."""

    binding = True

    def picker(self, candidates):
        return lambda _key, _method: candidates[0]


class LastOfAll(FirstOfAll):
    def picker(self, candidates):
        return lambda _key, _method: candidates[-1]


class Counted(LastOfAll):
    def __init__(self, composed):
        self.composed = composed

    def picker(self, candidates):
        self.composed.append(len(candidates))
        return super().picker(candidates)


@pytest.fixture(params=["single", "multi", "pool", "async", "inline"])
def strategy(request):
    return request.param


@pytest.fixture
def noted():
    return Noted()


@pytest.fixture
def composed():
    """The number of candidates each time the balancer `counted` builds its picker."""
    return []


@pytest.fixture
def options(noted, composed):
    """Options for `deploy`: the monitor `noted` and several balancers."""

    class Plugin:
        @hookimpl
        def sage_register_monitors(self):
            return [Registration("noted", lambda _: noted, "notes")]

        @hookimpl
        def sage_register_load_balancers(self):
            return [
                Registration("first", lambda *_: FirstOfAll(), "the first"),
                Registration("last", lambda *_: LastOfAll(), "the last"),
                Registration("counted", lambda *_: Counted(composed), "the last, and counts"),
                Registration("broken", lambda *_: 1 / 0, "cannot be made"),
            ]

    registry = Registry.of(
        sage_deploy_balancers, sage_deploy_local, sage_deploy_monitors, sage_deploy_threading, Plugin()
    )
    return {"env_options": {"registry": registry}, "monitors": ["metrics", "noted"]}


def ids(service):
    return [each["id"] for each in service.env.get_service_status("svc")["replicas"]]


# -- scaling -----------------------------------------------------------------------------------------------------------


def test_scaling_turns_balancing_on_with_an_event(deploy, strategy, options, noted):
    """Scaling above one replica turns the default balancer on, once and with an event."""
    service = deploy(strategy, Numbered, **options)
    service.env.scale("svc", 1)
    assert noted.of("balancing_enabled") == []
    service.env.scale("svc", 2)
    service.env.scale("svc", 3)
    assert noted.of("balancing_enabled") == [(None, "'least_loaded', because there is more than one replica now")]
    assert noted.of("scaled") == [
        (None, "scaled from 1 to 2 replicas"),
        (None, "scaled from 2 to 3 replicas"),
    ]


@pytest.mark.parametrize("replicas", [4, 16])
def test_choice_is_composed_as_often_however_many_replicas_come_and_go(deploy, options, composed, replicas):
    """The balancer's picker is built at the first call, and then once for each change of the replicas."""
    service = deploy("inline", Numbered, replicas=replicas, load_balancer="counted", **options)
    assert composed == []
    service.handle.index()
    service.env.scale("svc", 2 * replicas)
    service.env.scale("svc", replicas)
    service.handle.index()
    assert composed == [replicas, 2 * replicas, replicas]


def test_scaling_that_fails_turns_no_balancing_on(deploy, options, noted):
    """Scaling that fails does not turn balancing on."""

    class Failing(Numbered):
        def __init__(self):
            if self.ctx.replica_index:
                raise ValueError("no more room")

    service = deploy("single", Failing, **options)
    with pytest.raises(errors.DeployError, match="replica 1: ValueError: no more room"):
        service.env.scale("svc", 2)
    assert noted.of("balancing_enabled") == []


def test_replicas_that_leave_say_why(deploy, options, noted):
    """The event of a replica that leaves says why."""
    service = deploy("single", Numbered, replicas=3, load_balancing=True, **options)
    service.env.scale("svc", 2)
    service.env.restart("svc")
    assert noted.of("replica_draining") == [
        ("svc#2", "scaled from 3 to 2 replicas"),
        ("svc#0", "replaced by svc#0.1"),
        ("svc#1", "replaced by svc#1.1"),
    ]
    assert [replica for replica, _ in noted.of("replica_stopped")] == ["svc#2", "svc#0", "svc#1"]


def test_standby_replicas_serve_once_there_are_more(deploy, options):
    """Scaling up a primary with a standby turns balancing on, and all replicas get calls."""
    service = deploy("single", Numbered, replicas=2, load_balancing=False, failover_enabled=True, **options)
    assert {service.handle.index() for _ in range(6)} == {0}
    service.env.scale("svc", 3)
    assert {service.handle.index() for _ in range(6)} == {0, 1, 2}


def test_newcomers_get_no_call_before_all_are_ready(deploy, options, gates, in_thread, until):
    """New replicas get no calls until all of them are ready."""
    gates = {1: gates(), 2: gates()}

    class Slow(Numbered):
        def __init__(self):
            if self.ctx.replica_index:
                gates[self.ctx.replica_index]()

    service = deploy("single", Slow, **options)
    scaling = in_thread(service.env.scale, "svc", 3)
    gates[2].wait_entered()
    gates[2].open()
    status = lambda: [each["state"] for each in service.env.get_service_status("svc")["replicas"]]  # noqa: E731 - one look
    until(lambda: status() == ["ready", "starting", "ready"])
    assert {service.handle.index() for _ in range(6)} == {0}
    gates[1].open()
    scaling.result(PATIENCE)
    assert {service.handle.index() for _ in range(6)} == {0, 1, 2}


def test_calls_that_wait_for_a_leaving_replica_move(deploy, threaded, gate, options):
    """Calls that wait for a replica that leaves move to another one, also under a binding balancer."""
    one = {"thread_count": 1, "thread_pool_size": 1} if threaded == "pool" else {}
    service = deploy(
        threaded, Numbered, replicas=2, load_balancing=True, load_balancer="last", drain_timeout=0.1, **(options | one)
    )
    service.handle.submit("run", gate)
    gate.wait_entered()
    waiting = [service.handle.submit("index") for _ in range(3)]
    service.env.scale("svc", 1)
    assert [call.result(PATIENCE) for call in waiting] == [0, 0, 0]


@pytest.mark.parametrize("replicas", [0, -1, True, 2.0, "2", None])
def test_number_of_replicas_is_checked(deploy, replicas, options):
    """`scale` accepts only an integer of 1 or more."""
    service = deploy("single", Numbered, **options)
    with pytest.raises(errors.ConfigError, match="replicas must be an integer, 1 or more"):
        service.env.scale("svc", replicas)


def test_many_changes_leave_nothing_behind(deploy, strategy, options):
    """What departed replicas leave behind does not grow with their number."""
    service = deploy(strategy, Numbered, **options)
    task = service.env.task("svc")
    for _ in range(10):
        task.restart()
        task.scale(2)
        service.handle.echo(1)
        task.scale(1)
    router = task._router
    assert len(task.replicas.members) == 1
    assert len(router._lanes.closed) <= 2
    assert not router._queue._unserved
    assert not router._closing._retiring
    assert router._closing.watch is None
    assert len(task.replicas.counts_of_departed) == 1
    assert service.metrics.request_count == 10


# -- the balancer ------------------------------------------------------------------------------------------------------


def test_balancer_is_changed_while_the_service_runs(deploy, strategy, options, noted):
    """`set_load_balancer` changes the balancer of a running service, with an event."""
    service = deploy(strategy, Numbered, replicas=3, load_balancing=True, load_balancer="first", **options)
    assert {service.handle.index() for _ in range(6)} == {0}
    service.env.set_load_balancer("svc", "round_robin")
    assert [service.handle.index() for _ in range(6)] == [0, 1, 2] * 2
    assert noted.of("balancer_changed") == [(None, "from 'first' to 'round_robin'")]


def test_keys_are_read_as_the_new_balancer_says(deploy, options):
    """After a change to `consistent_hash` its `key` option applies, and replacements keep their predecessors' keys."""

    class Keyed(Numbered):
        def of(self, user):
            return self.ctx.replica_index

    service = deploy("single", Keyed, replicas=3, load_balancing=True, **options)
    service.env.set_load_balancer("svc", "consistent_hash", {"key": "user"})
    homes = {user: service.handle.of(user) for user in range(20)}
    assert set(homes.values()) == {0, 1, 2}
    service.env.restart("svc")
    assert {user: service.handle.of(user=user) for user in range(20)} == homes
    with pytest.raises(errors.PlanError, match=r"options\.consistent_hash\.key"):
        service.env.set_load_balancer("svc", "consistent_hash", {"key": "usr"})


@pytest.mark.parametrize(("first", "second"), [("first", "round_robin"), ("round_robin", "last"), ("first", "last")])
def test_waiting_calls_stay_when_the_balancer_changes(deploy, threaded, gates, options, first, second):  # noqa: PLR0913, PLR0917 - fixtures
    """Waiting calls survive a change of the balancer and run once, whichever backlog held them."""
    one = {"thread_count": 1, "thread_pool_size": 1} if threaded == "pool" else {}
    service = deploy(threaded, Numbered, replicas=2, load_balancing=True, load_balancer=first, **(options | one))
    gate = gates()
    service.handle.submit("run", gate)
    gate.wait_entered()
    if first == "round_robin":
        service.handle.submit("run", gate)
        gate.wait_entered()
    waiting = [service.handle.submit("echo", number) for number in range(5)]
    service.env.set_load_balancer("svc", second)
    if first == "first":  # the other replica is free
        assert [call.result(PATIENCE) for call in waiting] == list(range(5))
    gate.open()
    assert [call.result(PATIENCE) for call in waiting] == list(range(5))
    assert service.waiting == 0


@pytest.mark.parametrize(
    ("balancer", "settings", "error", "text"),
    [
        ("rund_robin", None, errors.UnknownPluginError, "did you mean 'round_robin'"),
        ("round_robin", {"weight": 1}, errors.PlanError, "'round_robin' has no options"),
        ("broken", None, errors.PluginError, "load balancer 'broken' from .* cannot be made: ZeroDivisionError"),
    ],
)
def test_balancer_that_cannot_be_had_changes_nothing(deploy, options, balancer, settings, error, text):  # noqa: PLR0913, PLR0917 - fixtures
    """If the new balancer cannot be created, the old one stays."""
    service = deploy("single", Numbered, replicas=2, load_balancing=True, load_balancer="first", **options)
    with pytest.raises(error, match=text):
        service.env.set_load_balancer("svc", balancer, settings)
    assert {service.handle.index() for _ in range(4)} == {0}


# -- draining ----------------------------------------------------------------------------------------------------------


def test_drain_of_a_service_that_does_not_run_does_nothing(env):
    """`drain` of a service that does not run does nothing."""
    env.register_service("svc", Numbered)
    env.drain("svc")
    assert env.service("svc").echo(1) == 1


# -- when it cannot be done --------------------------------------------------------------------------------------------

CHANGES = {
    "scale": lambda env: env.scale("svc", 2),
    "restart": lambda env: env.restart("svc"),
    "set_load_balancer": lambda env: env.set_load_balancer("svc", "round_robin"),
}


@pytest.fixture(params=CHANGES)
def change(request):
    """Each change in turn."""
    return CHANGES[request.param]


def test_only_a_service_that_runs_can_be_changed(env, change, gate, in_thread):
    """Only a running service can be changed. The error says its state and what to do."""

    class Slow(Numbered):
        def __init__(self):
            gate()

    env.register_service("svc", Slow)
    with pytest.raises(errors.DeployError, match=r"is pending and cannot be .*: deploy it first"):
        change(env)
    deploying = in_thread(env.deploy)
    gate.wait_entered()
    with pytest.raises(errors.DeployError, match=r"is starting and cannot be .*: deploy it first"):
        change(env)
    gate.open()
    deploying.result(PATIENCE)
    env.drain("svc")
    with pytest.raises(errors.DeployError, match="is stopped and cannot be"):
        change(env)


def test_unknown_service_cannot_be_changed(env, change):
    """Changing an unknown service raises ServiceNotFoundError."""
    with pytest.raises(errors.ServiceNotFoundError):
        change(env)


@pytest.mark.parametrize("verb", ["scale up", "scale down", "restart", "balance", "drain"])
def test_change_from_within_a_call_of_the_service(deploy, strategy, verb, options, until):
    """A change made within a call of the service does not wait for that call."""
    service = deploy(strategy, Numbered, replicas=2, load_balancing=True, load_balancer="last", **options)
    env = service.env
    does = {
        "scale up": lambda: env.scale("svc", 3),
        "scale down": lambda: env.scale("svc", 1),
        "restart": lambda: env.restart("svc"),
        "balance": lambda: env.set_load_balancer("svc", "first"),
        "drain": lambda: env.drain("svc"),
    }
    service.handle.run(does[verb])
    expected = {
        "scale up": ["svc#0", "svc#1", "svc#2"],
        "scale down": ["svc#0"],
        "restart": ["svc#0.1", "svc#1.1"],
        "balance": ["svc#0", "svc#1"],
        "drain": ["svc#0", "svc#1"],
    }
    until(lambda: ids(service) == expected[verb])
    if verb == "drain":
        until(lambda: env.task("svc").state == "stopped")
    else:
        assert service.handle.echo(1) == 1


def test_failed_restart_from_within_a_call_is_told(deploy, options, noted, until, caplog):
    """If a restart made within a call fails, an event and the log say so, and the service goes on."""
    broken = []

    class Failing(Numbered):
        def __init__(self):
            if broken:
                raise ValueError("the disk is gone")

    service = deploy("single", Failing, **options)
    broken.append(True)
    service.handle.run(service.env.restart, "svc")
    until(lambda: noted.of("restart_failed"))
    assert "the disk is gone" in noted.of("restart_failed")[0][1]
    until(lambda: "was not restarted" in caplog.text)
    assert service.handle.echo(1) == 1


def test_change_from_within_a_call_is_refused_while_there_is_another(deploy, options, gate, in_thread, change):
    """A change within a call is refused while another one runs, since that one may wait for this call."""

    class Slow(Numbered):
        def __init__(self):
            if self.ctx.replica_index == 2:
                gate()

    service = deploy("single", Slow, replicas=2, load_balancing=True, **options)
    scaling = in_thread(service.env.scale, "svc", 3)
    gate.wait_entered()
    with pytest.raises(errors.DeployError, match="is being changed by another thread"):
        service.handle.run(change, service.env)
    gate.open()
    scaling.result(PATIENCE)


def test_task_outside_environments_can_be_changed(options):
    """A `ServiceTask` can be scaled, restarted, rebalanced and drained."""
    env = Environment(registry=options["env_options"]["registry"])
    config = ServiceDeploymentConfig(replicas=2, load_balancing=True)
    env.register_service_with_config("svc", Numbered, deployment_config=config)
    task = env.task("svc")
    task.start_running()
    task.scale(3)
    task.restart()
    task.set_load_balancer("first")
    assert {task.handle.index() for _ in range(4)} == {0}
    task.drain()
    assert task.state == "stopped"
    env.close()


# -- what monitors may do ----------------------------------------------------------------------------------------------


def test_monitor_is_attached_once_and_sees_the_replicas(deploy, options, noted):
    """A monitor is attached once, and sees the service's replicas."""
    service = deploy("single", Numbered, replicas=2, load_balancing=True, **options)
    watched = noted.service
    assert watched.name == "svc"
    assert watched.config is service.env.get_service_status("svc")["deployment_config"]
    assert [(replica.id, str(replica.state), replica.slots) for replica in watched.replicas()] == [
        ("svc#0", "ready", 1),
        ("svc#1", "ready", 1),
    ]
    service.env.scale("svc", 1)
    assert [replica.id for replica in watched.replicas()] == ["svc#0"]


def test_marked_replica_gets_no_calls_while_there_is_another(deploy, strategy, options, noted):
    """A replica marked unhealthy or unready gets no calls, unless all replicas are marked."""
    service = deploy(strategy, Numbered, replicas=2, load_balancing=True, **options)
    first, second = noted.service.replicas()
    first.mark("unhealthy", "it smells")
    assert {service.handle.index() for _ in range(4)} == {1}
    status = service.env.get_service_status("svc")
    assert status["health"] == {"healthy": False, "ready": 1, "replicas": 2, "missing": {"svc#0": "it smells"}}
    assert [(each["state"], each["error"]) for each in status["replicas"]] == [
        ("unhealthy", "it smells"),
        ("ready", None),
    ]
    second.mark("unready", "it rests")
    assert {service.handle.index() for _ in range(4)} == {0, 1}
    first.mark("ready", "it was washed")
    assert {service.handle.index() for _ in range(4)} == {0}
    assert noted.of("replica_unhealthy") == [("svc#0", "it smells")]
    assert noted.of("replica_unready") == [("svc#1", "it rests")]
    assert noted.of("replica_ready")[-1] == ("svc#0", "it was washed")


def test_standby_serves_while_the_primary_is_unhealthy(deploy, options, noted):
    """While the primary is unhealthy, the standby gets the calls."""
    service = deploy("single", Numbered, replicas=2, load_balancing=False, failover_enabled=True, **options)
    noted.service.replicas()[0].mark("unhealthy", "it smells")
    assert service.handle.index() == 1


def test_calls_that_wait_for_a_marked_replica_move(deploy, threaded, gate, options, noted):
    """Calls that wait for a replica marked unhealthy move to another one, also under a binding balancer."""
    one = {"thread_count": 1, "thread_pool_size": 1} if threaded == "pool" else {}
    service = deploy(threaded, Numbered, replicas=2, load_balancing=True, load_balancer="first", **(options | one))
    service.handle.submit("run", gate)
    gate.wait_entered()
    waiting = [service.handle.submit("index") for _ in range(3)]
    noted.service.replicas()[0].mark("unhealthy", "it hangs")
    assert [call.result(PATIENCE) for call in waiting] == [1, 1, 1]


def test_replica_that_leaves_cannot_be_marked(deploy, options, noted):
    """A replica that has left cannot be marked."""
    service = deploy("single", Numbered, replicas=2, load_balancing=True, **options)
    gone = noted.service.replicas()[1]
    service.env.scale("svc", 1)
    gone.mark("ready", "I am back")
    assert gone.state == "stopped"
    with pytest.raises(ValueError, match="not 'stopped'"):
        gone.mark("stopped", "nobody may say that")


def test_counts_of_a_monitor_that_cannot_merge_leave_with_the_replica(deploy, options):
    """Merging snapshots leaves out monitors that cannot merge, and unknown ones."""
    service = deploy("single", Numbered, **options)
    metrics = service.env.task("svc")._monitors
    assert set(metrics.merge([{"noted": {}, "unknown": {}}])) == set()


def test_first_results_of_a_future_survive_the_change(deploy, threaded, options):
    """A call that ended on a replica which has left keeps its result."""
    service = deploy(threaded, Numbered, **options)
    call = service.handle.submit("echo", 7)
    service.env.restart("svc")
    assert call.result(PATIENCE) == 7
