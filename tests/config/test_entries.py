"""Service names, and configurations given as mappings: read and refused as in a file."""

from __future__ import annotations

import pytest

from sage_deploy_files import read
from sage_plugins.config.entries import check_service_name, config_of, misplaced_key
from sage_plugins.config.service_config import ServiceDeploymentConfig
from sage_plugins.errors import ConfigError

#: The same configuration in every way to write it.
SAME = [
    {"threading_strategy": "pool", "timeout": "5s", "memory_mb": "1Gi"},
    {
        "deployment": {"threading_strategy": "pool"},
        "performance": {"timeout": "5000ms"},
        "resources": {"memory_mb": 1024},
    },
    {"deployment": {"threading_strategy": "pool"}, "timeout": 5, "memory_mb": "1024Mi"},
]


@pytest.mark.parametrize("given", SAME)
def test_mapping(given):
    """A mapping is read like an entry of a file: flat, in groups, with units."""
    assert config_of(given) == ServiceDeploymentConfig(threading_strategy="pool", timeout=5.0, memory_mb=1024)


def test_configuration_itself():
    """A configuration is returned unchanged."""
    config = ServiceDeploymentConfig(timeout=1.0)
    assert config_of(config) is config


@pytest.mark.parametrize("given", [None, [], "local", 3])
def test_neither(given):
    """Anything else is refused."""
    with pytest.raises(ConfigError, match="deployment_config must be a ServiceDeploymentConfig or a mapping, got"):
        config_of(given)


#: Wrong entries in YAML and in Python, and the keys of their problems.
WRONG = [
    ("{timeuot: 5}", {"timeuot": 5}, ["timeuot"]),
    ("{performance: {timeuot: 5}}", {"performance": {"timeuot": 5}}, ["performance.timeuot"]),
    ("{performance: {replicas: 5}}", {"performance": {"replicas": 5}}, ["performance.replicas"]),
    ("{performance: {health: {}}}", {"performance": {"health": {}}}, ["performance.health"]),
    ("{health: {retry: {min: 1}}}", {"health": {"retry": {"min": 1}}}, ["health.retry"]),
    ("{performance: 5}", {"performance": 5}, ["performance"]),
    ("{timeout: 5 s}", {"timeout": "5 s"}, ["timeout"]),
    ("{replicas: 2, load_balancing: false}", {"replicas": 2, "load_balancing": False}, ["replicas"]),
    (
        "{timeout: 0, deployment: {thread_count: x, targte: local}}",
        {"timeout": 0, "deployment": {"thread_count": "x", "targte": "local"}},
        ["deployment.targte", "thread_count", "timeout"],
    ),
]


@pytest.mark.parametrize(("text", "mapping", "keys"), WRONG)
def test_wrong(text, mapping, keys, tmp_path):
    """All mistakes of a mapping are reported at once, with the messages for a file."""
    with pytest.raises(ConfigError) as in_python:
        config_of(mapping)
    assert sorted(problem.key for problem in in_python.value.problems) == keys
    path = tmp_path / "services.yaml"
    path.write_text(f"services: {{kv: {text}}}\n")
    with pytest.raises(ConfigError) as in_file:
        read(path)
    for problem in in_python.value.problems:
        said = next(each for each in in_file.value.problems if each.key == problem.key)
        assert (said.id, said.message) == (problem.id, problem.message)
        # A file has the additional keys `class` and `init` among its suggestions.
        assert said.fix == problem.fix or "class, init" in said.fix


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"timeout": 5, "performance": {"timeout": 5}},
            "timeout: is set a second time (remove it here or from perform",
        ),
        ({5: 6}, "deployment_config: keys must be strings, got 5"),
        ({"health": {5: 6}}, "health: keys must be strings, got 5"),
        ({"class": "a:B"}, "unknown key 'class'"),
    ],
)
def test_wrong_in_python_only(given, message):
    """Mistakes that a file cannot have, or reports differently, are refused too."""
    with pytest.raises(ConfigError) as caught:
        config_of(given)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["echo", "kv_service", "front-2", "K", "a" * 63])
def test_good_name(name, tmp_path):
    """A valid name is accepted here and in a file."""
    check_service_name(name)
    path = tmp_path / "services.yaml"
    path.write_text(f"services: {{{name}: {{}}}}\n")
    assert list(read(path).services) == [name]


@pytest.mark.parametrize("name", ["my svc", "a/b", "line\nbreak", "", "2nd", "_x", "a.b", "\u00e9", "a" * 64, None, 5])
def test_bad_name(name):
    """Any other name is refused, and the error says what is valid."""
    with pytest.raises(ConfigError, match="is not the name of a service: use a letter, then at most 62 letters"):
        check_service_name(name)


def test_key_that_belongs():
    """Fields, groups and the caller's own keys belong at an entry's top level, and a field also in its group."""
    for name in ("timeout", "performance", "class"):
        assert misplaced_key(name, None, ("class", "init")) is None
    assert misplaced_key("timeout", "performance") is None
