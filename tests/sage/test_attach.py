"""A SAGE environment with `attach`: how services are registered, in code or a file, and which stay SAGE's."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

import pytest
from sage.foundation import MapFunction, SinkFunction, SourceFunction
from sage.runtime import BaseService, FlowNetEnvironment, LocalEnvironment
from sage.runtime.service_factory import ServiceFactory as SageFactory
from sage.stream._runtime_kernel_types import StopSignal

from attached_services import POOL, strategy_of
from sage_deploy_sage import DeployEnvironment, attach
from sage_plugins.errors import ConfigError, ServiceNotFoundError
from sage_steps import LIFE, PATIENCE, Collect, Doubler, Recorder, call, run_batch, start_stream

if TYPE_CHECKING:
    from pathlib import Path

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
