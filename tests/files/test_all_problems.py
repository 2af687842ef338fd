"""Every problem of a file is reported at once. A wrong value hides no other problem and causes none."""

from __future__ import annotations

import textwrap

import pytest

import deployment_files
from sage_deploy_files.reading.reader import examine
from sage_plugins import Environment
from sage_plugins.errors import ConfigError

#: Wrong values of all kinds. Each is added to a service whose strategy, class and method are wrong too.
WRONG = {
    "a unit": "performance: {timeout: 5 s}",
    "a type": "deployment: {replicas: two}",
    "a range": "deployment: {replicas: 0}",
    "a group": "performance: [5]",
    "an unknown key": "performance: {timout: 5}",
    "a key in another group": "health: {timeout: 5}",
    "a variable": "performance: {timeout: '${NOT_SET}'}",
    "a tag": "performance: {timeout: !!int 5}",
    "two that disagree": "health: {health_check_interval: 1s, health_check_timeout: 5s}",
    "a method's": "methods: {find: {timeout: 5 s}}",
    "a plugin's": "options: {events: 5}",
    "init": "init: [fiction]",
    "an argument": "init: {kwargs: {name: '${NOT_SET}'}}",
}


@pytest.fixture
def check(tmp_path):
    """Return the rules that a file breaks, each with the key of the value."""

    def check(text):
        (tmp_path / "services.yaml").write_text(textwrap.dedent(text))
        with deployment_files.surroundings(tmp_path), Environment("all", registry=deployment_files._registry()) as env:
            return [(problem.id, problem.key) for problem in env.check("services.yaml")]

    return check


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_value_hides_nothing_and_blames_nothing_else(check, wrong):
    """A wrong value adds exactly one problem; plugins and classes report the same about the other values."""
    first = ["class: 'bookshop:Shelf'", "threading_strategy: pol", "monitors: [metrics, heath]"]
    expected = {("E207", "threading_strategy"), ("E207", "monitors.1"), ("E703", "class"), ("E301", "thread_count")}
    if not wrong.startswith("methods"):
        first.append("methods: {finds: {timeout: 5}}")
        expected.add(("E505", "methods.finds"))
    if not wrong.startswith("init"):
        first.append("init: {args: [fiction]}")
    second = "  second: {class: 'bookshop:Nothing', thread_count: 4}\n"
    found = check(f"services:\n  first: {{{', '.join([*first, wrong])}}}\n{second}")
    if not wrong.startswith("init"):
        assert set(check(f"services:\n  first: {{{', '.join(first)}}}\n{second}")) == expected
    assert len(found) == len(expected) + 1
    assert expected < set(found)


@pytest.mark.parametrize(
    ("field", "others"),
    [
        ("target: 5", "target_nodes: [a], cpu_cores: 2, memory_mb: 5"),
        ("threading_strategy: 5", "thread_count: 4, max_concurrency: 7"),
        ("monitors: 5", "failure_threshold: 7"),
        ("target_nodes: 5", "target: remote_specific"),
        ("replicas: '2'", "load_balancing: true, load_balancer: random"),
    ],
)
def test_nothing_is_said_of_the_default_in_a_wrong_values_place(check, field, others):
    """A field with a wrong value is not checked with its default: nothing is missing, and no other plugin complains."""
    found = check(f"services: {{first: {{class: 'bookshop:Counter', {field}, {others}}}}}\n")
    assert [problem for problem in found if problem[0].startswith("E")] == [("E102", field.partition(":")[0])]


def test_the_other_methods_and_options_are_checked(check):
    """A wrong entry of `methods` or `options` is one problem, and the other entries are still checked."""
    found = check(
        """
        services:
          first:
            class: bookshop:Shelf
            init: {args: [fiction]}
            methods: {find: {timeout: 5 s}, nothing: {timeout: 5}}
            options: {pool: 7, events: {sise: 5}}
        """
    )
    assert found == [
        ("E102", "methods.find.timeout"),
        ("E102", "options.pool"),
        ("E505", "methods.nothing"),
        ("E101", "options.events.sise"),
    ]


@pytest.mark.parametrize("name", deployment_files.names(deployment_files.BAD))
def test_reading_on_finds_what_reading_finds(name):
    """Every bad file can be read on into configurations. The problems of reading come first, each once."""
    with deployment_files.surroundings(deployment_files.BAD):
        profile = deployment_files.profile_of(deployment_files.BAD / name)
        file = examine(name, profile=profile)
        for entry in file.services.values():
            entry.config()
        with Environment("all", registry=deployment_files._registry()) as env:
            problems = env.check(name, profile=profile)
            if any(problem.severity == "error" for problem in file.problems):
                with pytest.raises(ConfigError) as refused:
                    env.load_service_deployment_config(name, profile=profile)
                assert refused.value.problems == file.problems
    assert problems[: len(file.problems)] == list(file.problems)
    assert len(set(problems)) == len(problems)
