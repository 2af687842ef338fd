"""`sage-deploy up`, run as a user runs it: in a process of its own, from another folder, by its installed script."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from command_line import PATIENCE, ROOT, SCRIPT, sage_deploy
from things import deployment, write_things

EXAMPLE = ROOT / "examples" / "stdlib_search" / "service_deployment.yaml"


@pytest.fixture
def folder(tmp_path):
    return write_things(tmp_path)


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
    with subprocess.Popen(
        [SCRIPT, "up", file], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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


def test_failing_constructor_is_a_failure_not_bad_input(folder):
    file = deployment(folder, "services: {failing: {class: 'things:Failing'}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 1
    assert "while constructing service 'failing' replica 0: ValueError: no luck" in done.stderr
    assert "Traceback" not in done.stderr
