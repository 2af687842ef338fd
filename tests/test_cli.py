"""The command line, run as a user runs it: in a process of its own, from another folder, by its installed script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "stdlib_search" / "service_deployment.yaml"
PATIENCE = 50

SERVICES = """
    class Counter:
        def __init__(self, start):
            self.value = start

        def process(self):
            self.value += 1
            return f"counted to {self.value}"


    class Keeper:
        def process(self, key):
            return key


    class Failing:
        def __init__(self):
            raise ValueError("no luck")


    class Stopping:
        def stop(self):
            print("stop hook ran", flush=True)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "things.py").write_text(dedent(SERVICES))
    return tmp_path


def deployment(folder, text):
    file = folder / "service_deployment.yaml"
    file.write_text(dedent(text))
    return file


def sage_deploy(*arguments, cwd):
    script = Path(sys.executable).with_name("sage-deploy")
    return subprocess.run(
        [script, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_up_once_runs_the_job_shows_the_status_and_ends(folder):
    """Data goes to stdout, progress to stderr; only a `process` that needs no argument is called."""
    file = deployment(
        folder,
        """\
        services:
          counter:
            class: things:Counter
            init: {args: [41]}
          keeper:
            class: things:Keeper
        """,
    )
    done = sage_deploy("up", file, "--once", cwd="/")
    assert done.returncode == 0, done.stderr
    assert "counted to 42" in done.stdout
    assert "keeper.process()" not in done.stdout + done.stderr
    table = done.stdout[done.stdout.index("SERVICE") :].splitlines()
    assert table[1].split()[:5] == ["counter", "ready", "1/1", "1", "0"]
    assert table[2].split()[:5] == ["keeper", "ready", "1/1", "0", "0"]
    assert "all ready after" in done.stderr
    assert "all ready after" not in done.stdout


def test_up_runs_the_example_on_the_real_library(tmp_path):
    """The main job: thousands of docstrings of the installed Python are indexed, and questions find their answers."""
    done = sage_deploy("up", EXAMPLE, "--once", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gzip.compress" in done.stdout
    assert "tempfile.TemporaryDirectory" in done.stdout
    assert "reading modules" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_until_a_signal_and_drains(folder, number):
    """Without --once the services run until SIGINT or SIGTERM; then they are stopped, and the exit code is 0."""
    file = deployment(folder, "services: {stopping: {class: 'things:Stopping'}}\n")
    script = Path(sys.executable).with_name("sage-deploy")
    with subprocess.Popen(
        [script, "up", file], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "press Ctrl-C" in line:
                break
        os.kill(running.pid, number)
        out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, err
    assert "stop hook ran" in out
    assert "Traceback" not in err


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


def test_failing_constructor_is_a_failure_not_bad_input(folder):
    file = deployment(folder, "services: {failing: {class: 'things:Failing'}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 1
    assert "while constructing service 'failing' replica 0: ValueError: no luck" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_usage_has_exit_code_2(folder):
    done = sage_deploy("up", cwd=folder)
    assert done.returncode == 2
    assert "Usage" in done.stderr
