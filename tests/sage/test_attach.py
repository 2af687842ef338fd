"""A SAGE environment with `attach`: what is deployed, when, and what stays unchanged."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from sage.foundation import MapFunction, SinkFunction, SourceFunction
from sage.runtime import BaseService, FlowNetEnvironment, LocalEnvironment
from sage.runtime.service_factory import ServiceFactory as SageFactory
from sage.stream._runtime_kernel_types import StopSignal

from sage_deploy_sage import DeployEnvironment, attach
from sage_deploy_sage.installation import KNOWN, check_installation, check_version
from sage_plugins import ServiceDeploymentConfig
from sage_plugins.errors import ConfigError, DeployError, ServiceNotFoundError, ServiceStoppedError
from sage_steps import LIFE, PATIENCE, Collect, Doubler, Recorder, call, run_batch, start_stream

ROOT = Path(__file__).parent.parent.parent
POOL = ServiceDeploymentConfig(threading_strategy="pool", thread_count=2, thread_pool_size=2)


def strategy_of(env: Any, name: str = "svc") -> str:
    return str(env.get_service_status(name)["deployment_config"].threading_strategy)


# -- attaching --------------------------------------------------------------------------------------------------------


class Own(LocalEnvironment):
    """A user's environment class."""

    __slots__ = ()

    def submit(self, autostop: bool = False) -> Any:  # noqa: FBT001, FBT002 - as in SAGE
        self.submitted = True
        return super().submit(autostop=autostop)


@pytest.mark.parametrize("cls", [LocalEnvironment, Own])
def test_attach_gives_the_same_environment(cls):
    """`attach` returns the same object, still of the user's class. A second `attach` changes nothing."""
    env = cls("test")
    attached = attach(env)

    assert attached is env
    assert isinstance(env, DeployEnvironment)
    assert isinstance(env, cls)
    assert attach(env) is env
    assert type(cls("another")) is cls


def test_users_own_submit_runs(sage_environments):
    """The `submit` of a user's class still runs."""
    env = attach(Own("test"))
    env.register_service("svc", Doubler)
    assert run_batch(env, [1], call) == [2]
    assert env.submitted


def test_deploying_environment_needs_no_attach():
    """`DeployEnvironment` can be used directly, with the arguments of SAGE's environment and of `attach`."""
    with DeployEnvironment("test", {"key": 1}, "fifo", leave=["own"]) as env:
        env.register_service("own", Doubler)
        env.register_service("svc", Doubler)
        assert run_batch(env, [1], call) == [2]
        assert env.config == {"key": 1}


@pytest.mark.parametrize("other", [FlowNetEnvironment, object])
def test_other_environments_are_refused(other):
    """`attach` refuses everything except a `LocalEnvironment`."""
    with pytest.raises(TypeError, match="attach takes a LocalEnvironment"):
        attach(other())


def test_options_are_for_the_first_time(sage_env):
    """A second `attach` with options raises."""
    with pytest.raises(ValueError, match="attached already"):
        attach(sage_env, leave=["svc"])


def test_names_to_leave_are_checked(sage_environments):
    """
    `leave` is checked: a wrong type raises at once, an unknown name at the submit.

    Otherwise a misspelled name would deploy the service, and it would wait forever.
    """
    with pytest.raises(TypeError, match=r"give \['svc'\]"):
        attach(LocalEnvironment("test"), leave="svc")
    env = sage_environments(leave=["scv"])
    env.register_service("svc", Doubler)
    with pytest.raises(ConfigError, match="leave: no service 'scv' is registered: did you mean 'svc'"):
        run_batch(env, [1], call)


def test_environment_is_as_its_user_made_it(sage_env):
    """After a submit, the environment is unchanged: what SAGE reads is replaced only during the submit."""
    factory = sage_env.register_service("svc", Doubler)
    _, full = start_stream(sage_env, 1, call)
    classes = [step.function_class for step in sage_env.pipeline]
    assert full.wait(PATIENCE)

    assert all(isinstance(cls, type) for cls in classes)
    assert sage_env.service_factories == {"svc": factory}


# -- registering ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("register", "settings", "expected"),
    [
        ("register_service_with_config", {"deployment_config": POOL}, {"threading_strategy": "pool", "replicas": 1}),
        ("register_local_service_pool", {"pool_size": 3, "timeout": 7}, {"replicas": 3, "timeout": 7}),
    ],
)
def test_requests_methods_register(register, settings, expected, sage_env):
    """Both methods return the factory that SAGE's environment holds, and deploy the service with the given settings."""
    said: list[str] = []
    factory = getattr(sage_env, register)("svc", Recorder, said, **settings)
    start_stream(sage_env, 1, lambda _, item: item)

    assert sage_env.service_factories["svc"] is factory
    status = sage_env.get_service_status("svc")
    assert status["state"] == "ready"
    assert {name: getattr(status["deployment_config"], name) for name in expected} == expected
    assert said.count("init") == expected["replicas"]


def test_services_on_nodes_are_planned(sage_env):
    """`register_service_on_nodes` sets target, replicas and threads. Nothing is started."""
    sage_env.register_service_on_nodes("svc", Doubler, nodes=["n1", "n2"], threads=4)
    config = sage_env.deployment.task("svc").composition.config
    assert (config.target, config.replicas, config.thread_count) == ("remote_specific", 2, 4)


def test_plan_has_what_is_registered_either_way(sage_env):
    """The plan contains the services of both ways to register, and starts nothing."""
    said: list[str] = []
    sage_env.register_service("plain", Recorder, said)
    sage_env.register_service_with_config("svc", Recorder, said, deployment_config=POOL)

    assert {service.name for service in sage_env.plan().services} == {"plain", "svc"}
    assert said == []


def test_registering_again_without_a_configuration_replaces_it(sage_env):
    sage_env.register_service_with_config("svc", Recorder, [], deployment_config=POOL)
    sage_env.register_service("svc", Doubler)
    assert run_batch(sage_env, [1], call) == [2]
    assert strategy_of(sage_env) == "single"


def test_factory_goes_by_the_name_it_was_registered_under(sage_env):
    """A factory's service has the name of its registration, not the factory's own name."""
    sage_env.register_service_factory("svc", SageFactory("another", Doubler))
    assert run_batch(sage_env, [1], call) == [2]
    assert sage_env.get_service_status("svc")["service_name"] == "svc"


# -- files ------------------------------------------------------------------------------------------------------------

FILE = """
services:
  svc:
    deployment: {threading_strategy: pool, thread_count: 2}
    performance: {timeout: 7}
  another:
    class: sage_steps:Doubler
profiles:
  calm:
    services:
      svc:
        performance: {queue_size: 5}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "service_deployment.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.mark.parametrize("before", [True, False])
def test_file_deploys_what_is_registered(before, file, sage_env):
    """A file applies to services registered before or after it. A service with a class needs no registration."""
    if before:
        sage_env.load_service_deployment_config(file)
    sage_env.register_service("svc", Doubler)
    if not before:
        sage_env.load_service_deployment_config(file)

    both = run_batch(sage_env, [1], lambda function, item: (call(function, item), function.call_service("another", 5)))

    assert both == [(2, 10)]
    status = sage_env.get_service_status("svc")
    assert (status["deployment_config"].threading_strategy, status["deployment_config"].timeout) == ("pool", 7)
    assert status["metrics"].request_count == 1


def test_profile_of_a_file_applies(file, sage_env):
    """The chosen profile of a file applies to the services."""
    sage_env.register_service("svc", Doubler)
    sage_env.load_service_deployment_config(file, profile="calm")
    run_batch(sage_env, [1], call)
    assert sage_env.get_service_status("svc")["deployment_config"].queue_size == 5


def test_file_holds_for_the_next_submit_too(file, sage_env):
    """A file's settings apply to every later submit too."""
    sage_env.register_service("svc", Doubler)
    sage_env.load_service_deployment_config(file)
    for _ in range(2):
        assert run_batch(sage_env, [1], call) == [2]
        assert strategy_of(sage_env) == "pool"


def test_wrong_file_is_refused_with_its_line(file, sage_env):
    """A wrong file is refused with its line when it is loaded."""
    file.write_text("services:\n  svc:\n    deployment: {thread_count: 0}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"service_deployment\.yaml:3:"):
        sage_env.load_service_deployment_config(file)


# -- the life of services ---------------------------------------------------------------------------------------------


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


# -- what SAGE keeps --------------------------------------------------------------------------------------------------


class Questions(SourceFunction):
    """A source of the questions that a service asks its own pipeline."""

    def __init__(self, questions: queue.Queue[Any]) -> None:
        super().__init__()
        self._questions = questions

    def execute(self, data: Any = None) -> Any:
        try:
            question = self._questions.get_nowait()
        except queue.Empty:
            return None
        return StopSignal("enough") if question is None else question


class Asking(BaseService):
    """A service that lets a pipeline answer."""

    def __init__(self, questions: queue.Queue[Any]) -> None:
        super().__init__()
        self._questions = questions

    def process(self, value: Any) -> Any:
        if value is None:
            self._questions.put(None)
            return "enough"
        answers: queue.Queue[Any] = queue.Queue()
        self._questions.put((value, answers))
        return answers.get(timeout=PATIENCE)


class Answer(SinkFunction):
    def execute(self, data: Any) -> None:
        value, answers = data
        answers.put(self.call_service("ours", value))


def ask_the_pipeline(env: Any, questions: queue.Queue[Any]) -> list[Any]:
    into: list[Any] = []
    env.from_source(Questions, questions).sink(Answer)
    env.from_batch([1, 2, {"end": None}]).map(AskOrEnd).sink(Collect, into)
    env.submit(autostop=True)
    return into


class AskOrEnd(MapFunction):
    def execute(self, data: Any) -> Any:
        return self.call_service("asking", None if isinstance(data, dict) else data)


def test_service_that_waits_for_the_pipeline_stays_sages(sage_env):
    """
    SAGE keeps a service that shares an object (here a queue) with a source; other services are deployed.

    Such a service waits for the pipeline, and SAGE reads the source during the call.
    """
    logged: list[str] = []
    sage_env.logger.info = lambda text, *values: logged.append(text % values)
    questions: queue.Queue[Any] = queue.Queue()
    sage_env.register_service("asking", Asking, questions)
    sage_env.register_service("ours", Doubler)
    sage_env.plan()  # before there is a pipeline that shows the shared object

    assert ask_the_pipeline(sage_env, questions) == [2, 4, "enough"]

    assert [line for line in logged if line.startswith("Service 'asking' stays SAGE's own: it shares an object")]
    assert sage_env.get_service_status("ours")["metrics"].request_count == 2
    with pytest.raises(
        ServiceNotFoundError, match="SAGE's own, because it shares an object with the source 'Questions'"
    ):
        sage_env.get_service_status("asking")
    with pytest.raises(ServiceNotFoundError, match="SAGE's own"):
        sage_env.service("asking")


@pytest.mark.parametrize("how", ["config", "file"])
def test_service_with_a_configuration_is_never_left(how, sage_env, tmp_path):
    """A service with a deployment configuration is always deployed, even if it shares an object with a source."""
    questions: queue.Queue[Any] = queue.Queue()
    questions.put(None)
    if how == "config":
        sage_env.register_service_with_config("asking", Asking, questions, deployment_config=POOL)
    else:
        sage_env.register_service("asking", Asking, questions)
        (tmp_path / "file.yaml").write_text("services: {asking: {}}\n", encoding="utf-8")
        sage_env.load_service_deployment_config(tmp_path / "file.yaml")
    sage_env.from_source(Questions, questions).sink(Answer)
    sage_env.submit()
    assert sage_env.get_service_status("asking")["state"] == "ready"


class Named:
    def process(self, value: Any) -> Any:
        return "named", self.ctx.call_service("ours", value), type(self.ctx).__module__

    def start(self) -> None:
        self.ctx.get_service("ours").stop_counting = True


def test_services_can_be_left_by_name(sage_environments):
    """SAGE runs the services named in `leave`, and these can call deployed services."""
    env = sage_environments(leave=["named"])
    said: list[str] = []
    env.register_service("named", Named)
    env.register_service("ours", Recorder, said)

    answers = run_batch(env, ["a"], lambda function, item: function.call_service("named", item), keyed=True)

    assert answers == [("named", ("a", 1), "sage.runtime.pipeline_compiler")]
    assert said == LIFE
    with pytest.raises(ServiceNotFoundError, match="its name is in `leave`"):
        env.service("named")
    with pytest.raises(ConfigError, match="in `leave`"):
        env.register_service_with_config("named", Named, deployment_config=POOL)


class Factory:
    """A factory with the one method that SAGE requires."""

    def create_service(self, ctx: Any) -> Any:
        return Doubler()


def test_factory_that_does_not_tell_its_class_is_left(sage_env):
    """SAGE keeps a service if its factory lacks `service_name` and `service_class`."""
    sage_env.register_service_factory("svc", Factory())
    assert run_batch(sage_env, [1], call, keyed=True) == [2]
    with pytest.raises(ServiceNotFoundError, match="its factory lacks service_name and service_class"):
        sage_env.service("svc")


# -- SAGE's own tests -------------------------------------------------------------------------------------------------

ATTACH_ALL = """
from sage_deploy_sage import DeployEnvironment

def pytest_collection_modifyitems(items):
    modules = {item.module for item in items if hasattr(item.module, "LocalEnvironment")}
    assert modules
    for module in modules:
        module.LocalEnvironment = DeployEnvironment
"""


#: Shipped tests that need files of SAGE's repository, or FastAPI.
NOT_WHOLE = {"test_benchmark_carrier_stub.py", "test_edge_app.py", "test_openai_replay_carrier.py",
             "test_vamos_launcher_contract_runner.py"}  # fmt: skip
#: Fails now and then on Python 3.13, also without sage-deploy: which replica gets an item depends on the threads.
RACES = "test_local_environment_round_robins_unkeyed_parallel_map_locally"


@pytest.mark.parametrize(("attached", "most"), [(False, "89 passed"), (True, "15 passed")])
def test_sages_own_tests_pass(attached, most, tmp_path, monkeypatch):
    """SAGE's own tests pass with our distribution installed, and its runtime tests also on attached environments."""
    (tmp_path / "attach_all.py").write_text(ATTACH_ALL, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pattern = "tests/test_runtime_*.py" if attached else "tests/test_*.py"
    files = [file for file in metadata.files("isage") or [] if file.match(pattern) and file.name not in NOT_WHOLE]
    shipped = [str(file.locate()) for file in files]
    plugin = ["-p", "attach_all"] if attached else []
    command = [sys.executable, "-m", "pytest", "--noconftest", "-c", "/dev/null", "--rootdir", str(tmp_path), *plugin]

    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-k", f"not {RACES}", *shipped],
        capture_output=True, text=True, cwd=tmp_path, timeout=50, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout
    assert most in done.stdout


# -- what `doctor` says -----------------------------------------------------------------------------------------------


def test_doctor_knows_the_installed_version():
    """`doctor` accepts the installed version of SAGE."""
    (finding,) = check_installation()
    assert (finding.status, finding.found) == ("ok", f"isage {metadata.version('isage')}")


@pytest.mark.parametrize("version", ["0.2.9", "0.3.1.9", "0.3.2", "0.3.2.2", "0.4", "0.4.0.1", "1.0"])
def test_doctor_warns_of_other_versions(version):
    """`doctor` reports unsupported versions of SAGE as a failure, with the command that installs a supported one."""
    finding = check_version(version)
    assert (finding.status, finding.fix) == ("failure", "pip install 'isage>=0.3.2.3,<0.4'")


@pytest.mark.parametrize("version", ["0.3.2.3", "0.3.2.10", "0.3.3", "0.3.9.1"])
def test_doctor_lets_known_versions_pass(version):
    """`doctor` accepts the supported versions of SAGE."""
    assert check_version(version).status == "ok"


def test_known_versions_are_those_that_are_required():
    """`doctor` and the package's requirement agree on the supported versions."""
    text = (ROOT / "plugins/sage/pyproject.toml").read_text(encoding="utf-8")
    first, beyond = (".".join(map(str, bound)) for bound in KNOWN)
    assert f'"isage>={first},<{beyond}"' in text
