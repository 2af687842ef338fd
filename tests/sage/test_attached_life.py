"""A SAGE environment with `attach`: when its services are deployed, and when they end."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sage.foundation import MapFunction

from attached_services import POOL, strategy_of
from sage_plugins.errors import DeployError, ServiceStoppedError
from sage_steps import LIFE, PATIENCE, Collect, Doubler, Recorder, call, run_batch, start_stream

ROOT = Path(__file__).parent.parent.parent


class Broken:
    def __init__(self) -> None:
        msg = "no disk"
        raise OSError(msg)

    def process(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize("autostop", [True, False])
def test_failing_deployment_starts_nothing_of_the_pipeline(autostop, sage_env):
    """
    If a service fails to deploy, `submit` raises and no part of the pipeline starts.

    SAGE logs the error, skips the service, and lets its callers wait for their timeouts.
    """
    said: list[str] = []
    made: list[int] = []
    sage_env.register_service("good", Recorder, said)
    sage_env.register_service("svc", Broken)
    sage_env.from_batch([1]).map(Making, made).sink(Collect, [])

    with pytest.raises(DeployError, match="no disk"):
        sage_env.submit(autostop=autostop)

    assert made == []
    assert sage_env.env_uuid is None
    assert said in ([], LIFE)


class Making(MapFunction):
    def __init__(self, made: list[int]) -> None:
        super().__init__()
        made.append(1)

    def execute(self, data: Any) -> Any:
        return data


def test_failing_deployment_can_be_mended(sage_env):
    """After a failed deployment, the service can be registered again and the submit repeated."""
    sage_env.register_service("svc", Broken)
    with pytest.raises(DeployError):
        run_batch(sage_env, [1], call)
    sage_env.register_service("svc", Doubler)
    assert run_batch(sage_env, [1], call) == [2]


def test_each_batch_has_services_of_its_own(sage_env):
    """Each batch gets new services, as in SAGE: the state of a service ends with its batch."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    assert [run_batch(sage_env, [item], call) for item in "ab"] == [[("a", 1)], [("b", 1)]]
    assert said == [*LIFE, *LIFE]


def test_services_that_were_deployed_outlive_batches(sage_env):
    """Services deployed with `deploy` outlive batches and stop when the environment closes."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    sage_env.deploy()
    assert [run_batch(sage_env, [item], call) for item in "ab"] == [[("a", 1)], [("b", 2)]]
    assert said == LIFE[:3]

    sage_env.close()

    assert said == LIFE


def test_services_that_a_call_has_deployed_outlive_batches(sage_env):
    """Services that a call deployed outlive batches."""
    sage_env.register_service("svc", Recorder, [])
    assert sage_env.service("svc").process("first") == ("first", 1)
    assert run_batch(sage_env, ["a"], call) == [("a", 2)]
    assert sage_env.service("svc").process("last") == ("last", 3)


def test_second_submit_uses_the_services_of_the_first(sage_env):
    """A submit while a stream runs uses the stream's services and leaves them running."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    _, full = start_stream(sage_env, 2, call)
    assert full.wait(PATIENCE)
    assert run_batch(sage_env, ["a"], call) == [("a", 3)]
    assert said == LIFE[:3]


def test_batch_beside_a_batch_keeps_the_services(sage_env, in_thread, gates):
    """The services end with the last of the batches that run at the same time."""
    said: list[str] = []
    first, second = gates(), gates()
    sage_env.register_service("svc", Recorder, said)

    def hold(gate: Any) -> Any:
        into: list[Any] = []
        sage_env.from_batch([0]).keyby(lambda _: 0).map(Holding, gate).sink(Collect, into)
        return sage_env.submit(autostop=True)

    one = in_thread(hold, first)
    first.wait_entered()
    sage_env.pipeline.clear()
    two = in_thread(hold, second)
    second.wait_entered()
    first.open()
    one.result(PATIENCE)
    assert said == LIFE[:3]

    second.open()
    two.result(PATIENCE)

    assert said == LIFE


class Holding(MapFunction):
    def __init__(self, gate: Any) -> None:
        super().__init__()
        self._gate = gate

    def execute(self, data: Any) -> Any:
        self._gate()
        return self.call_service("svc", data)


@pytest.mark.parametrize("end", ["stop", "close"])
def test_end_before_any_submit_stops_services(end, sage_env):
    """`stop` and `close` before any submit stop deployed services. SAGE itself does nothing then."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    sage_env.deploy()
    getattr(sage_env, end)()
    assert said == LIFE


@pytest.mark.parametrize("end", ["stop", "close"])
def test_environment_can_be_used_again(end, sage_env):
    """After `stop` or `close`, the environment can be used again, with new services. Old handles raise."""
    said: list[str] = []
    sage_env.register_service_with_config("svc", Recorder, said, deployment_config=POOL)
    _, full = start_stream(sage_env, 2, call)
    assert full.wait(PATIENCE)
    handle = sage_env.service("svc")
    getattr(sage_env, end)()
    with pytest.raises(ServiceStoppedError):
        handle.process("late")

    assert run_batch(sage_env, ["a"], call) == [("a", 1)]

    assert said == [*LIFE, *LIFE]
    assert strategy_of(sage_env) == "pool"


def test_status_of_a_batch_can_be_read_after_it(sage_env):
    sage_env.register_service("svc", Doubler)
    run_batch(sage_env, [1, 2, 3], call)
    status = sage_env.get_service_status("svc")
    assert (status["state"], status["metrics"].request_count) == ("stopped", 3)


def test_failing_submit_leaves_no_service(sage_env):
    """If SAGE refuses the pipeline after the services were deployed, they are stopped again."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    with pytest.raises(ValueError, match="empty pipeline"):
        sage_env.submit()
    assert said == LIFE


def test_services_are_called_from_outside(sage_env):
    """Services can be called from outside a pipeline, in all ways, and scaled."""
    sage_env.register_service("svc", Doubler)
    assert sage_env.call_service("svc", 1) == 2
    assert sage_env.call_service["svc"].process(2) == 4
    assert sage_env.call_service_async("svc", 3).result(PATIENCE) == 6
    assert sage_env.service("svc", Doubler).process(4) == 8
    sage_env.deployment.scale("svc", 2)
    assert len(sage_env.get_service_status("svc")["replicas"]) == 2


def interrupt(process: subprocess.Popen[str]) -> str:
    """
    Press Ctrl-C until the process ends, as a person would. Return its stderr.

    Python misses a signal that comes between a thread's decision to wait and its wait.
    """
    for _ in range(8):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=4)[1]
    pytest.fail("does not end")


RUNS = {
    "linear": "env.from_batch([1]).map(Call)\nenv.submit(autostop=True)",
    "keyed": "env.from_batch([1]).keyby(lambda item: item).map(Call)\nenv.submit(autostop=True)",
    "stream": "env.from_source(Count, 1).map(Call)\nenv.submit()\nthreading.Event().wait()",
}


@pytest.mark.parametrize("run", RUNS)
def test_interrupted_program_leaves_nothing(run, program, tmp_path, monkeypatch):
    """Ctrl-C in the middle of a call stops the service and ends the process, although nobody calls `close`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    said = tmp_path / "said"
    source = f"""
import threading
from pathlib import Path
from sage.foundation import MapFunction
from sage.runtime import LocalEnvironment
from sage_deploy_sage import attach
from sage_steps import Count

class Forever:
    def process(self, value):
        print("in", flush=True)
        threading.Event().wait(60)

    def stop(self):
        Path({str(said)!r}).write_text("stopped")

class Call(MapFunction):
    def execute(self, data):
        return self.call_service("svc", data)

env = attach(LocalEnvironment("test"))
env.register_local_service_pool("svc", Forever, pool_size=1, max_threads=2)
{RUNS[run]}
"""
    process = subprocess.Popen(program(source), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        errors = interrupt(process)
    finally:
        process.kill()
        process.communicate()
    assert "KeyboardInterrupt" in errors
    assert said.read_text(encoding="utf-8") == "stopped"
