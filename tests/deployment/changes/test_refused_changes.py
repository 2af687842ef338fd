"""A service that does not run, or is being changed, or calls for the change itself, is not changed."""

from __future__ import annotations

import pytest

from changed_service import Numbered, ids
from sage_plugins import Environment, ServiceDeploymentConfig, errors

PATIENCE = 20.0
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
