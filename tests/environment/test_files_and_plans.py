"""A file and registrations in code together say what is deployed. The plan says it, and starts nothing."""

from __future__ import annotations

import json
import textwrap
import threading
from importlib import metadata

import pytest

from sage_plugins import (
    ServiceDeploymentConfig,
    errors,
)


@pytest.fixture
def deployment_file(tmp_path):
    """Writes a deployment file and returns its path."""

    def write(text, name="service_deployment.yaml"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


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
