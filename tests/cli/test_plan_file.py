"""A saved plan runs only if it would still do the same. It contains no secrets, and only its owner can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sage_deploy_cli.runs.plan_file import check_fresh, read_plan, save_plan
from sage_plugins import Environment, errors
from sage_plugins.planning.plan import comparable

FILE = "services: {kv: {class: 'builtins:dict', timeout: ${T:-5}}}"


@pytest.fixture
def plan_of(tmp_path):
    """Return a function that writes the file and plans it."""
    path = tmp_path / "services.yaml"

    def plan(text=FILE, running=None):
        path.write_text(text.replace("${T:-5}", '"${T:-5s}"'))
        env = Environment("plan")
        env.load_service_deployment_config(path)
        return env.plan(running)

    plan.path = path
    return plan


@pytest.fixture
def saved(tmp_path, plan_of):
    path = tmp_path / "first.plan"
    save_plan(path, plan_of(), plan_of.path, None)
    return read_plan(path)


def test_it_knows_its_file_and_profile(saved, plan_of):
    assert (saved.file, saved.profile) == (plan_of.path.resolve(), None)


def test_the_same_plan_is_fresh(saved, plan_of):
    check_fresh(saved, plan_of())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE.replace("${T:-5}", "6"), "services.kv.timeout: the plan is stale: 5.0 when it was made, 6.0 now"),
        (FILE.replace("dict", "list"), 'services.kv.class: the plan is stale: "builtins:dict" when it was made'),
        (FILE.replace("kv", "vdb"), 'services.vdb: the plan is stale: nothing when it was made, "add" now'),
        (
            FILE.replace("timeout", "replicas: 2, load_balancing: true, timeout"),
            'services.kv.replica kv#1: the plan is stale: nothing when it was made, "this process" now',
        ),
        (
            FILE.replace("dict'", "dict', init: {kwargs: {a: 1}}"),
            "services.kv.init.kwargs.a: the plan is stale: nothing when it was made",
        ),
    ],
)
def test_another_file_makes_it_stale_and_each_difference_is_said(saved, plan_of, text, words):
    """If the file has changed, the plan is stale, and each difference is named."""
    with pytest.raises(errors.PlanError) as caught:
        check_fresh(saved, plan_of(text))
    assert words in str(caught.value)
    assert f"{saved.path}:1:1: error E805: " in str(caught.value)
    assert {problem.id for problem in caught.value.problems} == {"E805"}


def test_another_environment_makes_it_stale(saved, plan_of, monkeypatch):
    """If a variable of the environment has changed, the plan is stale."""
    monkeypatch.setenv("T", "9s")
    with pytest.raises(errors.PlanError, match=r"services\.kv\.timeout"):
        check_fresh(saved, plan_of())


def test_what_runs_meanwhile_makes_it_stale(saved, plan_of):
    """If a service has been deployed since, the plan is stale."""
    with pytest.raises(errors.PlanError, match=r'services\.kv\.action: .*"add" when it was made, "keep" now'):
        check_fresh(saved, plan_of(running={"kv": comparable(plan_of().services[0])}))


def test_other_spellings_of_the_same_do_not_make_it_stale(saved, plan_of):
    """Another spelling of the same settings does not make the plan stale."""
    check_fresh(saved, plan_of("defaults: {timeout: 5}\nservices:\n  kv:\n    class: builtins:dict\n"))


def test_only_its_owner_can_read_it_and_nothing_is_left_beside_it(saved, tmp_path):
    """Only the owner can read the plan file, and no temporary file is left."""
    assert saved.path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.plan", "services.yaml"]


def test_a_deployment_file_is_no_plan(plan_of):
    """A deployment file is not taken for a plan file."""
    plan_of()
    assert read_plan(plan_of.path) is None
    assert read_plan(plan_of.path.with_name("missing")) is None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda text: text[: len(text) // 2], "E110"),
        (lambda text: text.replace('"sage_deploy_plan": 1', '"sage_deploy_plan": 2'), "E103"),
        (lambda text: text.replace('"essence"', '"other"'), "E110"),
        (lambda _: '{"sage_deploy_plan":' + "[" * 100_000, "E110"),
    ],
)
def test_a_damaged_one_is_refused(saved, change, rule):
    """A damaged plan file, or one of another version, is refused."""
    saved.path.write_text(change(saved.path.read_text()))
    with pytest.raises(errors.ConfigError, match=f"error {rule}: .*plan again"):
        read_plan(saved.path)


def test_a_plan_that_cannot_be_written_leaves_the_old_one(saved, plan_of, monkeypatch):
    """If writing fails, the old plan file stays."""
    before = saved.path.read_text()
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_plan(saved.path, plan_of(), plan_of.path, None)
    assert saved.path.read_text() == before
    assert len(list(saved.path.parent.iterdir())) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": ["busy"]},
        {"profile": 5},
        {"file": "a\0b"},
        {"file": "\ud800"},
        {"file": None},
        {"essence": {"kv": 5}},
        {"essence": {"kv": [["timeout", 1]]}},
        {"essence": ["kv"]},
    ],
    ids=str,
)
def test_one_that_was_edited_into_nonsense_is_damaged(saved, changes):
    """A plan file with wrong types is refused as damaged."""
    saved.path.write_text(json.dumps(json.loads(saved.path.read_text()) | changes))
    with pytest.raises(errors.ConfigError, match="error E110: the plan file is damaged"):
        read_plan(saved.path)


def test_a_plan_of_thousands_of_services_can_be_executed(tmp_path, plan_of):
    """A plan of a thousand services can be saved, read and checked."""
    path = tmp_path / "many.plan"
    plan = plan_of("services:\n" + "".join(f"  kv{number}: {{class: 'builtins:dict'}}\n" for number in range(1000)))
    save_plan(path, plan, plan_of.path, None)
    check_fresh(read_plan(path), plan)


def test_a_plan_that_would_be_too_large_to_execute_is_not_written(tmp_path, plan_of, monkeypatch):
    """A plan larger than `up` accepts is not written."""
    monkeypatch.setattr("sage_deploy_cli.runs.plan_file._MAX_BYTES", 100)
    with pytest.raises(OSError, match="`up` takes 100 at most"):
        save_plan(tmp_path / "large.plan", plan_of(), plan_of.path, None)
