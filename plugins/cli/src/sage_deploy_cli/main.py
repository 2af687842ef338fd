"""
The entry point of the command `sage-deploy`.

Data goes to stdout, progress to stderr. `exit_codes` has the exit codes. Each command has its own module, imported
only when the command is used, so that `sage-deploy --help` imports no other module.
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

#: The commands in display order. Each summary is the first sentence of the command's help.
COMMANDS: Final = {
    "init": "Write a project to start from: services in FOLDER, or with --plugin a plugin NAME.",
    "validate": "Check FILE and report every problem; starts nothing.",
    "plan": "Show what `up FILE` would start, replace or stop, and why; starts nothing.",
    "up": "Deploy the services of FILE and run them until interrupted.",
    "explain": "Explain a FIELD of deployment files: its place, type, range, default and meaning.",
    "schema": "Print the JSON Schema of deployment files, for editors.",
    "doctor": "Check whether this machine and this Python can run services, and say what to fix.",
    "plugins": "List, show and check plugins.",
}

#: Commands of other distributions, with the extra that installs them.
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
    """Return the commands of installed plugins by name. None replaces ours; of two with one name, the first counts."""
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
    Run the command line. End the process if its exit code is not 0.

    Args:
        arguments: Arguments without the program's name. Default: those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the encoding lacks must not raise
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
    except Exception as error:  # noqa: BLE001 - user code such as a service's method may raise anything
        sys.exit(_answered(error))
    if code:  # commands that fail raise or exit; this code comes from options such as `--help`
        sys.exit(code)


def _show(error: click.ClickException) -> None:
    """Show an error of the command line as click does, but with control characters escaped."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        progress(error.ctx.get_usage())
        progress(f"Try '{error.ctx.command_path} -h' for help.\n")
    complain(f"Error: {error.format_message()}")


def _answered(error: Exception) -> ExitCode:
    """Show *error* and return the exit code. Only errors of other code are shown with their traceback."""
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
