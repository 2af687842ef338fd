"""`sage-deploy chaos`: its arguments, its output and its exit codes."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from command_line import PATIENCE, SCRIPT, sage_deploy, surroundings

FILE = """
options:
  server: {http: 1}
services:
  kv:
    class: shop:KV
    init: {kwargs: {secret: 1}}
    replicas: 2
    threading_strategy: pool
    thread_count: 2
    methods: {query: {timeout: 3}}
  unused:
    class: shop:Unused
  registered_in_code: {}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "cut.jsonl").write_text(
        '{"t": 0, "event": "start", "version": 1, "services": {}, "slack": 1, "seconds": 1}\n{"t": 1, "event": "ok"}\n'
    )
    return tmp_path


def test_services_are_tried_without_a_line_of_their_own_code(folder):
    """
    Chaos never imports the service's class: it does not even exist here.

    The verdict is one JSON object, and `--check` gives the same verdict from the history.
    """
    arguments = ["--service", "kv", "--minutes", "0.03", "--seed", "5", "--history", "h.jsonl", "-o", "json"]
    done = sage_deploy("chaos", "file.yaml", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["version"], verdict["clean"], verdict["seed"]) == (1, True, 5)
    assert list(verdict["services"]) == ["kv"]
    assert verdict["outcomes"]["ok"] > 0
    assert verdict["impossible"]["kill"] == {"kv": "its replicas are in this process"}

    again = sage_deploy("chaos", "--check", "h.jsonl", "-o", "json", cwd=folder)
    assert json.loads(again.stdout) == verdict


def test_pairs_happen_for_so_long_each(folder):
    """With `--pairs SECONDS`, each pair of actions gets this many seconds."""
    arguments = ["--service", "kv", "--actions", "raise,slow,scale", "--pairs", "0.5", "-o", "json"]
    done = sage_deploy("chaos", "file.yaml", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert (len(verdict["pairs"]), verdict["seconds"]) == (3, 1.5)
    assert verdict["pairs"][0].keys() == {"actions", "service", "missed"}


def test_violation_is_shown_and_has_exit_code_1(folder):
    """A violation is printed, with control characters escaped, and the exit code is 1."""
    lines = [
        {"t": 0, "event": "start", "version": 1, "seed": 1, "seconds": 1, "slack": 1, "services": {}},
        {"t": 1, "event": "leak", "text": "thread \x1b[31m"},
        {"t": 2, "event": "end"},
    ]
    (folder / "h.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = sage_deploy("chaos", "--check", "h.jsonl", cwd=folder)
    assert done.returncode == 1
    assert done.stdout.startswith("verdict    1 violation: 0 lost,")
    assert "leaked     thread \\x1b[31m\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a FILE to deploy, or --check"),
        (["file.yaml", "--check", "file.yaml"], "give a FILE to deploy, or --check"),
        (["file.yaml", "--actions", "kil"], "did you mean 'kill'?"),
        (["file.yaml", "--service", "kw"], "there are kv, unused"),
        (["file.yaml", "--minutes", "0"], "--minutes"),
        (
            ["file.yaml", "--pairs", "5", "--kill-every", "3"],
            "--pairs says how long each pair has: leave out --kill-every",
        ),
        (["none.yaml"], "none.yaml"),
        (["file.yaml", "--history", "no/such/folder"], "cannot be written: No such file"),
        (["--check", "cut.jsonl"], "an event lacks 'call'"),
        (["--check", "file.yaml"], "file.yaml:1: is no JSON"),
    ],
)
def test_bad_usage_has_exit_code_2_and_starts_nothing(folder, arguments, said):
    """Bad usage ends with exit code 2 and an error on stderr, before anything starts."""
    done = sage_deploy("chaos", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_interrupt_ends_it_in_order_with_the_verdict_so_far(folder):
    """Ctrl-C ends the run in order, with exit code 0 and the verdict so far."""
    process = subprocess.Popen(
        # Actions that are over at once: the run ends in order, so it waits for what has begun.
        [SCRIPT, "chaos", "file.yaml", "--service", "kv", "--minutes", "30", "--actions", "raise,slow"],
        cwd=folder,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (line := process.stderr.readline()).startswith("accidents happen"):
            assert line, process.wait()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, out + err
    assert "interrupted, seed " in out
