"""The demo with a killed node works as described and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import uuid

import psutil
import pytest

from command_line import ROOT, surroundings

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(200)]

DEMO = ROOT / "examples" / "stdlib_search_on_ray" / "demo.py"
PATIENCE = 150


def test_demo_answers_survives_its_killed_node_and_ends_by_itself(tmp_path):
    """The demo, run as `make demo-ray` runs it, answers, survives its killed node, and leaves no process or file."""
    mark = uuid.uuid4().hex
    done = subprocess.run(
        [sys.executable, DEMO],
        env=surroundings(HOME=tmp_path, DEMO_MARK=mark),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "replica   reader#0 -> node-a" in done.stdout
    assert "replica   index#0 -> this process" in done.stdout
    assert "gzip.compress" in done.stdout
    killed = done.stdout.partition("\nkilled node-a ")[2]
    assert "reader#0  replica failed" in killed
    assert "reader#0.1  replica ready" in killed
    assert "calls that may run twice: 0" not in killed
    assert ", 0 failed\ncalls that may run only once: " in killed
    assert "reader#0.1 ready    on node-c" in killed
    assert "2 of 2 replicas are ready" in killed
    assert not (tmp_path / ".ray").exists()
    assert [process for process in psutil.process_iter() if mark in _variables(process)] == []


def _variables(process):
    try:
        return process.environ().values()
    except psutil.Error:  # it has ended, or belongs to another user
        return ()
