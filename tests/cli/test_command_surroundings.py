"""Every command of `sage-deploy` copes with closed pipes, full disks, odd folders and Ctrl-C."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from command_line import PATIENCE, SCRIPT, sage_deploy, surroundings
from sage_deploy_cli.exit_codes import ExitCode
from terminal import Terminal
from things import deployment

# -- outputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["plugins", "list"], ["explain"], ["doctor"], ["--help"]])
def test_closed_pipe_ends_quietly(arguments, tmp_path):
    """If the reader of its output has gone, a command ends quietly with exit code 1."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [SCRIPT, *arguments],
            cwd=tmp_path,
            env=surroundings(),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.FAILED, "")


def test_up_into_a_pipe_that_is_closed_stops_its_services(folder):
    """If the reader of `up`'s output goes while services run, their stop hooks run and the exit code is 1."""
    (folder / "tidy.py").write_text(
        "import sys\n"
        "class Tidy:\n"
        "    def process(self):\n"
        "        print('waiting at the gate', file=sys.stderr, flush=True)\n"
        "        open('gate').read()\n"
        "    def stop(self):\n"
        "        print('stop hook ran', file=sys.stderr)\n"
    )
    os.mkfifo(folder / "gate")
    file = deployment(folder, "services: {tidy: {class: 'tidy:Tidy'}}")
    with subprocess.Popen(
        [SCRIPT, "up", file, "--once"],
        cwd=folder,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        while "waiting at the gate" not in running.stderr.readline():
            pass
        running.stdout.close()
        (folder / "gate").write_text("go on")
        errors = running.stderr.read()
        assert running.wait(PATIENCE) == ExitCode.FAILED
    assert "stop hook ran" in errors
    assert "Traceback" not in errors


# -- interrupts ------------------------------------------------------------------------------------------------------


def test_ctrl_c_at_the_terminal_drains(folder):
    """Ctrl-C on the terminal stops the services in order, with exit code 0."""
    file = deployment(folder, "services: {stopping: {class: 'things:Stopping'}}\n")
    with Terminal("up", file, cwd=folder) as terminal:
        terminal.read_until("press Ctrl-C to stop")
        terminal.type("\x03")
        code, shown = terminal.read_to_end()
    assert code == ExitCode.OK, shown
    assert shown.index("stopping ...") < shown.index("stop hook ran")
    assert "Traceback" not in shown


def test_ctrl_c_before_the_services_run_interrupts(folder):
    """Ctrl-C before the services run stops what has started, prints "interrupted" and exits with 130."""
    (folder / "slow.py").write_text(
        "import sys, threading\n"
        "class Slow:\n"
        "    def __init__(self):\n"
        "        print('constructing', file=sys.stderr, flush=True)\n"
        "        threading.Event().wait(5)\n"
    )
    file = deployment(folder, "services: {slow: {class: 'slow:Slow', performance: {drain_timeout: 0}}}\n")
    with Terminal("up", file, cwd=folder) as terminal:
        terminal.read_until("constructing")
        terminal.type("\x03")
        code, shown = terminal.read_to_end()
    assert code == ExitCode.INTERRUPTED, shown
    assert shown.splitlines()[-1].strip() == "interrupted"
    assert "Traceback" not in shown


# -- where it runs -----------------------------------------------------------------------------------------------------


def in_shell(line, cwd, **variables):
    """Run a shell line in which $0 is the command and $1 a deployment file."""
    file = deployment(cwd, "services: {keeper: {class: 'things:Keeper'}}\n")
    return subprocess.run(
        ["/bin/sh", "-c", line, SCRIPT, file],
        cwd=cwd,
        env=surroundings(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.skipif(os.name == "nt", reason="the shell of POSIX")
class TestOddSurroundings:
    @pytest.mark.parametrize("words", ["plan $1", "validate $1", "explain", "plugins list", "up --once $1"])
    def test_without_stdout_a_command_does_what_it_does_and_says_nothing(self, folder, words):
        """With stdout closed, a command does its work, prints nothing and exits with 0."""
        done = in_shell(f'"$0" {words} >&-', folder)
        assert (done.returncode, done.stdout) == (0, "")
        assert "Traceback" not in done.stderr

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
    @pytest.mark.parametrize("words", ["plan $1", "plan --json $1", "schema", "up --once $1"])
    def test_output_that_cannot_be_written_is_a_failure_in_one_line(self, folder, words):
        """If the output cannot be written, the command fails with a one-line error."""
        done = in_shell(f'"$0" {words} >/dev/full', folder)
        assert done.returncode == ExitCode.FAILED
        assert "Error: the output cannot be written: No space left on device" in done.stderr.splitlines()
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
    def test_progress_that_cannot_be_written_stops_nothing(self, folder):
        """If progress cannot be written, the services still run."""
        done = in_shell('"$0" up --once $1 2>/dev/full', folder)
        assert done.returncode == 0
        assert "SERVICE" in done.stdout

    def test_a_deleted_working_directory_is_no_obstacle(self, folder):
        """In a deleted working directory commands still work; a file that is looked up there is not found."""
        done = in_shell('mkdir gone; cd gone; rmdir ../gone; "$0" plan "$1" && "$0" init ../new', folder)
        assert done.returncode == 0, done.stderr
        done = in_shell('mkdir gone; cd gone; rmdir ../gone; "$0" plan services.yaml', folder)
        assert done.returncode == ExitCode.BAD_INPUT
        assert "error E109: there is no such file" in done.stderr

    @pytest.mark.parametrize("name", ["circle.yaml", "circle.yaml/services.yaml"])
    @pytest.mark.parametrize("command", ["plan", "validate", "up"])
    def test_a_circle_of_links_is_answered_like_any_file_that_cannot_be_read(self, folder, command, name):
        """A circle of links is reported like any unreadable file, with E109."""
        (folder / "circle.yaml").symlink_to("circle.yaml")
        done = sage_deploy(command, name, cwd=folder)
        assert done.returncode == ExitCode.BAD_INPUT
        assert f"{name}:1:1: error E109: cannot be read" in done.stderr
        assert "Traceback" not in done.stderr
