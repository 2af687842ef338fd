"""Rules for every command of `sage-deploy`: exit codes, help, unknown words, JSON and imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import click
import pytest

from command_line import PATIENCE, register, sage_deploy
from sage_deploy_cli import main as cli
from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.machine.plugin_imports import HEAVY
from things import write_things

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


# -- interrupts ------------------------------------------------------------------------------------------------------


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
