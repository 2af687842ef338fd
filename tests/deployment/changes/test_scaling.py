"""
Changes to a running service: more replicas, fewer, another balancer; and draining.

Rules that hold for every strategy and target are in `sage_deploy_testing.cases.change_cases`.
"""

from __future__ import annotations

import pytest

from changed_service import Numbered
from sage_plugins import errors

PATIENCE = 20.0


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
