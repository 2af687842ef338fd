"""`sage-deploy up` as a user runs it: the installed script, in its own process, from another folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from textwrap import dedent

import pytest
from click.testing import CliRunner

from command_line import PATIENCE, ROOT, SCRIPT, sage_deploy
from sage_deploy_cli.commands import up
from sage_deploy_cli.runs.plan_file import save_plan
from sage_plugins import Environment
from sage_plugins.errors import DeployError, PlanError
from things import deployment

EXAMPLE = ROOT / "examples" / "stdlib_search" / "service_deployment.yaml"


@pytest.mark.wheels
def test_up_once_runs_the_job_shows_the_status_and_ends(folder):
    """
    `up --once` prints data to stdout and progress to stderr, and calls only a `process` without required arguments.
    """
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
    """The example indexes the docstrings of the installed Python, and its questions find answers."""
    done = sage_deploy("up", EXAMPLE, "--once", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gzip.compress" in done.stdout
    assert "tempfile.TemporaryDirectory" in done.stdout
    assert "reading modules" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_until_a_signal_and_drains(folder, number):
    """Without `--once`, `up` runs until SIGINT or SIGTERM, then stops the services and exits with 0."""
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
    """A constructor that raises gives exit code 1, not 2, and no traceback."""
    file = deployment(folder, "services: {failing: {class: 'things:Failing'}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 1
    assert "while constructing service 'failing' replica 0: ValueError: no luck" in done.stderr
    assert "Traceback" not in done.stderr


LOST = """
    class Word:
        process = "no method"


    class Lost:
        def __init__(self, ctx):
            self.ctx = ctx

        def process(self):
            return self.ctx.service("word").call("no_such_method")
"""


def test_a_job_that_looks_for_a_method_in_vain_has_failed(folder):
    """A job that raises MethodNotFoundError has failed, although a missing `process` raises the same error."""
    (folder / "jobs.py").write_text(dedent(LOST))
    file = deployment(folder, "services: {lost: {class: 'jobs:Lost'}, word: {class: 'jobs:Word'}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 1
    assert "MethodNotFoundError" in done.stderr


# -- waiting -----------------------------------------------------------------------------------------------------------


HEALTH = """
    class Slow:
        asked = 0

        def check_ready(self):
            Slow.asked += 1
            return Slow.asked > 3

        def process(self):
            return f"asked {Slow.asked} times"


    class Sick:
        def check_health(self):
            raise RuntimeError("no disk")
"""


def test_wait_goes_on_once_every_replica_is_well(folder):
    """`--wait` waits until every replica is healthy, and says so before the job's result."""
    (folder / "health.py").write_text(dedent(HEALTH))
    file = deployment(folder, "services: {slow: {class: 'health:Slow', monitors: [metrics]}}\n")
    done = sage_deploy("up", file, "--once", "--wait", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "all healthy after" in done.stderr
    assert "asked 4 times" in done.stdout


def test_wait_ends_with_4_and_the_reason_if_a_replica_does_not_get_well(folder):
    """If a replica does not become healthy in time, `--wait` exits with 4 and the reason."""
    (folder / "health.py").write_text(dedent(HEALTH))
    file = deployment(folder, "services: {sick: {class: 'health:Sick', startup_timeout: 500ms}}\n")
    done = sage_deploy("up", file, "--once", "--wait", cwd=folder)
    assert done.returncode == 4
    assert "service 'sick' replica 0 did not pass check_health() in time: RuntimeError: no disk" in done.stderr
    assert "sick#0 stopped" in done.stderr
    assert "Traceback" not in done.stderr


# -- beside each other -------------------------------------------------------------------------------------------------


@pytest.fixture
def invoke(monkeypatch):
    """Run `up` in this process; return the result with exception and output."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # `up` adds to it
    return lambda *arguments: CliRunner().invoke(up.command, [str(each) for each in arguments])


def test_a_second_copy_is_started_only_if_asked_for(folder, running_up, invoke, monkeypatch):
    """
    `up` refuses a file or plan that another process runs, and names the process. `--another` starts a second copy.
    """
    file = deployment(folder, "services: {queue: {class: 'queue:Queue'}}\n")
    with Environment("first") as env:
        env.load_service_deployment_config(file)
        save_plan(folder / "first.plan", env.plan(), file, None)
    first = running_up(file)
    words = f"process {first.pid} runs {file} already"
    refused = invoke(file, "--once")
    assert isinstance(refused.exception, DeployError)
    assert words in str(refused.exception)
    assert "Plan:" not in refused.output
    assert isinstance(invoke(folder / "first.plan", "--once").exception, PlanError)
    # If two start at once, one takes the record while the other reads the file.
    with monkeypatch.context() as patch:
        patch.setattr(up, "_refuse_second", lambda file: None)
        refused = invoke(file, "--once")
    assert words in str(refused.exception)
    assert "Plan:" in refused.output
    assert "queue#0 starting" not in refused.output
    for what in (file, folder / "first.plan"):
        started = invoke(what, "--once", "--another")
        assert started.exit_code == 0, started.output
        assert words in started.output
        assert "queue#0 ready" in started.output


def test_up_says_who_can_call_and_once_that_there_is_no_job(folder, running_up):
    """`up` says how to call the services; `--once` says if there is no job."""
    file = deployment(folder, "services: {keeper: {class: 'things:Keeper'}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert "no service has a method process() without arguments" in done.stderr
    assert "in another terminal: sage-deploy status" in running_up(file).said


def test_services_run_also_where_nothing_can_be_noted(folder):
    """If the record cannot be written, the services still run, with a warning."""
    file = deployment(folder, "services: {counter: {class: 'things:Counter', init: {args: [1]}}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder, XDG_STATE_HOME="/proc/none")
    assert done.returncode == 0, done.stderr
    assert "what runs here cannot be noted" in done.stderr


def test_progress_tells_of_each_replica(folder):
    """Progress shows each replica's start, readiness and stop."""
    file = deployment(
        folder,
        "services: {keeper: {class: 'things:Keeper', replicas: 2, load_balancing: true}}\n",
    )
    done = sage_deploy("up", file, "--once", cwd=folder)
    for words in ("keeper#0 starting", "keeper#0 ready", "keeper#1 ready", "keeper#1 stopped"):
        assert words in done.stderr.splitlines()


# -- what --once calls -------------------------------------------------------------------------------------------------


JOBS = """
    import functools

    class Number:
        process = 5

    class OfC:
        process = functools.partial(int, "5")

    class Static:
        @staticmethod
        def process():
            return "static answer"

    class StaticWithArgument:
        @staticmethod
        def process(key):
            return key

    class OfClass:
        @classmethod
        def process(cls, key):
            return key

    class Object:
        class Callable:
            def __call__(self):
                return "answer of an object"

        process = Callable()

    class Items:
        def process(self):
            yield "first item"
            yield "second item"
"""


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("Number", None),
        ("OfC", None),
        ("Static", "static answer"),
        ("StaticWithArgument", None),
        ("OfClass", None),
        ("Object", "answer of an object"),
        ("Items", "first item\nsecond item"),
    ],
)
def test_once_calls_whatever_is_served_as_process_and_needs_no_argument(folder, name, answer):
    """`--once` calls any `process` that is served and needs no argument; of a generator it prints all items."""
    (folder / "jobs.py").write_text(dedent(JOBS))
    file = deployment(folder, f"services: {{job: {{class: 'jobs:{name}'}}}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 0, done.stderr
    if answer is None:
        assert "job.process()" not in done.stdout + done.stderr
    else:
        assert f"\n\n{answer}\n\n" in done.stdout
