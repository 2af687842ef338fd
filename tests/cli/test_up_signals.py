"""Signals end `sage-deploy up` in order, at any time."""

from __future__ import annotations

import os
import signal
import subprocess
from textwrap import dedent

import pytest

from command_line import PATIENCE, SCRIPT
from things import deployment

STARTING = """
    import threading

    class First:
        def stop(self):
            print("stop hook ran", flush=True)

    class Second:
        def __init__(self):
            threading.Event().wait(3)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_services_start_stops_those_that_have_started(folder, number):
    """A signal during the start stops the services that have started, and exits with 130, as Ctrl-C does."""
    (folder / "starting.py").write_text(dedent(STARTING))
    file = deployment(folder, "services: {first: {class: 'starting:First'}, second: {class: 'starting:Second'}}\n")
    with subprocess.Popen(
        [SCRIPT, "up", file], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        for line in running.stderr:
            if "first#0 ready" in line:
                break
        running.send_signal(number)
        out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, err
    assert "stop hook ran" in out
    assert err.endswith("interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_terminal_that_is_closed_ends_it_in_order(folder, running_up):
    """SIGHUP from a closed terminal stops the services in order."""
    process = running_up(deployment(folder, "services: {stopping: {class: 'things:Stopping'}}\n"))
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "stop hook ran" in out


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_under_nohup_it_survives_its_terminal(folder):
    """Under nohup, `up` ignores SIGHUP."""
    file = deployment(folder, "services: {stopping: {class: 'things:Stopping'}}\n")
    with subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" HUP; exec "$0" up "$1"', SCRIPT, file],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        for line in running.stderr:
            if "press Ctrl-C" in line:
                break
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, err
    assert "stop hook ran" in out


DRAINING = """
    import signal
    import threading

    class Slow:
        def hang(self):
            print("hanging", flush=True)
            threading.Event().wait()

        def stop(self):
            print("stop hook ran", flush=True)

    class Caller:
        def __init__(self, ctx):
            self.ctx = ctx

        def start_running(self):
            self.ctx.service("slow").submit("hang")

    class Listening:
        pass

    def listen(number, frame):
        print("own handler called", flush=True)
        raise SystemExit(7)

    signal.signal(signal.SIGTERM, listen)
"""

#: Its only call never ends, and `up` would wait an hour for it.
SLOW = """
    services:
      slow: {class: 'draining:Slow', performance: {timeout: 3600, drain_timeout: 3600}}
      caller: {class: 'draining:Caller'}
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)],
)
def test_second_signal_does_not_wait_for_calls(folder, running_up, first, second):
    """A second signal stops `up` without waiting for calls, with exit code 130 and no traceback."""
    (folder / "draining.py").write_text(dedent(DRAINING).replace("signal.signal(", "print("))
    process = running_up(deployment(folder, dedent(SLOW)))
    process.send_signal(first)
    for line in process.stderr:
        if "stopping ..." in line:
            break
    process.send_signal(second)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "slow#0 stopped: 1 call still runs" in err
    assert "Traceback" not in err
    assert err.endswith("interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_handler_of_the_services_code_is_called_as_well(folder, running_up):
    """A signal handler set by the services' code also runs. Its exception changes nothing: the exit code is 0."""
    (folder / "draining.py").write_text(dedent(DRAINING))
    process = running_up(deployment(folder, "services: {listening: {class: 'draining:Listening'}}\n"))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.count("own handler called") == 1
    assert "listening#0 stopped" in err
    assert "Traceback" not in err
