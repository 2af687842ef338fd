"""`sage-deploy plan`, run as a user runs it; what it says of a file that is not right, `up` says too."""

from __future__ import annotations

import json

import pytest

from command_line import sage_deploy
from things import deployment, write_things


@pytest.fixture
def folder(tmp_path):
    return write_things(tmp_path)


def test_plan_starts_nothing(folder):
    """`plan` imports the class and shows who decides what, but a constructor that fails is not run."""
    file = deployment(folder, "services: {failing: {class: 'things:Failing'}}\n")
    done = sage_deploy("plan", file, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "sage-deploy-local" in done.stdout
    assert "sage-deploy-threading" in done.stdout
    assert "Plan: 1 service, 1 replica to start." in done.stdout


def test_plan_as_json_is_for_programs(folder):
    file = deployment(
        folder, "services: {failing: {class: 'things:Failing', deployment: {threading_strategy: inline}}}\n"
    )
    done = sage_deploy("plan", file, "--json", cwd=folder)
    (service,) = json.loads(done.stdout)["services"]
    assert service["name"] == "failing"
    assert [decision["id"] for decision in service["decisions"]][:2] == ["local", "inline"]


def test_bad_file_is_answered_with_every_place(folder):
    """Exit code 2, one line for each problem with file, line and column, and no traceback."""
    file = deployment(
        folder,
        """\
        services:
          kv:
            class: things:Keeper
            deployment:
              thread_cout: 2
              replicas: none
        """,
    )
    done = sage_deploy("up", file, cwd=folder)
    assert done.returncode == 2
    assert f"{file}:5:7: error E101" in done.stderr
    assert "thread_count" in done.stderr
    assert f"{file}:6:17: error E102" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_plugin_refuses_has_its_place_too(folder):
    file = deployment(
        folder,
        """\
        services:
          kv:
            class: things:Keeper
            deployment:
              thread_count: 4
        """,
    )
    done = sage_deploy("plan", file, cwd=folder)
    assert done.returncode == 2
    assert f"{file}:5:21: error E301" in done.stderr


def test_unknown_id_and_class_are_bad_input(folder):
    file = deployment(folder, "services: {kv: {class: 'things:Nobody'}}\n")
    done = sage_deploy("plan", file, cwd=folder)
    assert done.returncode == 2
    assert "E703" in done.stderr
    assert "Nobody" in done.stderr
    file = deployment(folder, "services: {kv: {class: 'things:Keeper', target: remote_any}}\n")
    done = sage_deploy("plan", file, cwd=folder)
    assert done.returncode == 2
    assert "unknown target 'remote_any'" in done.stderr
    assert "sage-deploy[ray]" in done.stderr
