"""Rules for every command of `sage-deploy`: output, exit codes, colours, unknown words and imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from command_line import PATIENCE, SCRIPT, register, sage_deploy, surroundings
from sage_deploy_cli import main as cli
from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.machine.plugin_imports import HEAVY
from terminal import Terminal
from things import deployment, write_things

ESCAPE = "\x1b"


@pytest.fixture
def folder(tmp_path):
    return write_things(tmp_path)


# -- what is asked for and not there -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["up"],
        ["up", "--no-such-option", "x.yaml"],
        ["plan", "no-such-file.yaml"],
        ["plan", "a.yaml", "b.yaml"],
        ["no-such-command"],
        ["plugins", "show"],
        ["explain", "no_such_field_at_all"],
    ],
)
def test_bad_usage_has_exit_code_2(arguments, tmp_path):
    """Bad usage exits with 2 and a message on stderr, without a traceback; stdout stays empty."""
    done = sage_deploy(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (ExitCode.BAD_INPUT, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["upp"], "Did you mean 'up'?"),
        (["plam"], "Did you mean 'plan'?"),
        (["plugins", "shw"], "Did you mean 'show'?"),
        (["up", "--onec"], "--once"),
        (["plugins", "list", "--jsn"], "--json"),
    ],
)
def test_unknown_word_is_answered_with_the_nearest(arguments, near, tmp_path):
    """An unknown command or option is answered with the nearest known one."""
    assert near in sage_deploy(*arguments, cwd=tmp_path).stderr


WITHOUT_SERVER = {"SAGE_DEPLOY_DISABLED_PLUGINS": "server"}
WITHOUT_EXTRAS = {"SAGE_DEPLOY_DISABLED_PLUGINS": "server,testing"}


@pytest.mark.parametrize("name", sorted(cli.ELSEWHERE))
def test_command_that_is_not_installed_says_how_to_get_it(name, tmp_path):
    """A command of a missing extra says how to install it."""
    done = sage_deploy(name, "some-service", cwd=tmp_path, **WITHOUT_EXTRAS)
    assert done.returncode == 2
    how = f"pip install 'sage-deploy[{cli.ELSEWHERE[name]}]'"
    assert f"The command '{name}' is not installed: {how}" in done.stderr


def test_commands_of_extras_are_those_that_they_bring(tmp_path):
    """An installed extra's commands are in the list."""
    listed = sage_deploy("--help", cwd=tmp_path).stdout
    for name in cli.ELSEWHERE:
        assert re.search(rf"^  {name} ", listed, re.MULTILINE), name


@pytest.mark.parametrize("word", ["statsu", "stop", "drian"])
def test_commands_that_are_not_there_are_not_suggested(word, tmp_path):
    """Commands that are not installed are not suggested."""
    assert "Did you mean" not in sage_deploy(word, cwd=tmp_path, **WITHOUT_SERVER).stderr


def test_http_without_the_server_says_how_to_get_it(tmp_path):
    """`--http` without the server extra says how to install it."""
    write_things(tmp_path)
    done = sage_deploy("up", "service_deployment.yaml", "--http", "8400", cwd=tmp_path, **WITHOUT_SERVER)
    assert done.returncode == 2
    assert "pip install 'sage-deploy[server]'" in done.stderr


ADDED = """
import click
from sage_plugins import hookimpl
from sage_plugins.values import Command


def load():
    @click.command("greet")
    @click.argument("name")
    def greet(name):
        click.echo(f"hello {name}")

    return greet


def fails():
    raise RuntimeError("only who uses it pays")


@hookimpl
def sage_register_commands():
    return [Command("greet", load, "Greet somebody."), Command("broken", fails, "Never loaded here.")]
"""


@pytest.fixture
def with_commands(tmp_path):
    (tmp_path / "adding.py").write_text(ADDED, encoding="utf-8")
    register(tmp_path, "acme-adding", "1.0", {"adding": "adding"})
    return {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}


def test_command_of_a_plugin_is_listed_and_run(with_commands):
    """A plugin's command is listed with its summary, and gets its arguments."""
    assert re.search(r"^  greet +Greet somebody\.$", sage_deploy("--help", **with_commands).stdout, re.MULTILINE)
    done = sage_deploy("greet", "Ada", **with_commands)
    assert (done.returncode, done.stdout) == (0, "hello Ada\n"), done.stderr


def test_command_of_a_plugin_is_suggested(with_commands):
    """A plugin's command is suggested for a misspelt one."""
    assert "Did you mean 'greet'?" in sage_deploy("gret", **with_commands).stderr


@pytest.mark.parametrize("arguments", [[], ["plugins"]])
def test_no_command_is_answered_with_the_list(arguments, tmp_path):
    """Without a command, the list of commands goes to stderr, with exit code 2."""
    done = sage_deploy(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:\n" in done.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("arguments", [[], ["up"], ["plugins"], ["plugins", "show"]])
def test_help_is_data(arguments, option, tmp_path):
    """Requested help goes to stdout, with exit code 0."""
    done = sage_deploy(*arguments, option, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {' '.join(['sage-deploy', *arguments])}")


def test_version_is_that_of_the_distribution(tmp_path):
    from importlib.metadata import version

    assert sage_deploy("--version", cwd=tmp_path).stdout == f"sage-deploy, version {version('sage-deploy')}\n"


# -- lazy commands ---------------------------------------------------------------------------------------------------


def test_list_of_commands_says_what_each_says_itself():
    """The list of commands, written without importing them, has the summaries of the commands themselves."""
    context = click.Context(cli.commands)
    for name, summary in cli.COMMANDS.items():
        command = cli.commands.get_command(context, name)
        assert command is not None
        assert (command.name, command.get_short_help_str(10_000)) == (name, summary)
    assert cli.commands.list_commands(context)[: len(cli.COMMANDS)] == list(cli.COMMANDS)
    assert not cli.COMMANDS.keys() & cli.ELSEWHERE


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["up", "--help"], {"commands", "commands.up", "environment_of"}),
        (["plugins", "--help"], {"commands", "commands.plugins", "findings"}),
    ],
)
def test_help_imports_nothing_but_click_and_the_command(arguments, needed):
    """Help of one command imports only click and that command: no plugin, no library, nothing heavy."""
    program = (
        "import sys; from sage_deploy_cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    modules = set(done.stderr.split())
    ours = {name.removeprefix("sage_deploy_cli.") for name in modules if name.startswith("sage_deploy_cli.")}
    assert ours == {"exit_codes", "lazy_group", "main", "output", "suggesting_group", *needed}
    assert not any(name.startswith(("sage_plugins", "sage_deploy_files")) for name in modules)
    assert not modules & (HEAVY - {"click"} | {"attr", "concurrent.futures", "importlib.metadata", "json", "pluggy"})


def test_list_of_commands_imports_little_beside_plugins():
    """The list of commands imports little besides the plugins, because users type it first."""
    program = (
        "import sys; from sage_deploy_cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    modules = set(done.stderr.split())
    assert "sage_plugins.plugins.registry" in modules
    assert not modules & (HEAVY - {"click"} | {"attr", "concurrent.futures", "importlib.metadata", "json", "pathlib"})


# -- outputs -----------------------------------------------------------------------------------------------------------

UP = """
    services:
      counter:
        class: things:Counter
        init: {args: [41]}
    """


def test_colours_are_for_terminals(folder):
    """Colours appear on a terminal and not in a pipe."""
    arguments = ("up", deployment(folder, UP), "--once")
    with Terminal(*arguments, cwd=folder) as terminal:
        code, shown = terminal.read_to_end()
    assert code == 0
    assert f"{ESCAPE}[32mready" in shown
    assert ESCAPE not in sage_deploy(*arguments, cwd=folder).stdout


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_terminal_without_colours_gets_none(variables, tmp_path):
    """`NO_COLOR` and a dumb terminal turn colours off; `NO_COLOR` wins over `FORCE_COLOR`."""
    with Terminal("doctor", cwd=tmp_path, **variables) as terminal:
        _, shown = terminal.read_to_end()
    assert "ok      Python:" in shown
    assert ESCAPE not in shown


@pytest.mark.parametrize(("value", "coloured"), [("1", True), ("", False)])
def test_colours_can_be_forced_into_a_pipe(value, coloured, tmp_path):
    """A non-empty `FORCE_COLOR` turns colours on in a pipe."""
    done = sage_deploy("doctor", cwd=tmp_path, FORCE_COLOR=value)
    assert (ESCAPE in done.stdout) == coloured
    assert "ok" in done.stdout


def test_colours_add_nothing_to_the_words(tmp_path):
    """Without its colours, coloured output equals plain output."""
    plain = sage_deploy("plugins", "show", "pool", cwd=tmp_path).stdout
    forced = sage_deploy("plugins", "show", "pool", cwd=tmp_path, FORCE_COLOR=1).stdout
    assert forced != plain
    assert click.unstyle(forced) == plain


def test_progress_is_at_the_terminal_while_data_is_piped(folder):
    """With stdout piped, progress goes to the terminal and only data to the pipe."""
    with Terminal("up", deployment(folder, UP), "--once", cwd=folder, piped=True) as terminal:
        data = terminal.process.stdout.read()
        code, shown = terminal.read_to_end()
    assert code == 0
    assert "all ready after" in shown
    assert "counted to 42" not in shown
    assert "counted to 42" in data
    assert "all ready after" not in data
    assert ESCAPE not in data


@pytest.mark.parametrize("columns", [60, 200])
def test_prose_fits_the_terminal(columns, tmp_path):
    """Prose wraps at the terminal's width, 100 characters at most. In a pipe it is not wrapped."""
    with Terminal("explain", "deployment", cwd=tmp_path, columns=columns) as terminal:
        _, shown = terminal.read_to_end()
    prose = [line for line in shown.splitlines() if line.startswith("      ") and ":" not in line]
    assert prose
    assert max(map(len, prose)) <= min(columns, 100)
    assert max(map(len, sage_deploy("explain", "deployment", cwd=tmp_path).stdout.splitlines())) > 100


HOSTILE = "\x1b]0;owned\x07"


def test_control_characters_of_names_and_files_are_escaped(tmp_path):
    """Control characters in arguments are escaped, because a terminal would obey them."""
    for arguments in (["plan", f"{HOSTILE}.yaml"], [HOSTILE], ["explain", HOSTILE], ["plugins", "show", HOSTILE]):
        done = sage_deploy(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert ESCAPE not in done.stdout + done.stderr
        assert r"\x1b]0;owned\x07" in done.stderr


def test_text_of_an_exception_cannot_pose_as_ours(folder):
    """An exception's text is escaped and indented, so that it cannot look like the command's own output."""
    (folder / "bad.py").write_text(
        "class Bad:\n    def __init__(self):\n        raise ValueError('\\x1b[2J\\nall ready after 0.01 s')\n"
    )
    done = sage_deploy("up", deployment(folder, "services: {bad: {class: 'bad:Bad'}}"), "--once", cwd=folder)
    assert done.returncode == 1
    assert ESCAPE not in done.stderr
    assert r"\x1b[2J" in done.stderr
    assert "\nall ready after" not in done.stderr


def test_traceback_of_a_method_is_shown_with_its_text_escaped(folder):
    """A traceback of the user's code is shown with its place, escaped, with exit code 1."""
    (folder / "raising.py").write_text(
        "class Raising:\n    def process(self):\n        raise ValueError('\\x1b]0;owned\\x07')\n"
    )
    file = deployment(folder, "services: {raising: {class: 'raising:Raising'}}")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 1
    assert 'raising.py", line 3, in process' in done.stderr
    assert ESCAPE not in done.stderr
    assert r"ValueError: \x1b]0;owned\x07" in done.stderr


def test_result_of_a_service_is_escaped_at_a_terminal_and_untouched_in_a_pipe(folder):
    """A service's result is escaped on a terminal and unchanged in a pipe."""
    (folder / "loud.py").write_text(
        "class Loud:\n    def process(self):\n        return '\\x1b]0;owned\\x07\\ttab\\nline'\n"
    )
    arguments = ("up", deployment(folder, "services: {loud: {class: 'loud:Loud'}}"), "--once")
    assert f"{HOSTILE}\ttab\nline" in sage_deploy(*arguments, cwd=folder).stdout
    with Terminal(*arguments, cwd=folder, NO_COLOR=1) as terminal:
        _, shown = terminal.read_to_end()
    assert ESCAPE not in shown
    assert r"\x1b]0;owned\x07" in shown
    assert "\nline\n" in shown


def test_text_of_a_strangers_plugin_is_escaped(tmp_path):
    """Control characters in a plugin's texts are escaped."""
    (tmp_path / "acme_loud.py").write_text(
        "from sage_plugins import hookimpl\nfrom sage_plugins.values import Registration\n"
        "@hookimpl\ndef sage_register_monitors():\n"
        "    return [Registration('loud', print, 'bright\\x1b[31m\\nFROM nowhere')]\n"
    )
    register(tmp_path, "acme-loud", "1.0", {"acme_loud": "acme_loud"})
    for arguments in (["list"], ["show", "loud"], ["check"]):
        done = sage_deploy("plugins", *arguments, cwd=tmp_path, PYTHONPATH=tmp_path)
        assert ESCAPE not in done.stdout
        assert r"bright\x1b[31m\nFROM nowhere" in done.stdout


def test_encoding_without_a_character_does_not_end_the_command(tmp_path):
    """A character that the output's encoding lacks is escaped instead of ending the command."""
    done = sage_deploy("explain", "中文", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 2
    assert r"'\u4e2d\u6587'" in done.stderr


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


def test_exit_codes_are_those_that_are_documented():
    """The exit codes are the documented ones, because scripts rely on them."""
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILED": 1,
        "BAD_INPUT": 2,
        "CHANGES": 3,
        "UNHEALTHY": 4,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    "arguments",
    [["explain", "timeout"], ["plugins", "list"], ["plugins", "show", "pool"], ["plugins", "check"], ["doctor"]],
)
def test_json_is_one_object_with_the_version_of_its_format(arguments, tmp_path):
    """`--json` prints one object with the version of its format, without colours."""
    done = sage_deploy(*arguments, "--json", cwd=tmp_path, FORCE_COLOR=1)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == 1


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
