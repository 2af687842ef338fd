"""`sage-deploy up` gets a second signal while replicas in child processes run a call."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from itertools import islice
from pathlib import Path
from textwrap import dedent

import pytest

from command_line import PATIENCE
from killing import is_gone
from things import deployment

HUNG = """
    import ctypes
    import threading

    class Waiting:
        def hang(self):
            print("hanging", flush=True)
            threading.Event().wait()

    class Stuck:
        def hang(self):
            print("hanging", flush=True)
            ctypes.PyDLL(None).pause()  # a C function that keeps the interpreter to itself: no other thread runs

    class Caller:
        def __init__(self, ctx):
            self.ctx = ctx

        def start_running(self):
            self.calls = [self.ctx.service(name).submit("hang") for name in ("waiting", "stuck")]
"""

#: The calls never end, and `up` would wait an hour for them.
SERVICES = """
    services:
      waiting: {class: 'hung:Waiting', target: process, performance: {timeout: 3600, drain_timeout: 3600}}
      stuck: {class: 'hung:Stuck', target: process, performance: {timeout: 3600, drain_timeout: 3600}}
      caller: {class: 'hung:Caller'}
"""


def children(parent: int) -> set[int]:
    """Return the child processes of *parent* that it has not reaped."""
    found: set[int] = set()
    for task in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            found.update(map(int, (task / "children").read_text(encoding="ascii").split()))
    return found


@pytest.fixture
def replicas():
    """The ids of processes to kill after the test if they still run."""
    pids = set()
    yield pids
    for pid in pids:
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_child_is_left_when_a_second_signal_ends_up(tmp_path, running_up, replicas, number):
    """
    The first signal waits for calls that hang in children. After the second, `up` and all its children are gone.

    One of the children cannot notice by itself that the command has ended.
    """
    (tmp_path / "hung.py").write_text(dedent(HUNG))
    process = running_up(deployment(tmp_path, dedent(SERVICES)))
    hanging = (line for line in process.stdout if line == "hanging\n")
    assert len(list(islice(hanging, 2))) == 2
    process.send_signal(number)
    process.read_until("stopping ...")
    replicas |= children(process.pid)
    assert len(replicas) == 2
    assert not any(map(is_gone, replicas)), "the first signal ends nothing that runs"
    process.send_signal(number)
    code = process.wait(PATIENCE)  # not `communicate`, which also waits until the children close their pipes
    assert [pid for pid in replicas if not is_gone(pid)] == []
    _, err = process.communicate(timeout=PATIENCE)
    assert code == 130, err
    assert "Traceback" not in err
    assert err.endswith("interrupted\n")
