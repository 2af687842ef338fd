"""
The command `sage-deploy`.

Data goes to stdout, progress to stderr; `exit_codes` says what the process ends with. One module a command: it is
imported when its command is asked for, so that `sage-deploy --help` imports nothing else.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Final

import click

from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.lazy_group import LazyGroup
from sage_deploy_cli.output import complain, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.values import Command

__all__ = ["ExitCode", "commands", "main"]

#: The commands in the order in which they are listed, with what the list says of each: the first sentence of its help.
COMMANDS: Final = {
    "init": "Write a project to start from: services in FOLDER, or with --plugin a plugin NAME.",
    "validate": "Check everything that FILE says, without starting or placing anything.",
    "plan": "Show what `up FILE` would do, who decides it, and what is different from what runs; starts nothing.",
    "up": "Deploy the services of FILE and keep them running until interrupted.",
    "explain": "Explain a FIELD of a deployment file: where it stands, its type, range, default and meaning.",
    "schema": "Print the JSON Schema of deployment files, for editors.",
    "doctor": "Check whether this machine and this Python are fit to run services; each finding says what to do.",
    "plugins": "List, show and check plugins.",
}

#: Commands that other distributions bring, with the extra that installs them.
ELSEWHERE: Final = {"chaos": "testing", "simulate": "testing"} | dict.fromkeys(
    (
        "apply",
        "balancer",
        "call",
        "dashboard",
        "describe",
        "down",
        "drain",
        "events",
        "login",
        "logs",
        "report",
        "restart",
        "scale",
        "status",
        "top",
    ),
    "server",
)


def plugin_commands() -> dict[str, Command]:
    """The commands that installed plugins add, by name; the first of two of one name counts, and none replaces ours."""
    from sage_plugins.plugins.registry import Registry

    commands = {command.name: command for _, command in reversed(Registry.discover().commands)}
    return {name: commands[name] for name in sorted(commands) if name not in COMMANDS}


@click.group(
    cls=LazyGroup,
    package="sage_deploy_cli.commands",
    summaries=COMMANDS,
    elsewhere=ELSEWHERE,
    more=plugin_commands,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="sage-deploy", prog_name="sage-deploy")
def commands() -> None:
    """Run ordinary Python classes as services, as a YAML file says."""


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command line, and end the process with its exit code if that is not 0.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no text fails for want of a character in the encoding
    try:
        code = commands.main(
            args=None if arguments is None else list(arguments), prog_name="sage-deploy", standalone_mode=False
        )
    except click.Abort:
        progress("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - a user's own, such as a method's: it may hold anything
        sys.exit(_answered(error))
    if code:  # of `--help` and its like; a command that fails raises or exits
        sys.exit(code)


def _show(error: click.ClickException) -> None:
    """Say what is wrong with the command line; as click does, but with nothing in it that a terminal could obey."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        progress(error.ctx.get_usage())
        progress(f"Try '{error.ctx.command_path} -h' for help.\n")
    complain(f"Error: {error.format_message()}")


def _answered(error: Exception) -> ExitCode:
    """Say what went wrong; where it was is only of interest if the error is none of this project."""
    from sage_plugins.errors import ConfigError, PlanError, PluginError, SageDeployError

    if isinstance(error, (ConfigError, PlanError, PluginError)):
        complain(error)
        return ExitCode.BAD_INPUT
    if isinstance(error, SageDeployError):
        complain(f"{type(error).__name__}: {error}")
    else:
        import traceback

        progress("".join(traceback.format_exception(error)).rstrip())
    return ExitCode.FAILED
