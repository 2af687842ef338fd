"""`sage-deploy up --watch` applies what changes in the file, also while services start."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from command_line import PATIENCE, SCRIPT, sage_deploy
from sage_deploy_cli.commands import up
from sage_deploy_cli.signal_wait import signals_wake
from things import deployment

# -- watching ----------------------------------------------------------------------------------------------------------


def test_watch_applies_a_changed_file_and_survives_a_broken_one(folder, running_up):
    """`--watch` applies a changed file, and keeps the services running while the file is broken."""
    file = deployment(folder, "services: {keeper: {class: 'things:Keeper'}}\n")
    process = running_up(file, "--watch")
    deployment(folder, "services: {keeper: {class: 'things:Keeper', timeout: 5}, new: {class: 'things:Keeper'}}\n")
    assert "new#0 ready" in process.read_until("applied")
    deployment(folder, "services: {keeper: {clas: 'things:Keeper'}}\n")
    said = process.read_until("not applied; running services are unchanged")
    assert "did you mean 'class'?" in said
    deployment(folder, "services: {keeper: {class: 'things:Keeper', timeout: 5}}\n")
    assert "new#0 stopped" in process.read_until("applied")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "    ~ timeout: 30 -> 5" in out
    assert "- new: runs, and is not configured any more" in out


def test_watch_notes_what_it_has_applied(folder, running_up):
    """`--watch` records what it has applied, so that a plan compares with what runs now."""
    file = deployment(folder, "services: {keeper: {class: 'things:Keeper'}}\n")
    process = running_up(file, "--watch")
    deployment(folder, "services: {keeper: {class: 'things:Keeper', timeout: 5}}\n")
    process.read_until("applied")
    done = sage_deploy("plan", file, "--detailed-exitcode", cwd=folder)
    assert done.returncode == 0, done.stdout


def test_a_file_that_is_being_written_is_applied_once_it_is_whole(env, monkeypatch):
    """
    A file that is still being written is applied only after two checks found it unchanged.

    Half a file can be valid and name half of the services.
    """
    looks = iter([(1,), (2,), (3,), (), (4,), (4,), (4,), (1,), (4,)])
    applied = []

    def look(file):
        try:
            applied.append(next(looks))
        except StopIteration:
            signal.raise_signal(signal.SIGTERM)
        return applied[-1]

    monkeypatch.setattr(up, "_LOOK_S", 0)
    monkeypatch.setattr(up, "_fingerprint", look)
    monkeypatch.setattr(up, "_apply", lambda *_: applied.append("applied"))
    up._run(env, Path("services.yaml"), None, lambda: None, (1,))
    assert applied == [(1,), (2,), (3,), (), (4,), (4,), "applied", (4,), (1,), (4,)]


def test_a_signal_that_comes_before_the_wait_for_it_ends_that():
    """A signal just before the wait begins ends the wait. Python's own waits would miss it."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with signals_wake() as wait:
            signal.raise_signal(signal.SIGTERM)
            wait(None)
            assert seen == [signal.SIGTERM]
            wait(0.0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.set_wakeup_fd(-1) == -1


def test_watch_and_once_do_not_go_together(folder):
    """`--watch` together with `--once` is refused."""
    done = sage_deploy("up", deployment(folder, "services: {}\n"), "--watch", "--once", cwd=folder)
    assert done.returncode == 2
    assert "--once ends after the job" in done.stderr


# -- signals at other times --------------------------------------------------------------------------------------------


def test_what_changes_while_services_start_is_applied_once_they_run(folder):
    """A change of the file during the start is applied afterwards, because watching begins before the file is read."""
    (folder / "starting.py").write_text(
        "import sys\n\nclass Waiting:\n    def __init__(self):\n        sys.stdin.readline()\n"
    )
    file = deployment(folder, "services: {waiting: {class: 'starting:Waiting'}}\n")
    with subprocess.Popen(
        [SCRIPT, "up", file, "--watch"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        for line in running.stderr:
            if "waiting#0 starting" in line:
                break
        deployment(folder, "services: {keeper: {class: 'things:Keeper'}}\n")
        running.stdin.write("\n")
        running.stdin.flush()
        said = []
        for line in running.stderr:
            said.append(line)
            if line == "applied\n":
                break
        running.terminate()
        running.communicate(timeout=PATIENCE)
    assert "keeper#0 ready\n" in said
