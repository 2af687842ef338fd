"""
Replicas, nodes and drivers really die: every call has one outcome, and what died comes back.

The rules are in `SupervisionCases`. Here processes are killed in more ways, a witness records the calls, and nodes die.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray

from killing import is_gone, kill_replica
from sage_deploy_ray import target as ray_target
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_testing.tools.checkpoints import Switchboard
from sage_plugins import ServiceDeploymentConfig, ServiceFactory, ServiceTaskFactory, errors
from sage_plugins.resilience.restarts import LONGEST_WAIT_S
from witness import History, Witness

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

PATIENCE = 30.0
SLOTS = 2
BALANCED = {"load_balancing": True, "failover_enabled": True}


class Service:
    """A deployed service, with what the tests ask of it."""

    def __init__(self, env, name):
        self.env = env
        self.name = name
        self.handle = env.service(name)

    @property
    def status(self):
        return self.env.get_service_status(self.name)

    @property
    def states(self):
        return {replica["id"]: replica["state"] for replica in self.status["replicas"]}

    @property
    def ready(self):
        """The number of ready replicas."""
        return sum(state == "ready" for state in self.states.values())

    @property
    def generations(self):
        """How often each position has been started again."""
        return [int(id.partition(".")[2] or 0) for id in self.states]

    def kill(self, replica_id):
        return kill_replica(self.status, replica_id)

    def replica(self, index):
        """Return the status of the replica at a position."""
        (found,) = (each for each in self.status["replicas"] if each["id"].partition(".")[0] == f"{self.name}#{index}")
        return found


@pytest.fixture
def board():
    with Switchboard(PATIENCE) as switchboard:
        yield switchboard


@pytest.fixture
def register(environments, board):  # opens the gates before the service is closed
    """Register a service with two slots per replica in the test's environment."""
    made = []

    def make(cls, *args, name="svc", clock=None, **fields):
        if not made:
            made.append(environments("deaths", **({} if clock is None else {"clock": clock})))
        common = {"target": "remote_any", "threading_strategy": "pool", "thread_count": SLOTS, "cpu_cores": 0.1}
        config = ServiceDeploymentConfig(**{**common, "thread_pool_size": SLOTS, "timeout": PATIENCE, **fields})
        made[0].register_service_with_config(name, cls, *args, deployment_config=config)
        return Service(made[0], name)

    return make


@pytest.fixture
def deploy(register):
    """Register and deploy a service."""

    def make(*args, **fields):
        service = register(*args, **fields)
        service.env.deploy()
        return service

    return make


@pytest.fixture
def frozen():
    """Stop processes for a while."""

    @contextlib.contextmanager
    def freeze(*pids):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    return freeze


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "witness")


class Slow:
    """A service whose constructor waits for the test."""

    def __init__(self, checkpoint):
        checkpoint.reach()


class Doomed:
    """A service whose process is killed during its construction, as long as the file exists."""

    def __init__(self, path):
        if Path(path).exists():
            os.kill(os.getpid(), signal.SIGKILL)


class Load:
    """Threads that call, one call after another, until the block ends."""

    def __init__(self, history, handle, threads=4, **options):
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(history, handle, options)) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, history, handle, options):
        while not self._over.is_set():
            history.call(handle, "run", 0.005, **options).exception(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)


# -- replicas ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended(monkeypatch):
    """The actors that Ray was told to kill, each as often as it was told."""
    ended, kill = [], ray.kill

    def count(actor, **how):
        ended.append(actor._actor_id)
        kill(actor, **how)

    monkeypatch.setattr(ray, "kill", count)
    return ended


def test_dead_replica_is_noticed_and_replaced_without_a_call(deploy, history, until, ended):
    """A dead replica is noticed and replaced without any call. Ray is told once that its actor is not needed."""
    service = deploy(Witness, history.file, replicas=2, **BALANCED)

    killed = time.monotonic()
    pid = service.kill("svc#1")
    until(lambda: service.states.get("svc#1") != "ready")
    noticed = time.monotonic()
    until(lambda: service.states == {"svc#0": "ready", "svc#1.1": "ready"})

    assert noticed - killed < 1  # Ray says so within 20 ms; the rest is for the status on a busy machine
    assert service.replica(1)["pid"] != pid
    service.env.close()
    assert len(set(ended)) == len(ended) == 3


def test_each_call_has_one_outcome_when_its_replica_dies_under_it(deploy, history, board, until):
    """
    When a replica dies, its running calls fail, but idempotent ones run again elsewhere, and so do waiting calls.

    A call that ran may have had an effect, so only an idempotent one may run a second time.
    """
    service = deploy(Witness, history.file, replicas=2, **BALANCED)
    gate = board.watch()
    for number in range(4):
        history.call(service.handle, "hold", gate.checkpoint, idempotent=bool(number % 2))
    pids = gate.wait(4)
    waiting = [history.call(service.handle, "run") for _ in range(20)]

    os.kill(pids[0], signal.SIGKILL)

    until(lambda: sum(service.generations) == 1)
    gate.open()
    found = history.check(slots=SLOTS, deaths=1, patience=PATIENCE)
    assert not found.failed
    assert len(found.died) + len(found.twice) == SLOTS
    assert found.ok >= set(range(4, 4 + len(waiting)))
    until(lambda: service.ready == 2)


def test_callback_of_a_call_that_died_may_call_the_service_again(deploy, history, until):
    """A done callback of a failed call may call the service; it waits for the replacement and does not block it."""
    service = deploy(Witness, history.file)
    answers = []

    call = service.handle.submit("exit", 0)
    call.add_done_callback(lambda _: answers.append(service.handle.call("run", 1)))

    until(lambda: answers)
    assert (answers, service.states) == ([1], {"svc#0.1": "ready"})


def test_call_that_had_run_before_its_replica_died_is_told_as_unknown(deploy, history, tmp_path, until):
    """
    A call whose replica died after running it has an unknown outcome. Only an idempotent one runs again elsewhere.
    """
    service = deploy(Witness, history.file, replicas=2, **BALANCED)

    history.call(service.handle, "run_and_die").exception(PATIENCE)
    until(lambda: service.ready == 2)
    history.call(service.handle, "run_and_die", str(tmp_path / "once"), idempotent=True)

    found = history.check(slots=SLOTS, deaths=2, patience=PATIENCE)
    assert (found.died, found.ok, found.twice) == ({0}, {1}, {1})


def test_calls_survive_the_death_of_all_replicas(deploy, history, board, until):
    """If all replicas die, waiting calls stay in this process until there is a replica again."""
    service = deploy(Witness, history.file, replicas=2, **BALANCED)
    gate = board.watch()
    for _ in range(2 * SLOTS):
        history.call(service.handle, "hold", gate.checkpoint)
    pids = set(gate.wait(2 * SLOTS))
    for _ in range(20):
        history.call(service.handle, "run")

    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    found = history.check(slots=SLOTS, deaths=2, patience=PATIENCE)
    assert (len(found.died), len(found.ok), found.failed) == (2 * SLOTS, 20, {})
    until(lambda: service.ready == 2)


@pytest.mark.slow
def test_poison_takes_no_more_replicas_than_it_may_start_on(deploy, history, until):
    """A call that kills its replica starts on one replica, or on two if it is idempotent. Other calls are answered."""
    service = deploy(Witness, history.file, replicas=3, **BALANCED)

    with Load(history, service.handle, threads=2, idempotent=True):
        for idempotent, deaths in ((False, 1), (True, 3)):
            poison = history.call(service.handle, "exit", idempotent=idempotent)
            assert isinstance(poison.exception(PATIENCE), errors.ReplicaDiedError)
            until(lambda: service.ready == 3 and sum(service.generations) >= deaths)  # noqa: B023 - used at once

            assert "exit code 1)" in str(poison.exception()) or "was killed or crashed" in str(poison.exception())

    assert sum(service.generations) == 3
    found = history.check(slots=SLOTS, deaths=3, patience=PATIENCE)
    assert not found.failed


@pytest.mark.slow  # half a minute, most of it Ray's own
def test_constructor_whose_process_the_system_kills_fails_its_start(register, tmp_path, until):
    """
    If the constructor's process is killed, a deployment fails at once; a replacement is retried until a crash loop.
    """
    deadly, clock = tmp_path / "deadly", VirtualClock()
    deadly.touch()
    service = register(Doomed, str(deadly), clock=clock, startup_timeout=100 * LONGEST_WAIT_S)
    with pytest.raises(
        errors.DeployError, match=r"replica 0.*svc#0 is gone: its process \d+ was killed or crashed"
    ) as failed:
        service.env.deploy()
    assert isinstance(failed.value.__cause__, errors.ReplicaDiedError)

    deadly.unlink()
    service.env.deploy()
    deadly.touch()
    service.kill("svc#0")

    def crash_loop():
        if "failed" in service.states.values() and clock.next_at() <= clock.monotonic() + LONGEST_WAIT_S:
            clock.run_until(clock.next_at())
        return service.status["state"] == "crash_loop"

    until(crash_loop)
    (error,) = (each["error"] for each in service.status["replicas"])
    assert "is gone" in error


# -- nodes -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_replicas_of_a_node_that_dies_are_placed_elsewhere_unless_they_belong_there(
    cluster, register, history, tmp_path, until
):
    """Replicas of a dead node are placed elsewhere. A service pinned to that node waits for its return and says so."""
    node = cluster.add("node-x1", cpus=64)  # it has the most CPUs, so that some replica is placed there
    anywhere = register(Witness, history.file, replicas=2, **BALANCED)
    there = History(tmp_path / "pinned")
    pinned = {"target": "remote_specific", "target_nodes": ["node-x1", "node-a1"]}
    named = register(Witness, there.file, name="named", replicas=2, **pinned, **BALANCED)
    anywhere.env.deploy()
    assert "node-x1" in {each["node"] for each in anywhere.status["replicas"]}

    with Load(history, anywhere.handle), Load(there, named.handle, idempotent=True):
        until(lambda: history.calls > 20 and there.calls > 20)
        node.kill()
        cluster.wait_until_dead(node)
        until(lambda: anywhere.ready == 2 and "node-x1" not in {each["node"] for each in anywhere.status["replicas"]})
        until(lambda: named.status["health"]["ready"] == 1 and named.replica(0)["error"])
        until(lambda: "no other replica can be placed" in named.replica(0)["error"])
        (said,) = named.status["health"]["missing"].values()
        calls = there.calls
        until(lambda: there.calls > calls + 20)

    assert sum(anywhere.generations) == 1, "it was tried on the dead node again"
    assert "node-x1" in said
    assert named.status["state"] == "ready"
    assert not history.check(slots=SLOTS, deaths=1, patience=PATIENCE).failed
    found = there.check(slots=SLOTS, deaths=1, patience=PATIENCE)
    assert (found.died, found.failed) == (set(), {})
    cluster.add("node-x1")
    until(lambda: named.ready == 2)
    assert named.replica(0)["node"] == "node-x1"


def test_nodes_on_which_a_replica_could_not_be_reached_are_the_last_choice(cluster, monkeypatch):
    """A node on which a replica was unreachable is chosen last: it may be dead before the cluster notices."""
    suspects = ray_target._Suspects()
    monkeypatch.setattr(ray_target, "_SUSPECTS", suspects)
    config = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1)
    task = ServiceTaskFactory(ServiceFactory("svc", Witness, ("unused",)), config).create_service_task()
    target, spec = task.composition.target.create(), task.composition.spec(0)
    for name in ("node-a1", "node-b1"):
        suspects.add(cluster.nodes[name].id)

    (found,) = target.place([spec])
    assert found.node == "node-a2"
    assert "could not be reached" in found.refused["node-a1"]
    suspects.add(cluster.nodes["node-a2"].id)
    (found,) = target.place([spec])
    assert found.node in {"node-a1", "node-a2", "node-b1"}  # better than no node
    target.close()


@pytest.mark.slow
def test_callers_of_a_frozen_node_are_released_at_their_deadlines(cluster, deploy, history, until, frozen):
    """Callers of a frozen node get timeouts at their deadlines, and its replica is replaced on another node."""
    node = cluster.add("node-x1", cpus=64)
    service = deploy(Witness, history.file, replicas=2, **BALANCED)
    (there,) = (each for each in service.status["replicas"] if each["node"] == "node-x1")
    quick = service.handle.with_options(timeout=0.5)

    with frozen(there["pid"], node.raylet):
        began = time.monotonic()
        calls = [history.call(quick, "run") for _ in range(2 * SLOTS)]
        for call in calls:
            call.exception(PATIENCE)
        assert time.monotonic() - began < 2
        cluster.wait_until_dead(node)
        until(lambda: service.ready == 2 and "node-x1" not in {each["node"] for each in service.status["replicas"]})
        last = history.call(service.handle, "run")

        found = history.check(slots=SLOTS, deaths=1, patience=PATIENCE)
    assert all(isinstance(error, errors.CallTimeoutError) for error in found.failed.values())
    assert last.exception() is None


def test_deployment_onto_a_node_that_dies_meanwhile_fails(cluster, register, board, until):
    """A deployment onto a node that dies meanwhile fails at once and leaves nothing."""
    node = cluster.add("node-x1")
    gate = board.watch()
    service = register(Slow, gate.checkpoint, target="remote_specific", target_nodes=["node-x1"])
    failed = []

    def deploy():
        try:
            service.env.deploy()
        except errors.DeployError as error:
            failed.append(error)

    deploying = threading.Thread(target=deploy)
    deploying.start()
    gate.wait()
    node.kill()
    deploying.join(PATIENCE)

    assert "svc#0 is gone: it" in str(failed[0])  # its node died, or it cannot be reached: whichever is noticed first


# -- processes that hang -----------------------------------------------------------------------------------------------

#: Settings for frequent health checks.
WATCHED = {"health_check_interval": 0.2, "health_check_timeout": 0.2, "failure_threshold": 2, "drain_timeout": 1}


def test_replica_whose_slots_are_all_abandoned_is_killed_and_replaced(deploy, history, board, until):
    """A replica whose slots all have abandoned calls is killed and replaced: its methods end only with its process."""
    service = deploy(Witness, history.file, **WATCHED)
    gate = board.watch()
    quick = service.handle.with_options(timeout=0.5)
    calls = [quick.submit("hold", number, gate.checkpoint) for number in range(SLOTS)]
    (pid, _) = gate.wait(SLOTS)
    for call in calls:
        with pytest.raises(errors.CallTimeoutError):
            call.result(PATIENCE)
    assert service.status["metrics"].abandoned_count == SLOTS

    assert service.handle.call("run", SLOTS) == SLOTS  # the replacement answers
    until(lambda: is_gone(pid))
    until(lambda: service.states == {"svc#0.1": "ready"})  # the dead one is listed until its target has stopped it
    assert service.status["metrics"].abandoned_count == 0


@pytest.mark.slow
def test_status_of_a_frozen_replica_is_what_it_said_last(deploy, history, until, frozen):
    """
    The status of a frozen replica shows its last values with their age, within a second. Health checks replace it.
    """
    service = deploy(Witness, history.file, replicas=2, **BALANCED, **WATCHED)
    for number in range(4):
        service.handle.call("run", number)
    before = service.status
    pids = [each["pid"] for each in before["replicas"]]
    assert [each["stats_age"] for each in before["replicas"]] == [0.0, 0.0]

    with frozen(*pids):
        began = time.monotonic()
        status = service.status
        assert time.monotonic() - began < 1.5
        assert all(each["stats_age"] > 0.9 for each in status["replicas"])
        assert [each["pid"] for each in status["replicas"]] == pids
        assert status["metrics"].request_count == 4
        calls = [service.handle.with_options(timeout=0.3).submit("run", 4 + number) for number in range(2 * SLOTS)]
        for call in calls:
            with pytest.raises(errors.CallTimeoutError):
                call.result(PATIENCE)
        until(lambda: service.states == {"svc#0.1": "ready", "svc#1.1": "ready"})
