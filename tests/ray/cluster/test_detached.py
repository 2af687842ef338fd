"""Detached services outlive the process that deployed them. Any process can call them; one at a time controls them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from uuid import uuid4

import pytest
import ray

import sage_deploy_ray.cluster.connection
from command_line import sage_deploy
from driver import OPTIONS, Driver
from killing import is_gone
from sage_deploy_ray.detached.services import DetachedServices, environment_id
from sage_deploy_ray.directory.registry_actor import REGISTRY
from sage_deploy_remote.shipping import versions
from sage_deploy_server import serve
from sage_deploy_testing.suites.probes import Calling
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.errors import ClusterUnavailableError, ConfigError, DeployError, NoReplicaError, ServiceNotFoundError
from witness import Witness, calls_in

pytestmark = pytest.mark.ray

NAMESPACE = "sage-deploy"


@pytest.fixture(autouse=True)
def _nothing_is_left(cluster):
    """End the replicas that a failed test has left. The registry stays: each test has an environment of its own."""
    yield
    for each in ray.util.list_named_actors(all_namespaces=True):
        if each["namespace"] == NAMESPACE and each["name"] != REGISTRY:
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(each["name"], NAMESPACE), no_restart=True)


@pytest.fixture
def witness(tmp_path):
    path = tmp_path / "witness"
    path.touch()
    return path


@pytest.fixture
def name():
    """The name of the test's environments. No other test uses it, because this process may still know others."""
    return f"shop/{uuid4().hex}"


@pytest.fixture
def driver(cluster, witness, name):
    """Let another process deploy `svc`, detached."""
    process = Driver(cluster.address, witness, lifetime="detached", name=name)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def environment(cluster, witness, name):
    """Make environments with the same name as the driver's; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(*, registered=False, lifetime="detached", **changes):
            options = {"ray": {"address": cluster.address, "lifetime": lifetime, "namespace": NAMESPACE}}
            env = stack.enter_context(Environment(name, options=options))
            if registered:
                config = ServiceDeploymentConfig(**(OPTIONS | changes))
                env.register_service_with_config("svc", Witness, str(witness), deployment_config=config)
            return env

        yield make


def pids(env):
    return [each["pid"] for each in env.get_service_status("svc")["replicas"]]


def kill(pid, until):
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid))


def test_service_is_found_called_taken_over_scaled_and_stopped_by_other_processes(driver, environment, until):
    """
    Any process can find and call the service. Another one can adopt, scale and stop it once its holder has closed.

    A service that no process has deployed is reported with the nearest name.
    """
    env = environment()
    assert env.service("svc").run(1) == 1
    with pytest.raises(ServiceNotFoundError, match="did you mean 'svc'"):
        env.service("svx").run(1)
    with pytest.raises(DeployError, match=f"are held by process {driver.pid} on "):
        env.adopt()

    assert "error" not in driver.do("close")
    assert env.adopt() == ["svc"]

    assert pids(env) == driver.pids
    env.scale("svc", 3)
    assert env.service("svc").run(2) == 2
    (third,) = set(pids(env)) - set(driver.pids)
    env.drain("svc")
    until(lambda: all(map(is_gone, [*driver.pids, third])))
    assert environment().adopt() == []


def test_after_its_process_was_killed_a_service_goes_on_and_is_taken_over(driver, environment, until):
    """
    If the holder is killed, the replicas go on answering. A dead one is replaced after another process adopts them.
    """
    guest = environment().service("svc")
    assert guest.run(1) == 1
    driver.kill()
    driver.communicate()

    assert [guest.run(number) for number in range(2, 6)] == [2, 3, 4, 5]
    kill(driver.pids[0], until)
    began = time.monotonic()
    env = environment()
    env.adopt()
    assert time.monotonic() - began < 30  # the registry gives the killed process 10 s to show that it is alive

    assert len(pids(env)) == 2
    assert driver.pids[1] in pids(env)
    assert driver.pids[0] not in pids(env)
    assert [guest.run(number) for number in range(6, 10)] == [6, 7, 8, 9]
    env.drain("svc")


def test_service_that_another_process_holds_is_shown_and_called_and_changed_by_that_alone(driver, environment, until):
    """
    Other processes can see and call a held service, over HTTP too, but only its holder can change it.

    Once nobody holds it, the message says how to take it over.
    """
    env = environment()

    def ask(method, path, body=None):
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Authorization": "Bearer secret"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    with serve(env, "127.0.0.1:0", token="secret") as server:  # noqa: S106 - for this test only
        until(lambda: ask("GET", "/readyz") == (200, {"ready": True, "not_ready": {}}))
        (row,) = ask("GET", "/api/v1/services")[1]
        assert (row["name"], row["state"], row["ready"], row["replicas"]) == ("svc", "ready", 2, 2)
        assert row["held_by"].startswith(f"process {driver.pid} on ")
        assert [each["id"] for each in ask("GET", "/api/v1/services/svc/replicas")[1]] == ["svc#0", "svc#1"]
        assert ask("POST", "/services/svc/run", [7]) == (200, 7)
        assert "run" in [each["name"] for each in ask("GET", "/services/svc")[1]["methods"]]
        for what, body in {"scale": {"replicas": 3}, "restart": {}, "drain": {}, "balancer": {"id": "random"}}.items():
            status, problem = ask("POST", f"/api/v1/services/svc/{what}", body)
            assert (status, problem["detail"]) == (
                409,
                f"svc is held by {row['held_by']}, and only that process changes it",
            )

        driver.do("close")
        assert env.status()["services"]["svc"]["held_by"] == ""
        assert "take it over with `adopt()`" in ask("POST", "/api/v1/services/svc/drain")[1]["detail"]
        env.adopt()
        assert ask("POST", "/api/v1/services/svc/scale?dry_run=1", {"replicas": 3})[0] == 200
        assert len(env.status()["services"]["svc"]["replicas"]) == 2
        env.drain("svc")


def test_services_of_others_that_cannot_be_looked_at_are_no_end_of_a_status(environment, monkeypatch):
    """
    If the registry does not answer, the status says why other services are unknown, and does not ask again at once.
    """
    env = environment()
    looked = []

    def look(_self):
        looked.append(1)
        raise ClusterUnavailableError("the cluster does not answer")

    monkeypatch.setattr(DetachedServices, "look", look)
    for _ in range(3):
        assert env.status()["problem"] == "the cluster does not answer"
    assert len(looked) == 1


@pytest.mark.slow
def test_replicas_are_taken_over_after_the_registry_died_with_their_process(driver, environment, until):
    """After the registry died with the holder, replicas can still be adopted, because they know what they are."""
    driver.do("scale", 3)
    before = [each["pid"] for each in driver.do("status")["answer"]]
    driver.kill()
    driver.communicate()
    ray.kill(ray.get_actor(REGISTRY, NAMESPACE), no_restart=True)

    env = environment()
    assert env.adopt() == ["svc"]

    assert pids(env) == before
    assert env.service("svc").run(1) == 1
    env.drain("svc")
    until(lambda: all(map(is_gone, before)))


@pytest.mark.slow
def test_replicas_of_another_protocol_are_not_taken_over_and_that_is_said(driver, environment, until):
    """Replicas of another protocol version are not adopted and go on; a process of their version can adopt them."""
    driver.kill()
    driver.communicate()
    ray.kill(ray.get_actor(REGISTRY, NAMESPACE), no_restart=True)  # the registry of another protocol has another name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "NUMBER", versions.NUMBER + 1)
        theirs = versions.NUMBER - 1
        said = rf"taken over: a replica on node-\w+ has sage-deploy-remote \S+, which speaks protocol {theirs}"
        with pytest.raises(DeployError, match=said):
            environment().adopt()

    env = environment()
    assert env.adopt() == ["svc"]
    assert pids(env) == driver.pids
    env.drain("svc")
    until(lambda: all(map(is_gone, driver.pids)))


def test_registry_that_dies_is_told_everything_again(environment, until):
    """The holder tells a restarted registry everything again, and stays the holder."""
    env = environment(registered=True)
    env.deploy()
    registry = ray.get_actor(REGISTRY, NAMESPACE)
    known = ray.get(registry.deployments.remote(environment_id(env.name)))
    assert list(known) == ["svc"]
    ray.kill(registry, no_restart=False)
    other = environment()
    with pytest.raises(DeployError, match="are held by process"):  # at once: it knows who held them
        other.adopt()

    def answer():
        with contextlib.suppress(NoReplicaError):
            return other.service("svc").run(1)

    until(lambda: answer() == 1)  # it knows no service until the holder has noticed
    with pytest.raises(DeployError, match="are held by process"):
        other.adopt()
    env.drain("svc")


@pytest.mark.slow
def test_service_without_replicas_is_started_again_from_what_the_registry_remembers(environment, until):
    """A service whose replicas have all died is started again from what the registry remembers."""
    env = environment(registered=True, replicas=1, load_balancing=False)
    env.deploy()
    (pid,) = pids(env)
    env.close()
    kill(pid, until)

    env = environment()
    env.adopt()

    assert env.service("svc").run(1) == 1
    env.drain("svc")


def test_what_was_changed_while_it_ran_holds_for_the_next_process(environment):
    """The number of replicas and the balancer that were changed at run time also apply in the next process."""
    env = environment(registered=True)
    env.deploy()
    env.scale("svc", 1)
    env.set_load_balancer("svc", "random")
    env.close()

    env = environment(registered=True)
    env.deploy()

    assert len(pids(env)) == 1
    assert env.running()["svc"]["load_balancer"] == "random"
    env.drain("svc")


def test_service_that_runs_otherwise_is_changed_only_by_who_says_so(environment, until):
    """
    If a detached service runs with other settings, `deploy` is refused without effect; `adopt` and `apply` replace it.
    """
    env = environment(registered=True)
    env.deploy()
    before = pids(env)
    env.close()

    env = environment(registered=True, timeout=7.0)
    with pytest.raises(DeployError, match=r"timeout is 5\.0 there and 7\.0 here"):
        env.deploy()
    assert not any(map(is_gone, before))
    env.adopt()
    assert pids(env) == before
    env.apply()

    assert env.get_service_status("svc")["deployment_config"].timeout == 7.0
    until(lambda: all(map(is_gone, before)))
    after = pids(env)
    env.close()
    env = environment()
    env.adopt()
    assert pids(env) == after
    env.drain("svc")


@pytest.mark.slow
def test_up_takes_over_replicas_that_fill_their_node(cluster, tmp_path):
    """`sage-deploy up` takes over detached replicas of an earlier `up`, even if their node has no room for new ones."""
    (tmp_path / "things.py").write_text("class Thing:\n    def process(self):\n        return 'answered'\n")
    file = tmp_path / f"up-{uuid4().hex}.yaml"
    file.write_text(
        f"options: {{ray: {{address: '{cluster.address}', lifetime: detached, control_timeout: 60}}}}\n"
        "services:\n"
        "  thing:\n"
        "    class: things:Thing\n"
        "    deployment: {target: remote_specific, target_nodes: [node-b1]}\n"
        "    resources: {cpu_cores: 20}\n"  # of 32
    )
    for _ in range(2):
        done = sage_deploy("up", file, "--once", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "answered" in done.stdout
    assert "no place for new replicas of thing; those that run already are taken over" in done.stderr


def test_process_that_stood_still_while_another_took_over_stops_nothing(driver, environment, until):
    """A process that stood still while another took over cannot change or stop the services afterwards."""
    env = environment()
    os.kill(driver.pid, signal.SIGSTOP)
    try:
        env.adopt()
    finally:
        os.kill(driver.pid, signal.SIGCONT)

    until(lambda: "are held by process" in driver.do("scale", 3).get("text", ""))
    driver.do("drain")
    driver.do("close")

    assert env.service("svc").run(1) == 1
    assert pids(env) == driver.pids
    env.drain("svc")


def test_calls_of_others_are_not_disturbed_when_a_service_changes_hands(environment, witness):
    """While a service changes hands, every call of other processes is answered and runs once."""
    env = environment(registered=True)
    env.deploy()
    guest = environment().service("svc").with_options(timeout=60)  # a takeover may take long on a busy machine
    calls = [guest.submit("run", number, 0.002) for number in range(200)]
    env.close()
    calls += [guest.submit("run", number, 0.002) for number in range(200, 300)]
    env = environment()
    env.adopt()
    calls += [guest.submit("run", number, 0.002) for number in range(300, 400)]

    assert [call.result() for call in calls] == list(range(400))
    assert sorted(calls_in(witness)) == list(range(400))
    env.drain("svc")


@pytest.mark.slow
def test_services_that_outlive_the_program_call_each_other(environment):
    """Detached services call each other, also after another process has adopted them."""
    env = environment(registered=True)
    config = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1)
    env.register_service_with_config("caller", Calling, deployment_config=config)
    env.deploy()
    caller = environment().service("caller")
    assert caller.ask("svc", "run", 1) == 1
    env.close()

    assert caller.ask("svc", "run", 2) == 2
    env = environment()
    assert sorted(env.adopt()) == ["caller", "svc"]
    assert env.service("caller").ask("svc", "run", 3) == 3
    env.restart("svc")
    assert caller.ask("svc", "run", 4) == 4
    env.drain("caller")
    env.drain("svc")


def test_cluster_that_ends_with_the_program_keeps_nothing(environment, monkeypatch):
    """Detached services are refused on a private cluster, which ends with the program."""
    monkeypatch.setattr(sage_deploy_ray.cluster.connection, "would_start_private_runtime", lambda _: True)
    with pytest.raises(DeployError, match=r"set options\.ray\.address"):
        environment(registered=True).deploy()


def test_environment_whose_services_end_with_it_takes_over_nothing(environment):
    """An environment with `lifetime: driver` cannot adopt services."""
    with pytest.raises(ConfigError, match="'lifetime': 'detached'"):
        environment(lifetime="driver").adopt()
