"""What monitors see of changes, and what they may do: mark replicas, which then get no calls."""

from __future__ import annotations

import pytest

from changed_service import Numbered

PATIENCE = 20.0


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
