"""
Updates of a service on Ray under load, while replicas are killed: each call has one outcome, and the update ends.

The rules for every target are in `UpdateCases`. Here processes of old and new replicas are killed during an update.
"""

from __future__ import annotations

import os
import signal
import threading

import pytest

from killing import kill_replica
from sage_deploy_testing.tools.checkpoints import Switchboard
from sage_plugins import ServiceDeploymentConfig, errors
from witness import History, Witness

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

PATIENCE = 60.0
SLOTS = 2


class Versioned(Witness):
    """Returns its version. Its constructor reports its process to the test, and waits."""

    def __init__(self, path, version, checkpoint=None):
        super().__init__(path)
        if checkpoint is not None:
            checkpoint.reach(os.getpid())
        self.version = version

    def which(self):
        return self.version


@pytest.fixture
def board():
    with Switchboard(PATIENCE) as switchboard:
        yield switchboard


@pytest.fixture
def env(environments, board):  # opens the gates before the service is closed
    return environments("updates")


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "witness")


def update(env, *args):
    config = ServiceDeploymentConfig(
        target="remote_any",
        threading_strategy="pool",
        thread_count=SLOTS,
        thread_pool_size=SLOTS,
        cpu_cores=0.1,
        replicas=2,
        failover_enabled=True,
        timeout=PATIENCE,
    )
    env.register_service_with_config("svc", Versioned, *args, deployment_config=config)


def states(env):
    return {replica["id"]: replica["state"] for replica in env.get_service_status("svc")["replicas"]}


def test_replicas_that_are_killed_during_an_update_cost_no_call(env, board, history, in_thread, until):
    """No idempotent call is lost if an old replica and a starting new one are killed; the update starts it again."""
    update(env, history.file, 1)
    env.deploy()
    handle, over = env.service("svc"), threading.Event()

    def call():
        while not over.is_set():
            assert history.call(handle, "run", 0.02, idempotent=True).exception(PATIENCE) is None

    callers = [in_thread(call) for _ in range(4)]
    gate = board.watch()
    update(env, history.file, 2, gate.checkpoint)
    updating = in_thread(env.apply)
    (starting,) = gate.wait()
    kill_replica(env.get_service_status("svc"), "svc#1")
    until(lambda: states(env).get("svc#1.1") == "ready")
    os.kill(starting, signal.SIGKILL)
    gate.wait()
    gate.open()
    updating.result(PATIENCE)
    over.set()
    for caller in callers:
        caller.result(PATIENCE)
    assert states(env) == {"svc#0.2": "ready", "svc#1.2": "ready"}
    assert {handle.which() for _ in range(6)} == {2}
    found = history.check(slots=SLOTS, deaths=1, patience=PATIENCE)
    assert not found.failed
    assert not found.died
    env.close()


def test_a_version_whose_process_always_dies_is_rolled_back(env, board, history, in_thread):
    """
    A version whose process always dies is started a few times, as a death may have other causes, then rolled back.
    """
    update(env, history.file, 1)
    env.deploy()
    gate = board.watch()
    update(env, history.file, 2, gate.checkpoint)
    updating = in_thread(env.apply)
    for _ in range(4):
        (starting,) = gate.wait()
        os.kill(starting, signal.SIGKILL)
    with pytest.raises(errors.DeployError, match=r"was rolled back.*died before it took its place"):
        updating.result(PATIENCE)
    assert states(env) == {"svc#0": "ready", "svc#1": "ready"}
    assert {env.service("svc").which() for _ in range(6)} == {1}
