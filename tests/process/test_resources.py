"""The CPU cores, GPUs, memory and variables of a replica on target `process`, and their limits."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from textwrap import dedent

import pytest

from killing import is_gone, kill_child, stop_child
from sage_deploy_process import checks, machine
from sage_plugins import Environment, ServiceDeploymentConfig, errors

CORES = len(os.sched_getaffinity(0))
MIB = 1 << 20


class Service:
    def settings(self, *names):
        return {name: os.environ.get(name) for name in names}, os.sched_getaffinity(0)

    def take(self, size):
        return len(bytearray(size))

    def hold(self):
        signal.pause()

    def say(self, text):
        print(text)  # noqa: T201 - the test captures this output
        self.ctx.logger.info("%s in the log", text)


class Large:
    def __init__(self):
        self.data = bytearray(500 * MIB)


@pytest.fixture
def env():
    with Environment("test") as env:
        yield env


def register(env, name="svc", cls=Service, **fields):
    config = ServiceDeploymentConfig(target="process", **fields)
    env.register_service_with_config(name, cls, deployment_config=config)
    return env.service(name)


def test_each_replica_has_its_share_of_the_machine(env, monkeypatch):
    """
    Each replica has its own cores and GPUs. Thread variables of numeric libraries are set unless the user set them.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,7")
    monkeypatch.setenv("MKL_NUM_THREADS", "9")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    options = {"process": {"affinity": True, "env": {"COLOUR": "red"}}}
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "COLOUR")
    for name in ("a", "b"):
        register(env, name, cpu_cores=0.5, gpu_count=1, options=options)
    env.deploy()
    found = [env.service(name).settings(*names) for name in ("a", "b")]
    rest = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "9", "COLOUR": "red"}
    assert [variables for variables, _ in found] == [
        {"CUDA_VISIBLE_DEVICES": "3", **rest},
        {"CUDA_VISIBLE_DEVICES": "5", **rest},
    ]
    assert [len(cores) for _, cores in found] == [1, 1]
    assert CORES == 1 or found[0][1] != found[1][1]
    env.drain("a")
    register(env, "c", gpu_count=2)
    assert env.service("c").settings("CUDA_VISIBLE_DEVICES")[0] == {"CUDA_VISIBLE_DEVICES": "3,7"}


def test_service_that_takes_too_much_memory_gets_an_error(env):
    """
    A call that takes too much memory gets MemoryError, and its replica goes on; a constructor fails its deployment.
    """
    svc = register(env, memory_mb=64, cpu_cores=0)
    assert svc.take(MIB) == MIB
    with pytest.raises(MemoryError):
        svc.take(200 * MIB)
    assert svc.take(MIB) == MIB
    register(env, "large", Large, memory_mb=100)
    with pytest.raises(errors.DeployError) as caught:
        env.deploy()
    assert isinstance(caught.value.__cause__, MemoryError)


def test_what_the_machine_does_not_have_is_refused(env, monkeypatch):
    """Replicas that need more than the machine has are refused in the plan. Without `cpu_cores` any number fits."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    register(env, "many", replicas=100)
    assert all(replica.where for replica in env.plan().services[0].replicas)
    total = machine.node().total
    for name, rule, fields in (
        ("cores", "E802", {"cpu_cores": total.cpu + 1}),
        ("memory", "E802", {"memory_mb": total.memory // MIB + 1}),
        ("gpus", "E803", {"gpu_count": 1}),
        ("both", "E806", {"cpu_cores": total.cpu, "replicas": 2}),
        ("most", "E806", {"max_replicas_per_node": 1, "replicas": 2}),
    ):
        register(env, name, **fields)
        replicas = {service.name: service.replicas for service in env.plan().services}[name]
        assert [replica.rule for replica in replicas if replica.where is None] == [rule]


def test_cores_of_a_replica_are_free_again_when_it_has_ended(env):
    """The cores of a replica are free again when it ends, stopped or killed, so its successor has room."""
    svc = register(env, cpu_cores=machine.node().total.cpu, retry={"max_attempts": 3})
    env.deploy()
    (replica,) = env.get_service_status("svc")["replicas"]
    (node,) = env.nodes()
    assert (node["name"], node["cpu"][0]) == (machine.NAME, 0)
    kill_child(replica["pid"])
    assert svc.take(1) == 1
    env.drain("svc")
    register(env, "next", cpu_cores=machine.node().total.cpu)
    assert env.service("next").take(1) == 1


def test_replica_that_stands_still_is_killed_at_a_deadline(env):
    """At a deadline with `timeout_strength: kill`, even a replica that SIGSTOP has stopped is killed."""
    svc = register(env, timeout_strength="kill", timeout=60.0)
    svc.take(1)
    pid = env.get_service_status("svc")["replicas"][0]["pid"]
    stop_child(pid)
    with pytest.raises(errors.CallTimeoutError):
        svc.with_options(timeout=0.2).take(1)
    assert svc.take(2) == 2
    assert is_gone(pid)


def test_replica_that_stands_still_does_not_keep_its_environment(env):
    """Closing an environment kills a replica that SIGSTOP has stopped."""
    svc = register(env, drain_timeout=0)
    svc.take(1)
    pid = env.get_service_status("svc")["replicas"][0]["pid"]
    stop_child(pid)
    env.close()
    assert is_gone(pid)


def test_what_a_replica_prints_and_logs_is_seen(env, capfd, caplog):
    """Output of a replica appears on stdout, and its log records are in `env.logs()` with the replica's id."""
    caplog.set_level(logging.INFO, "sage.service")
    assert env.logs() == []  # the first read starts the recording
    svc = register(env)
    svc.say("here")
    assert capfd.readouterr().out == "here\n"
    assert [(each.message, each.replica) for each in env.logs()] == [("here in the log", "svc#0")]


def test_call_for_which_the_stack_has_no_room_loses_nothing(env):
    """A call near the recursion limit ends with RecursionError before it begins, so the service answers as before."""
    svc = register(env, timeout=5.0, drain_timeout=0)

    def descend(frames):
        return descend(frames - 1) if frames else svc.take(1)

    failed = 0
    for frames in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):  # the stack ends at each of its steps
        try:
            assert descend(frames) == 1
        except RecursionError:
            failed += 1
    assert failed
    assert svc.take(1) == 1


LIMITED = """
    import resource
    from sage_plugins import Environment, errors

    class Service:
        pass

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    with Environment("limited") as env:
        env.register_service_with_config("svc", Service, deployment_config={"target": "process", "memory_mb": 8000})
        try:
            env.deploy()
        except errors.DeployError as error:
            print(error)
"""


def test_memory_that_the_program_may_not_take_is_said():
    """If a replica's process cannot be set up, the error says why: here, `ulimit -v` is below `memory_mb`."""
    done = subprocess.run(
        [sys.executable, "-c", dedent(LIMITED)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "memory_mb is 8000, but this machine lets the program's processes take 4096 MiB in all" in done.stdout


def test_entries_of_the_path_that_imports_ignore_are_ignored(env, monkeypatch, tmp_path):
    """A `Path` object in `sys.path`, which has no effect on imports, has none on replicas either."""
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    assert register(env).take(1) == 1


@pytest.mark.parametrize(
    ("rule", "key", "fields"),
    [
        ("E210", "options.process.affinity", {"options": {"process": {"affinity": True}}}),
        ("E201", "target_nodes", {"target_nodes": ["a"]}),
        ("E208", "gpu_count", {"gpu_count": 1.5}),
        ("E307", "timeout_strength", {"target": "local", "timeout_strength": "kill"}),
        ("E103", "options.process.env", {"options": {"process": {"env": {"a=b": "c"}}}}),
    ],
)
def test_configuration_that_cannot_work_is_refused(env, rule, key, fields):
    """Configuration that cannot work on target `process` is refused in the plan."""
    config = ServiceDeploymentConfig(**{"target": "process"} | fields)
    env.register_service_with_config("svc", Service, deployment_config=config)
    with pytest.raises(errors.PlanError) as caught:
        env.plan()
    assert [(each.id, each.key) for each in caught.value.problems] == [(rule, key)]


#: A simulated Windows, as far as target `process` sees it: these modules and this constant are missing.
ON_WINDOWS = """
    import socket, sys
    from types import SimpleNamespace

    from sage_deploy_process import checks
    from sage_plugins import Environment, errors

    class Service:
        pass

    checks.sys = SimpleNamespace(platform="win32")
    assert not {"fcntl", "resource"} & set(sys.modules)
    sys.modules["fcntl"] = sys.modules["resource"] = None
    del socket.AF_UNIX
    env = Environment("windows")
    env.register_service_with_config("svc", Service, deployment_config={"target": "process"})
    for attempt in (env.plan, env.deploy):
        try:
            attempt()
        except errors.PlanError as error:
            print(error)
"""


def test_windows_is_refused_with_what_to_do():
    """`plan` and `deploy` refuse Windows with what to do, before they import a module that Windows lacks."""
    command = [sys.executable, "-c", dedent(ON_WINDOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    refused = "target 'process' needs a Unix system, and this is Windows (use target 'local', or run on Linux"
    assert done.stdout.count(refused) == 2


def test_what_only_linux_enforces_is_said_elsewhere(env, monkeypatch):
    """
    On other systems than Linux, an option without effect is an error, and a limit that nothing enforces is a warning.
    """
    monkeypatch.setattr(checks, "_LINUX", False)
    config = {"target": "process", "memory_mb": 100, "cpu_cores": 1, "options": {"process": {"affinity": True}}}
    env.register_service_with_config("svc", Service, deployment_config=config)
    with pytest.raises(errors.PlanError, match=r"E210.*affinity: works on Linux only"):
        env.plan()
    del config["options"]
    env.register_service_with_config("svc", Service, deployment_config=config)
    assert "warning W05: memory_mb: 100 is advisory: only Linux limits a process's memory" in str(env.plan())
