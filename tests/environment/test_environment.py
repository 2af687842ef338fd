"""The environment: registering, files, plans, status, services that call services, and SAGE's request dictionaries."""

from __future__ import annotations

import asyncio
import json
import queue
import textwrap
import threading
from concurrent.futures import Future
from importlib import metadata

import pytest

from sage_plugins import (
    Environment,
    ServiceDeploymentConfig,
    ServiceFactory,
    ServiceMetrics,
    ServiceTask,
    ServiceTaskFactory,
    errors,
)

PATIENCE = 20.0
SHORT = 0.03


class Given:
    """Keeps the arguments of its constructor."""

    made = 0

    def __init__(self, *args, **kwargs):
        type(self).made += 1
        self.args = args
        self.kwargs = kwargs

    def given(self):
        return self.args, self.kwargs

    def process(self, /, *args, **kwargs):
        return args, kwargs

    def thread(self):
        return threading.current_thread()


@pytest.fixture
def given():
    """A new class for each test, so that the test can count its instances."""
    return type("Given", (Given,), {"made": 0})


@pytest.fixture
def deployment_file(tmp_path):
    """Writes a deployment file and returns its path."""

    def write(text, name="service_deployment.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


# -- registering -------------------------------------------------------------------------------------------------------


def test_registering_gives_the_factory_and_starts_nothing(env, given):
    """All `register_*` methods return the factory and start nothing."""
    config = ServiceDeploymentConfig(timeout=5.0)
    threads = threading.active_count()
    plain = env.register_service("plain", given, 1, word="w")
    configured = env.register_service_with_config("configured", given, 2, deployment_config=config, word="v")
    assert isinstance(plain, ServiceFactory)
    assert (plain.service_name, plain.service_class) == ("plain", given)
    assert (plain.service_args, plain.service_kwargs) == ((1,), {"word": "w"})
    assert (configured.service_args, configured.service_kwargs) == ((2,), {"word": "v"})
    assert env.service_factories == {"plain": plain, "configured": configured}
    assert env.register_service_factory("again", plain) is plain
    assert (given.made, threading.active_count()) == (0, threads)


def test_constructor_gets_all_other_arguments(env, given):
    """`register_service` passes all arguments to the constructor, even those named like settings."""
    words = {
        "timeout": 5,
        "replicas": 3,
        "thread_count": 2,
        "name": "n",
        "deployment_config": "own",
        "config": {},
        "self_": 1,
        "service_name": "s",
        "service_class": int,
    }
    env.register_service("svc", given, "a", 2, **words)
    assert env.service("svc").given() == (("a", 2), words)
    assert env.get_service_status("svc")["deployment_config"] == ServiceDeploymentConfig()


def test_constructor_beside_a_configuration_gets_the_rest(env, given):
    """`register_service_with_config` passes all other arguments to the constructor."""
    config = ServiceDeploymentConfig(timeout=5.0)
    env.register_service_with_config("svc", given, "a", deployment_config=config, timeout="the constructor's")
    assert env.service("svc").given() == (("a",), {"timeout": "the constructor's"})
    assert env.get_service_status("svc")["deployment_config"] is config


def test_default_deployment_is_local_and_single(env, given):
    """Without a configuration, a service is one replica in this process that runs one call at a time."""
    env.register_service("svc", given)
    env.deploy()
    config = env.get_service_status("svc")["deployment_config"]
    assert (config.target, config.threading_strategy, config.replicas) == ("local", "single", 1)
    assert env.service("svc").thread() is env.service("svc").thread()


def test_last_registration_before_deployment_counts(env, given):
    """Registering a name again before the deployment replaces it and its configuration, for existing handles too."""
    env.register_service_with_config("svc", given, 1, deployment_config=ServiceDeploymentConfig(timeout=1.0))
    handle = env.service("svc")
    env.get_service_status("svc")
    env.register_service("svc", given, 2)
    assert handle.given() == ((2,), {})
    assert env.get_service_status("svc")["deployment_config"].timeout == 30.0
    assert given.made == 1


def test_deployed_service_is_registered_again(env, given):
    """
    Registering a deployed service again changes nothing until `apply`.

    `plan` shows the difference, `deploy` ignores it.
    """
    env.register_service("svc", given, 1)
    env.deploy()
    env.register_service_with_config("svc", given, 2, word="w", deployment_config={"timeout": "5s"})
    handle = env.service("svc")
    assert handle.given() == ((1,), {})
    (service,) = env.plan().services
    assert service.action == "change"
    assert {change.key for change in service.changes} == {"timeout", "init.args.0", "init.kwargs.word"}
    env.deploy()
    assert (handle.given(), given.made) == (((1,), {}), 1)
    env.apply()
    assert (handle.given(), given.made) == (((2,), {"word": "w"}), 2)
    assert env.get_service_status("svc")["deployment_config"].timeout == 5.0
    assert not env.plan().has_changes


def test_bad_registration_of_a_deployed_service(env, given):
    """An invalid registration of a deployed service is refused, and the service keeps running."""
    env.register_service("svc", given, 1)
    env.deploy()
    env.register_service_with_config("svc", given, deployment_config={"target": "nowhere"})
    with pytest.raises(errors.UnknownPluginError):
        env.apply()
    assert env.service("svc").given() == ((1,), {})


@pytest.mark.parametrize("timeout", ["svc", True])
def test_deploy_takes_seconds_and_no_name(env, given, timeout):
    """`deploy` refuses a name or a bool as timeout, says what it does, and starts nothing."""
    env.register_service("svc", given)
    with pytest.raises(TypeError, match="starts all services that are registered"):
        env.deploy(timeout)
    assert given.made == 0


def test_services_registered_later_are_deployed_later(env, given):
    """`deploy` starts services registered since the last time, and leaves the others alone."""
    env.register_service("first", given)
    env.deploy()
    env.register_service("second", given)
    env.deploy()
    assert given.made == 2
    assert env.get_service_status("second")["state"] == "ready"


@pytest.mark.parametrize(
    ("name", "cls"), [("", Given), (None, Given), (5, Given), ("svc", Given()), ("svc", None), ("svc", "Given")]
)
def test_name_and_class_are_checked_when_registered(env, name, cls):
    """`register_service` refuses a name or a class of the wrong type."""
    with pytest.raises(ValueError, match="service"):
        env.register_service(name, cls)
    assert env.service_factories == {}


@pytest.mark.parametrize("config", [None, [], "local"])
def test_configuration_is_checked_when_registered(env, given, config):
    """`register_service_with_config` refuses a configuration of the wrong type."""
    with pytest.raises(errors.ConfigError, match="deployment_config"):
        env.register_service_with_config("svc", given, deployment_config=config)


def test_foreign_factory(env):
    """Any object with `service_name`, `service_class` and `create_service(ctx)` is a factory."""
    seen = []

    class Foreign:
        service_name = "foreign"
        service_class = Given

        def create_service(self, ctx):
            seen.append((ctx.name, threading.current_thread()))
            return Given("from the factory")

    env.register_service_factory("foreign", Foreign())
    assert env.service("foreign").given() == (("from the factory",), {})
    ((name, thread),) = seen
    assert name == "foreign"
    assert thread is env.service("foreign").thread()


def test_factory_serves_under_the_name_that_it_is_registered_by(env):
    """A factory serves under the name that it is registered by, and can be registered twice."""

    class Named:
        def name(self):
            return self.ctx.name

    factory = ServiceFactory("made-as", Named)
    env.register_service_factory("first", factory)
    env.register_service_factory("second", factory)
    env.deploy()
    assert [env.service(name).name() for name in ("first", "second")] == ["first", "second"]
    assert env.get_service_status("second")["service_name"] == "second"


@pytest.mark.parametrize("missing", ["service_name", "service_class", "create_service"])
def test_incomplete_factory_is_refused(env, missing):
    """A factory without one of its parts is refused."""
    parts = {"service_name": "svc", "service_class": Given, "create_service": lambda ctx: Given()}
    del parts[missing]
    with pytest.raises(TypeError, match=missing):
        env.register_service_factory("svc", type("Foreign", (), parts)())


def test_foreign_factory_that_raises(env):
    """If a factory raises, the deployment fails with its error."""

    class Foreign:
        service_name = "foreign"
        service_class = Given

        def create_service(self, ctx):
            raise LookupError("no model")

    env.register_service_factory("foreign", Foreign())
    with pytest.raises(errors.DeployError, match="LookupError: no model"):
        env.deploy()


# -- files -------------------------------------------------------------------------------------------------------------

FILE = """
    services:
      svc:
        deployment: {threading_strategy: pool, thread_count: 3}
        performance: {timeout: 7.0}
      elsewhere: {}
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_file_applies_to_services_registered_before_and_after(env, given, deployment_file, order):
    """A file applies to services registered before and after it is loaded."""
    path = deployment_file(FILE)
    if order == "before":
        env.load_service_deployment_config(path)
    env.register_service("svc", given)
    if order == "after":
        env.load_service_deployment_config(path)
    config = env.get_service_status("svc")["deployment_config"]
    assert (config.threading_strategy, config.thread_count, config.timeout) == ("pool", 3, 7.0)


def test_configuration_in_code_beats_the_file(env, given, deployment_file):
    """A configuration given in code replaces the file's as a whole."""
    config = ServiceDeploymentConfig(timeout=1.0)
    env.register_service_with_config("svc", given, deployment_config=config)
    env.load_service_deployment_config(deployment_file(FILE))
    assert env.get_service_status("svc")["deployment_config"] is config
    env.register_service("svc", given)  # without one, the file counts again
    assert env.get_service_status("svc")["deployment_config"].timeout == 7.0


def test_class_in_the_file_needs_no_registration(env, deployment_file, tmp_path, monkeypatch):
    """A file entry with `class:` and `init:` is a service that needs no registration."""
    (tmp_path / "served_classes.py").write_text(
        "class Greeter:\n"
        "    def __init__(self, word, *, mark='.'):\n"
        "        self.word, self.mark = word, mark\n"
        "    def greet(self, name):\n"
        "        return f'{self.word} {name}{self.mark}'\n"
        "    class Inner:\n"
        "        def answer(self):\n"
        "            return 42\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = deployment_file("""
        services:
          greeter:
            class: served_classes:Greeter
            init: {args: [Hello], kwargs: {mark: "!"}}
          inner:
            class: served_classes:Greeter.Inner
    """)
    env.load_service_deployment_config(path)
    env.deploy()
    assert env.service("greeter").greet("world") == "Hello world!"
    assert env.call_service("inner", method="answer") == 42


def test_registration_beats_the_class_in_the_file(env, given, deployment_file):
    """A registered class replaces the file's `class:`; the file's settings still apply."""
    path = deployment_file("""
        services:
          svc:
            class: no_such_module:Class
            timeout: 7.0
    """)
    env.load_service_deployment_config(path)
    env.register_service("svc", given, 1)
    env.deploy()
    assert env.service("svc").given() == ((1,), {})
    assert env.get_service_status("svc")["deployment_config"].timeout == 7.0


def test_planning_does_not_decide_what_is_deployed(env, deployment_file, tmp_path, monkeypatch):
    """`plan` has no effect: a file loaded after it counts as if there had been no plan."""
    (tmp_path / "served_versions.py").write_text(
        "class Version:\n"
        "    def __init__(self, number):\n"
        "        self.number = number\n"
        "    def get(self):\n"
        "        return self.number\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = "services: {{svc: {{class: 'served_versions:Version', init: {{args: [{}]}}}}}}"
    env.load_service_deployment_config(deployment_file(text.format(1), "one.yaml"))
    env.plan()
    env.get_service_status("svc")
    env.load_service_deployment_config(deployment_file(text.format(2), "two.yaml"))
    assert env.service("svc").get() == 2


@pytest.mark.parametrize("path", ["no_such_module:Class", "json:NoSuchClass", "json:dumps"])
def test_class_that_cannot_be_loaded_is_reported_at_its_place(env, deployment_file, path):
    """A class that cannot be imported is reported with its place in the file."""
    file = deployment_file(f"services:\n  svc:\n    class: {path}\n")
    env.load_service_deployment_config(file)
    with pytest.raises(errors.ConfigError) as caught:
        env.deploy()
    assert f"{file}:3:" in str(caught.value)
    assert path in str(caught.value)


def test_file_may_name_what_only_a_plugin_knows(env, given, deployment_file):
    """IDs in a file are looked up when it is planned; an invalid combination is reported with its place in the file."""
    file = deployment_file(
        "services:\n  svc:\n    deployment:\n      thread_count: 4\n      threading_strategy: single\n"
    )
    env.load_service_deployment_config(file)
    env.register_service("svc", given)
    with pytest.raises(errors.ConfigError) as caught:
        env.plan()
    assert f"{file}:4:" in str(caught.value)
    assert "E301" in str(caught.value)


def test_file_changes_nothing_that_runs_before_it_is_applied(env, given, deployment_file):
    """Loading a file changes no running service before `apply`."""
    env.register_service("svc", given)
    env.deploy()
    before = env.task("svc")
    env.load_service_deployment_config(deployment_file("services: {svc: {timeout: 7}}"))
    env.deploy()
    assert env.task("svc") is before
    assert env.get_service_status("svc")["deployment_config"].timeout == 30
    env.apply()
    assert env.get_service_status("svc")["deployment_config"].timeout == 7


# -- plans -------------------------------------------------------------------------------------------------------------


def test_plan_starts_nothing_and_names_who_decides(env, given, deployment_file):
    """
    `plan` starts no thread and builds no instance.

    Text and JSON name each plugin with its distribution and version.
    """
    balanced = ServiceDeploymentConfig(
        threading_strategy="pool", thread_count=2, replicas=2, load_balancing=True, load_balancer="round_robin"
    )
    env.register_service_with_config("svc", given, deployment_config=balanced)
    env.register_service("other", given)
    env.load_service_deployment_config(deployment_file("services: {nobody: {}}"))
    threads = set(threading.enumerate())
    plan = env.plan()
    assert set(threading.enumerate()) - threads == set()
    assert given.made == 0

    text = str(plan)
    for distribution in ("local", "threading", "balancers", "monitors"):
        name = f"sage-deploy-{distribution}"
        assert f"[{name} {metadata.version(name)}]" in text
    for word in ("svc#0", "svc#1", "other#0", "round_robin", "2 services", "3 replicas", "services.nobody"):
        assert word in text
    services = json.loads(plan.to_json())["services"]
    assert [service["name"] for service in services] == ["svc", "other"]
    decided = {decision["what"]: (decision["id"], decision["source"]) for decision in services[0]["decisions"]}
    version = metadata.version("sage-deploy-balancers")
    assert decided["balancer"] == ("round_robin", f"sage-deploy-balancers {version}")
    assert decided["target"][0] == "local"
    assert decided["strategy"][0] == "pool"
    assert "given" in services[0]["methods"]


def test_plan_says_what_is_advisory(env, given):
    """The plan warns about settings that the target cannot enforce; the service starts anyway."""
    config = ServiceDeploymentConfig(cpu_cores=2.0, memory_mb=64)
    env.register_service_with_config("svc", given, deployment_config=config)
    text = str(env.plan())
    assert text.count("W05") == 2
    assert "advisory" in text
    env.deploy()


def test_placement_has_no_effect_in_one_process_and_the_plan_says_so(env, given):
    """Within one process placement settings have no effect, and the plan warns of it."""
    config = ServiceDeploymentConfig(spread="pack", max_replicas_per_node=1)
    env.register_service_with_config("svc", given, deployment_config=config)
    warnings = env.plan().services[0].warnings
    assert [(each.id, each.key, each.other) for each in warnings] == [
        ("W12", "spread", "target"),
        ("W12", "max_replicas_per_node", "target"),
    ]


def test_plan_of_an_unknown_plugin_says_which_service(env, given):
    """The error about an unknown plugin names the service and suggests the nearest ID."""
    config = ServiceDeploymentConfig(target="locale")
    env.register_service_with_config("svc", given, deployment_config=config)
    with pytest.raises(errors.UnknownPluginError, match="service 'svc'") as caught:
        env.plan()
    assert "did you mean 'local'" in str(caught.value)


def test_empty_plan(env):
    """The plan of an empty environment has no services, and `deploy` does nothing."""
    assert "0 services" in str(env.plan())
    assert json.loads(env.plan().to_json())["services"] == []
    env.deploy()


# -- looking up --------------------------------------------------------------------------------------------------------


def test_unknown_service_is_refused_at_once(env, given):
    """An unknown service raises ServiceNotFoundError before any call, and suggests the nearest name."""
    env.register_service("kv_service", given)
    for attempt in (env.service, env.call_service, env.get_service_status, env.task):
        with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'kv_service'") as caught:
            attempt("kv_servise")
        assert isinstance(caught.value, LookupError)
        assert caught.value.service == "kv_servise"
    with pytest.raises(errors.ServiceNotFoundError, match="kv_service"):
        env.service("qqqqqqqqqq")
    assert given.made == 0


def test_unknown_service_in_an_empty_environment(env):
    """In an empty environment ServiceNotFoundError says that there are no services."""
    with pytest.raises(errors.ServiceNotFoundError, match="none"):
        env.service("kv")


def test_typed_handle_is_the_same_handle(env, given):
    """`service(name, cls)` returns the same handle; the class is for type checkers."""
    env.register_service("svc", given)
    assert env.service("svc", given).given() == ((), {})


def test_call_service_as_in_sage(env, given):
    """`call_service` calls `process` by default, and takes `method` and `timeout`."""
    env.register_service("svc", given)
    assert env.call_service("svc", 1, word="w") == ((1,), {"word": "w"})
    assert env.call_service("svc", method="given", timeout=5) == ((), {})
    with pytest.raises(errors.ConfigError, match="timeout"):
        env.call_service("svc", timeout=0)
    with pytest.raises(errors.MethodNotFoundError):
        env.call_service("svc", method="processs")


def test_call_service_leaves_other_names_to_the_method(env, given):
    """`call_service` passes all keywords but `method` and `timeout` to the method, even `name` and `self`."""
    env.register_service("svc", given)
    words = {"name": "n", "self": "s"}
    assert env.call_service("svc", **words) == ((), words)


def test_call_service_of_the_context_leaves_other_names_to_the_method(env, given):
    """The context's `call_service` passes `name` and `service` to the method."""

    class Asking:
        def ask(self, **words):
            return self.ctx.call_service("svc", **words), self.ctx.call_service_async("svc", **words).result(PATIENCE)

    env.register_service("svc", given)
    env.register_service("asking", Asking)
    words = {"name": "n", "service": "s"}
    assert env.service("asking").ask(**words) == (((), words), ((), words))


def test_call_service_has_a_deadline(env, probe, gate):
    """`call_service(timeout=)` sets the call's deadline."""
    env.register_service("svc", probe)
    with pytest.raises(errors.CallTimeoutError):
        env.call_service("svc", gate, method="run", timeout=SHORT)
    gate.open()


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_at_a_glance(deploy, strategy):
    """The status has name, state, configuration, metrics, health, replicas, replacements, own metrics and monitors."""
    service = deploy(strategy, replicas=2, load_balancing=True)
    status = service.env.get_service_status("svc")
    assert list(status) == [
        *("service_name", "state", "deployment_config", "metrics"),
        *("health", "replicas", "replaced", "own_metrics", "monitors"),
    ]
    assert (status["service_name"], status["state"]) == ("svc", "ready")
    assert isinstance(status["deployment_config"], ServiceDeploymentConfig)
    assert isinstance(status["metrics"], ServiceMetrics)
    assert status["metrics"].service_name == "svc"
    assert status["health"] == {"healthy": True, "ready": 2, "replicas": 2}
    assert [(each["id"], each["state"], each["inflight"], each["error"]) for each in status["replicas"]] == [
        ("svc#0", "ready", 0, None),
        ("svc#1", "ready", 0, None),
    ]


def test_status_through_the_life_of_a_service(env, probe, gate, in_thread, until):
    """The state is pending before the deployment, then starting, ready, draining and stopped."""

    class Slow(probe):
        def __init__(self):
            gate()

    env.register_service("svc", Slow)
    state = lambda: env.get_service_status("svc")["state"]  # noqa: E731 - one expression
    assert state() == "pending"
    deploying = in_thread(env.deploy)
    gate.wait_entered()
    status = env.get_service_status("svc")
    assert status["state"] == "starting"
    assert status["health"] == {"healthy": False, "ready": 0, "replicas": 1}
    gate.open()
    deploying.result(PATIENCE)
    assert state() == "ready"
    opened = Future()
    entered = Future()
    running = env.service("svc").submit("run", lambda: (entered.set_result(None), opened.result(PATIENCE)))
    entered.result(PATIENCE)
    closing = in_thread(env.close)
    until(lambda: state() != "ready")
    assert state() == "draining"
    opened.set_result(None)
    closing.result(PATIENCE)
    running.result(PATIENCE)
    assert state() == "stopped"


def test_status_counts_what_is_going_on(deploy, threaded, occupy):
    """The status counts running and waiting calls."""
    service = deploy(threaded, queue_size=10)
    occupied = occupy(service)
    calls = [service.handle.submit("echo") for _ in range(4)]
    status = service.env.get_service_status("svc")
    assert status["metrics"].queue_size == 4
    assert status["metrics"].active_threads == service.slots
    (replica,) = status["replicas"]
    assert (replica["inflight"], replica["slots"], replica["threads"]) == (service.slots,) * 3
    occupied.open()
    for call in calls:
        call.result(PATIENCE)
    assert service.waiting == 0


def test_count_read_after_a_result_includes_it(deploy, strategy):
    """A call is counted before its caller gets the result."""
    service = deploy(strategy)
    for number in range(1, 2001):
        service.handle.echo()
        assert service.metrics.request_count == number
    for number in range(2001, 2201):
        service.handle.submit("echo").result(PATIENCE)
        assert service.metrics.request_count == number


@pytest.mark.parametrize("verb", ["call", "acall"])
def test_every_ending_counts_once(deploy, strategy, occupy, queued, verb):
    """Each result, error, timeout and cancelled call counts once, under its own outcome."""
    service = deploy(strategy, queue_size=10)
    handle = service.handle

    def fail():
        raise ValueError("counted")

    def ask(handle, *args):
        return handle.call(*args) if verb == "call" else asyncio.run(handle.acall(*args))

    for _ in range(3):
        ask(handle, "echo")
    for _ in range(2):
        with pytest.raises(ValueError, match="counted"):
            ask(handle, "run", fail)
    occupied = occupy(service)
    with pytest.raises(errors.CallTimeoutError):
        ask(handle.with_options(timeout=SHORT), "echo")
    expected = {"ok": 3, "error": 2, "timeout": 1}
    if strategy != "inline":
        future = handle.submit("echo")
        assert future.cancel()
        assert not handle.submit("echo").cancelled()
        expected |= {"cancelled": 1, "ok": 4 + service.slots}
    else:
        expected |= {"ok": 3 + service.slots}
    occupied.open()
    queued(service, "echo").result(PATIENCE)
    expected["ok"] += 1
    for _ in range(service.slots):
        handle.echo()
        expected["ok"] += 1
    metrics = service.metrics
    if strategy == "pool":  # a pool has two workers, and the calls that held the slots may not have been counted yet
        while sum(service.metrics.outcomes.values()) < sum(expected.values()):
            threading.Event().wait(0.001)
        metrics = service.metrics
    assert dict(metrics.outcomes) == expected
    assert metrics.request_count == sum(expected.values())
    assert metrics.error_count == metrics.request_count - expected["ok"]
    assert metrics.rejected_count == 0


def test_rejected_calls_are_counted_apart(deploy, strategy, occupy):
    """A refused call counts as refused, not as a request."""
    service = deploy(strategy, queue_size=0, overload="reject")
    occupied = occupy(service)
    for _ in range(3):
        with pytest.raises(errors.OverloadedError):
            service.handle.echo()
    metrics = service.metrics
    assert (metrics.request_count, metrics.rejected_count) == (0, 3)
    occupied.open()


def test_unknown_methods_count_nowhere(deploy):
    """Calls of unknown methods are not counted."""
    service = deploy("single")
    with pytest.raises(errors.MethodNotFoundError):
        service.handle.ecco()
    assert (service.metrics.request_count, service.metrics.rejected_count) == (0, 0)


def test_durations_are_measured(deploy, strategy):
    """Mean and percentiles are the seconds from the call to its answer."""
    service = deploy(strategy)
    for _ in range(20):
        service.handle.call("run", threading.Event().wait, 0.005)
    metrics = service.metrics
    assert metrics.avg_response_time >= 0.005
    assert metrics.p99 >= metrics.p95 >= metrics.p50 >= 0.005
    assert 0 <= metrics.avg_queue_time < metrics.avg_response_time


def test_counts_are_exact_under_many_threads(deploy, strategy, in_thread):
    """The counts are exact when many threads call."""
    service = deploy(strategy)
    start = threading.Barrier(8)

    def caller():
        start.wait(PATIENCE)
        for _ in range(100):
            service.handle.echo()

    for each in [in_thread(caller) for _ in range(8)]:
        each.result(PATIENCE)
    assert service.metrics.request_count == 800


def test_without_metrics_nothing_is_counted(deploy, strategy):
    """`enable_metrics: false` and `monitors: []` turn counting off; calls and status still work."""
    service = deploy(strategy, enable_metrics=False)
    service.handle.echo()
    assert service.metrics.request_count == 0
    service = deploy(strategy, monitors=[])
    service.handle.echo()
    assert service.metrics.request_count == 0


def test_threads_that_ended_are_forgotten_by_the_metrics(deploy, in_thread):
    """The metrics keep the counts of threads that have ended, but nothing else of them."""
    service = deploy("inline")
    for _ in range(200):
        in_thread(service.handle.echo).result(PATIENCE)
    assert service.metrics.request_count == 200
    (member,) = service.env.task("svc").replicas.members
    (recorder,) = member.replica._host._recorders.values()
    kept = [value for value in vars(recorder).values() if isinstance(value, (list, set, dict))]
    assert sum(map(len, kept)) < 50


# -- services that call services ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["front", "back"])
def test_services_call_services(env, strategy, first):  # noqa: C901 - a method for each way
    """Through `ctx` a service calls others in every way, whatever the order of registration."""

    class Front:
        def by_handle(self, value):
            return self.ctx.service("back").double(value)

        def by_typed_handle(self, value):
            return self.ctx.service("back", Back).double(value)

        def by_name(self, value):
            return self.ctx.call_service("back", value, method="double")

        def by_default(self, value):
            return self.ctx.call_service("back", value)

        def by_future(self, value):
            future = self.ctx.call_service_async("back", value, method="double", timeout=PATIENCE)
            assert isinstance(future, Future)
            return future.result()

        async def by_coroutine(self, value):
            return await self.ctx.service("back").acall("double", value)

        def unknown(self):
            return self.ctx.service("bakc")

    class Back:
        def double(self, value):
            return 2 * value

        def process(self, value):
            return ("processed", value)

    classes = {"front": Front, "back": Back}
    for name in sorted(classes, key=lambda name: name != first):
        config = ServiceDeploymentConfig(threading_strategy=strategy)
        env.register_service_with_config(name, classes[name], deployment_config=config)
    front = env.service("front")
    for method in ("by_handle", "by_typed_handle", "by_name", "by_future", "by_coroutine"):
        assert front.call(method, 21) == 42
    assert front.by_default(1) == ("processed", 1)
    with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'back'"):
        front.unknown()


@pytest.mark.parametrize("first", ["front", "back"])
@pytest.mark.parametrize("lazily", [False, True])
def test_constructors_may_call_services(env, strategy, first, lazily):
    """A constructor can call another service, whether that was registered before or after."""

    class Front:
        def __init__(self):
            self.word = self.ctx.service("back").word()

        def get(self):
            return self.word

    class Back:
        def word(self):
            return "from the other"

    classes = {"front": Front, "back": Back}
    for name in sorted(classes, key=lambda name: name != first):
        config = ServiceDeploymentConfig(threading_strategy=strategy)
        env.register_service_with_config(name, classes[name], deployment_config=config)
    if not lazily:
        env.deploy()
    assert env.service("front").get() == "from the other"


class Early:
    """Calls another service in the hook *hook*; *waits* says how."""

    def __init__(self, hook, waits, other):
        self.hook, self.waits, self.other, self.notes = hook, waits, other, []
        self._come_to("__init__")

    def _come_to(self, hook):
        if hook == self.hook:
            handle = self.ctx.service(self.other)
            if self.waits == "call":
                handle.note(hook)
            elif self.waits == "result":
                handle.submit("note", hook).result()
            elif self.waits == "stream":
                list(handle.stream("notes_one_by_one"))
            elif self.waits == "submit":
                handle.submit("note", hook)

    def setup(self):
        self._come_to("setup")

    async def start_running(self):
        if self.hook == "start_running":
            handle = self.ctx.service(self.other)
            await (handle.acall("note", "start_running") if self.waits == "call" else self._never())

    async def _never(self):
        raise AssertionError

    def warmup(self):
        self._come_to("warmup")

    def note(self, value):
        self.notes.append(value)

    def notes_one_by_one(self):
        yield from self.notes

    def read(self):
        return self.notes


def early(env, strategy, hook, waits, circle):
    """Register the services of *circle*. Each calls the next one in its hook *hook*."""
    config = ServiceDeploymentConfig(threading_strategy=strategy, startup_timeout=PATIENCE, timeout=PATIENCE)
    for name, other in zip(circle, [*circle[1:], circle[0]], strict=True):
        env.register_service_with_config(name, Early, hook, waits, other, deployment_config=config)


@pytest.mark.parametrize("circle", [["svc-a"], ["svc-a", "svc-b"], ["svc-a", "svc-b", "svc-c"]], ids=len)
@pytest.mark.parametrize(
    ("hook", "waits"),
    [
        ("__init__", "call"),
        ("setup", "call"),
        ("setup", "result"),
        ("setup", "stream"),
        ("start_running", "call"),
        ("warmup", "call"),
    ],
)
def test_start_hooks_that_wait_for_each_other_are_told_so_at_once(env, strategy, hook, waits, circle):
    """Start hooks that wait for each other fail the deployment at once, not after a timeout."""
    early(env, strategy, hook, waits, circle)
    with pytest.raises(errors.DeployError, match=r"never start: a replica gets no calls before its start hooks"):
        env.deploy()


def test_first_service_that_fails_ends_the_deployment(env):
    """The first service that fails ends the deployment, even while another one still starts."""
    gate = threading.Event()

    class Slow:
        def setup(self):
            gate.wait(PATIENCE)

    class Fails:
        def setup(self):
            raise LookupError("no database")

    config = ServiceDeploymentConfig(startup_timeout=PATIENCE)
    for name, each in [("slow", Slow), ("fails", Fails)]:
        env.register_service_with_config(name, each, deployment_config=config)
    with pytest.raises(errors.DeployError, match="service 'fails' replica 0: LookupError: no database"):
        env.deploy()
    gate.set()


@pytest.mark.parametrize("circle", [["svc-a"], ["svc-a", "svc-b"]], ids=len)
def test_start_hooks_may_submit_calls_for_later(env, threaded, circle):
    """A start hook can `submit` calls to its own service, and in a circle. They run after the hooks."""
    early(env, threaded, "setup", "submit", circle)
    env.deploy()
    assert env.service("svc-a").read() == ["setup"]


def test_start_hook_may_call_another_replica_of_its_service(env):
    """A start hook can call another replica of its service, which answers once it is ready."""
    called, answered = threading.Event(), []

    class Second:
        def setup(self):
            if self.ctx.replica_index == 1:
                future = self.ctx.service("svc").submit("note", "early")
                called.set()
                future.result()
            else:
                assert called.wait(PATIENCE)

        def note(self, value):
            answered.append((self.ctx.replica_index, value))

    config = ServiceDeploymentConfig(replicas=2, load_balancing=True, startup_timeout=PATIENCE, timeout=PATIENCE)
    env.register_service_with_config("svc", Second, deployment_config=config)
    env.deploy()
    assert answered == [(0, "early")]


def test_start_hook_hears_that_the_service_it_calls_cannot_start(env):
    """If a start hook calls a service that cannot start, it gets that service's DeployError at once."""

    class Broken:
        def __init__(self):
            msg = "no"
            raise RuntimeError(msg)

        def note(self, _value):
            pass

    config = ServiceDeploymentConfig(startup_timeout=PATIENCE, timeout=PATIENCE)
    env.register_service_with_config("svc-a", Early, "setup", "call", "svc-b", deployment_config=config)
    env.register_service_with_config("svc-b", Broken, deployment_config=config)
    with pytest.raises(errors.DeployError, match=r"service 'svc-a'.*DeployError.*'svc-b'.*no"):
        env.service("svc-a").read()
    with pytest.raises(errors.DeployError, match="service 'svc-b'"):
        env.service("svc-b").note(1)


def test_call_of_a_start_hook_has_its_time_once_the_other_service_is_ready(env):
    """A call made in a start hook has its full timeout once the other service is ready."""
    called = threading.Event()

    class Front:
        def setup(self):
            future = self.ctx.service("svc-b").with_options(timeout=1e-6).submit("note", "early")
            called.set()
            future.result()

    class Slow(Early):
        def setup(self):
            assert called.wait(PATIENCE)

    config = ServiceDeploymentConfig(startup_timeout=PATIENCE)
    env.register_service_with_config("svc-a", Front, deployment_config=config)
    env.register_service_with_config("svc-b", Slow, "", "", "", deployment_config=config)
    env.deploy()
    assert env.service("svc-b").read() == ["early"]


@pytest.mark.parametrize("through", ["itself", "another"])
def test_service_that_would_wait_for_itself_for_ever_is_told_so(env, strategy, through):
    """A call back into a service whose slots are all taken by the same chain of calls ends with ReentrantCallError."""

    class Calling:
        def ask(self, *names):
            if not names:
                return "end"
            return self.ctx.service(names[0]).ask(*names[1:])

    one = {"thread_count": 1, "thread_pool_size": 1} if strategy == "pool" else {}
    config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=None, **one)
    for name in ("svc-a", "svc-b"):
        env.register_service_with_config(name, Calling, deployment_config=config)
    way = ["svc-a"] if through == "itself" else ["svc-b", "svc-a"]
    with pytest.raises(errors.ReentrantCallError, match=" -> ".join(f"{name}.ask" for name in ["svc-a", *way])):
        env.service("svc-a").ask(*way)
    assert env.service("svc-a").ask() == "end"


def test_service_may_call_itself_beside_free_slots(env):
    """A service can call itself while it has a free slot."""

    class Calling:
        def ask(self, again):
            return self.ctx.service("svc").ask(again=False) if again else "end"

    config = ServiceDeploymentConfig(threading_strategy="pool", thread_count=2)
    env.register_service_with_config("svc", Calling, deployment_config=config)
    assert env.service("svc").ask(again=True) == "end"


def test_errors_cross_services_as_themselves(env, strategy):
    """An exception passes unchanged from one service to the other."""

    class Front:
        def ask(self):
            return self.ctx.call_service("back", method="fail")

    class Back:
        def fail(self):
            raise KeyError("from the back")

    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("front", Front, deployment_config=config)
    env.register_service_with_config("back", Back, deployment_config=config)
    with pytest.raises(KeyError, match="from the back"):
        env.service("front").ask()


def test_environments_know_nothing_of_each_other(environments, given):
    """
    Environments are independent: the same name is another service in each, and closing one leaves the other alone.
    """
    first, second = environments("first"), environments("second")
    first.register_service("svc", given, 1)
    second.register_service("svc", given, 2)
    assert (first.service("svc").given(), second.service("svc").given()) == (((1,), {}), ((2,), {}))
    first.close()
    assert second.service("svc").given() == ((2,), {})


def test_adeploy_leaves_the_loop_free(env, gate):
    """`adeploy` does not block the loop while constructors run."""

    class Slow:
        def __init__(self):
            gate()

    env.register_service("svc", Slow)

    async def main():
        deploying = asyncio.ensure_future(env.adeploy())
        await asyncio.to_thread(gate.wait_entered)
        gate.open()
        await deploying

    asyncio.run(main())
    assert env.get_service_status("svc")["state"] == "ready"


def test_adeploy_raises_what_deploy_raises(env):
    """`adeploy` raises the same error as `deploy`."""

    class Failing:
        def __init__(self):
            raise ValueError("no database")

    env.register_service("svc", Failing)
    with pytest.raises(errors.DeployError, match="no database"):
        asyncio.run(env.adeploy())


def test_names_of_the_public_interface(env, given):
    """`env.task` returns the ServiceTask, and no `repr` shows an argument's value."""
    env.register_service("svc", given, "a secret")
    assert isinstance(env.task("svc"), ServiceTask)
    assert env.task("svc") is env.task("svc")
    assert env.task("svc").service_name == "svc"
    for thing in (env, env.service("svc"), env.task("svc"), env.service_factories["svc"]):
        assert "a secret" not in repr(thing)
    call = env.service("svc").submit("process", "a secret")
    call.result(PATIENCE)
    assert repr(call) == "<Call svc.process finished>"
    assert isinstance(Environment("x").name, str)


# -- SAGE's dictionaries -----------------------------------------------------------------------------------------------


def response_to(task, **request):
    responses = queue.SimpleQueue()
    task.handle_request({"response_queue": responses, **request})
    return responses.get(timeout=PATIENCE)


def test_request_and_response(deploy, strategy):
    """The response to a request has SAGE's keys."""
    task = deploy(strategy).env.task("svc")
    response = response_to(
        task, request_id="r1", method_name="given", args=(1,), kwargs={"word": "w"}, service_name="svc"
    )
    assert set(response) == {"request_id", "result", "error", "success", "execution_time", "timestamp"}
    assert (response["request_id"], response["result"]) == ("r1", ((1,), {"word": "w"}))
    assert (response["error"], response["success"]) == (None, True)
    assert response["execution_time"] >= 0
    assert response["timestamp"] > 1_600_000_000
    assert response_to(task, method_name="echo")["request_id"] is None


def test_failed_request(deploy, strategy):
    """Whatever goes wrong with a request, its response has the error as text, and `handle_request` raises nothing."""

    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def fail(kind, *args):
        raise kind(*args)

    task = deploy(strategy).env.task("svc")
    for error, request in {
        "went wrong": {"method_name": "run", "args": (fail, ValueError, "went wrong")},
        "ValueError": {"method_name": "run", "args": (fail, ValueError)},
        "": {"method_name": "run", "args": (fail, UnprintableError)},
        "leaving": {"method_name": "run", "args": [fail, SystemExit, "leaving"]},
        "did you mean 'echo'": {"method_name": "ecco"},
        "life-cycle hook": {"method_name": "stop"},
        "stream": {"method_name": "items"},
        "timeout": {"method_name": "echo", "timeout": -1},
        "method_name": {},
    }.items():
        response = response_to(task, request_id=7, **request)
        assert (response["request_id"], response["success"], response["result"]) == (7, False, None)
        assert response["error"]
        assert error in response["error"]


def test_request_does_not_wait(deploy, threaded, gates):
    """`handle_request` returns at once, also with a full queue."""
    service = deploy(threaded, queue_size=1)
    task, responses, held = service.env.task("svc"), queue.SimpleQueue(), gates()
    for number in range(service.slots + 4):
        task.handle_request(
            {"request_id": number, "method_name": "run", "args": (held, number), "response_queue": responses}
        )
    assert responses.empty()
    held.open()
    answers = [responses.get(timeout=PATIENCE) for _ in range(service.slots + 4)]
    assert {(answer["request_id"], answer["result"]) for answer in answers} == {
        (number, number) for number in range(service.slots + 4)
    }


def test_request_has_a_deadline(deploy, threaded, gate):
    """A request's `timeout` ends it, although no thread waits for it."""
    task = deploy(threaded).env.task("svc")
    response = response_to(task, method_name="run", args=(gate,), timeout=SHORT)
    assert not response["success"]
    assert "gave no answer in 0.03 s" in response["error"]
    gate.open()


def test_request_to_a_stopped_service(deploy, strategy):
    """A request to a stopped service gets an error response."""
    service = deploy(strategy)
    task = service.env.task("svc")
    service.env.close()
    assert "svc" in response_to(task, method_name="echo")["error"]


def test_overloaded_request(deploy, threaded, occupy):
    """A request to a full queue gets an error response."""
    service = deploy(threaded, queue_size=0, overload="reject")
    occupied = occupy(service)
    assert "queue_size" in response_to(service.env.task("svc"), method_name="echo")["error"]
    occupied.open()


def test_task_factory_takes_a_context(env, given):
    """A task made with a context finds the services that the context finds."""

    class Asking:
        def ask(self):
            return self.ctx.service("svc").given()

    class Outer:
        def make(self):
            return ServiceTaskFactory(ServiceFactory("asking", Asking)).create_service_task(self.ctx)

    env.register_service("svc", given, 5)
    env.register_service("outer", Outer)
    task = env.service("outer").make()
    try:
        assert task.handle.ask() == ((5,), {})
    finally:
        task.stop()


@pytest.mark.parametrize("verb", ["call", "submit", "start", "acall", "stream", "astream"])
def test_handle_finds_a_service_that_was_deployed_again(env, verb):
    """A handle that has called before reaches its service after that was stopped and deployed again."""

    class Service:
        def get(self):
            return "answer"

        def items(self):
            yield "answer"

    async def first(items):
        return await anext(items)

    def use():
        if verb in ("call", "submit"):
            found = getattr(handle, verb)("get")
        elif verb == "start":
            found = handle.start("get", (), {})
        elif verb == "acall":
            found = asyncio.run(handle.acall("get"))
        elif verb == "stream":
            found = next(handle.stream("items"))
        else:
            found = asyncio.run(first(handle.astream("items")))
        return found.result(PATIENCE) if verb in ("submit", "start") else found

    env.register_service("svc", Service)
    handle = env.service("svc")
    assert use() == "answer"
    env.task("svc").stop()
    with pytest.raises(errors.ServiceStoppedError):
        use()
    env.deploy()
    assert use() == "answer"
    env.task("svc").stop()
    env.register_service("svc", Service)
    assert use() == "answer"


@pytest.mark.parametrize("strategy", ["single", "inline", "async"])
@pytest.mark.parametrize("verb", ["call", "submit", "acall", "stream", "astream"])
def test_errors_after_a_redeployment_do_not_mention_it(env, verb, strategy):
    """What a method raises has no trace of the handle's way to the service that was deployed again."""

    class Service:
        def fail(self):
            raise KeyError("k")

        def fail_later(self):
            raise KeyError("k")
            yield

    async def first(items):
        return await anext(items)

    def use():
        if verb == "call":
            handle.call("fail")
        elif verb == "submit":
            handle.submit("fail").result(PATIENCE)
        elif verb == "acall":
            asyncio.run(handle.acall("fail"))
        elif verb == "stream":
            next(handle.stream("fail_later"))
        else:
            asyncio.run(first(handle.astream("fail_later")))

    env.register_service_with_config("svc", Service, deployment_config={"threading_strategy": strategy})
    handle = env.service("svc")
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            use()
        assert caught.value.__context__ is None
        env.task("svc").stop()
        env.deploy()
