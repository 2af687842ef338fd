"""Applying a configuration: what is new starts, what changed is replaced, what is gone stops, the rest goes on."""

from __future__ import annotations

import pytest

from sage_plugins import ServiceDeploymentConfig, errors

MODULE = """\
class Echo:
    made = []

    def __init__(self, name="echo", fails=False):
        if fails:
            raise ValueError("cannot be made")
        self.name = name
        Echo.made.append(name)

    def who(self):
        return self.name

    def run(self, function):
        return function()
"""


@pytest.fixture
def load(env, tmp_path, monkeypatch):
    """Write the file anew and load it."""
    (tmp_path / "applied.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def load(text):
        file = tmp_path / "services.yaml"
        file.write_text(text)
        env.load_service_deployment_config(file)

    return load


def entry(name, extra=""):
    return f"  {name}: {{class: 'applied:Echo', init: {{kwargs: {{name: {name}{extra}}}}}}}\n"


def test_what_is_new_starts_what_is_gone_stops_and_the_rest_goes_on(env, load):
    load("services:\n" + entry("one") + entry("two"))
    env.apply()
    one, two = env.task("one"), env.task("two")
    load("services:\n" + entry("one") + entry("three"))
    env.apply()
    assert env.task("one") is one
    assert one.state == "ready"
    assert two.state == "stopped"
    assert env.service("three").who() == "three"
    with pytest.raises(errors.ServiceNotFoundError):
        env.service("two")


def test_what_changed_is_started_anew_before_the_old_one_stops(env, load):
    """A handle that was there before goes on with the new one; calls that the old one has accepted are finished."""
    load("services:\n" + entry("one"))
    handle = env.service("one")
    assert handle.who() == "one"
    old = env.task("one")
    load("services:\n  one: {class: 'applied:Echo', init: {kwargs: {name: other}}}\n")
    env.apply()
    assert old.state == "stopped"
    assert handle.who() == "other"
    assert not env.plan().has_changes


def test_calls_of_the_old_one_are_finished(env, load, gate, in_thread):
    load("services:\n" + entry("one"))
    running = env.service("one").submit("run", gate)
    gate.wait_entered()
    load("services:\n" + entry("one") + "defaults: {timeout: 7}\n")
    applied = in_thread(env.apply)
    while env.get_service_status("one")["deployment_config"].timeout != 7:
        assert not applied.done()
    assert env.service("one").who() == "one"
    gate.open()
    assert running.result(20) is None
    assert applied.result(20) is None


def test_a_new_one_that_does_not_start_leaves_the_old_one(env, load):
    load("services:\n" + entry("one"))
    env.apply()
    load("services:\n" + entry("one", ", fails: true"))
    with pytest.raises(errors.DeployError, match="cannot be made"):
        env.apply()
    assert env.service("one").who() == "one"
    assert env.get_service_status("one")["state"] == "ready"
    assert [each.action for each in env.plan().services] == ["change"]


def test_what_cannot_be_composed_changes_nothing(env, load):
    load("services:\n" + entry("one"))
    env.apply()
    load("services:\n" + entry("two") + "  three: {class: 'applied:Nobody'}\n")
    with pytest.raises(errors.ConfigError, match="E703"):
        env.apply()
    assert list(env.running()) == ["one"]
    assert env.get_service_status("one")["state"] == "ready"


def test_a_file_with_mistakes_takes_nothing_away(env, load):
    load("services:\n" + entry("one"))
    env.apply()
    with pytest.raises(errors.ConfigError):
        load("services:\n  one: {replicas: 0}\n")
    assert not env.plan().has_changes


def test_services_registered_in_code_stay(env, load):
    env.register_service_with_config("kv", dict, deployment_config=ServiceDeploymentConfig(timeout=3))
    load("services:\n" + entry("one"))
    env.apply()
    load("services: {}")
    env.apply()
    assert list(env.running()) == ["kv"]


def test_another_file_is_another_set_of_services(env, load, tmp_path):
    """Loading one again forgets its own entries only."""
    load("services:\n" + entry("one"))
    other = tmp_path / "other.yaml"
    other.write_text("services:\n" + entry("two"))
    env.load_service_deployment_config(other)
    load("services:\n" + entry("three"))
    assert [each.name for each in env.plan().services] == ["two", "three"]


def test_number_and_balancer_that_were_changed_by_hand_are_set_back(env, load):
    load("services:\n" + entry("one"))
    env.apply()
    env.scale("one", 3)
    env.apply()
    assert len(env.get_service_status("one")["replicas"]) == 1


def test_a_closed_environment_applies_nothing(env, load):
    load("services:\n" + entry("one"))
    env.close()
    with pytest.raises(errors.ServiceStoppedError):
        env.apply()
