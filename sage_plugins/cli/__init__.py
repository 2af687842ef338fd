"""
The command `sage-deploy`.

Data goes to stdout, progress to stderr; `exit_codes` says what the process ends with. One module a command: it is
imported when its command is asked for, so that `sage-deploy --help` imports nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from sage_plugins.cli.exit_codes import ExitCode
from sage_plugins.cli.lazy_group import LazyGroup
from sage_plugins.cli.output import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ExitCode", "commands", "main"]

#: The commands in the order in which they are listed, with what the list says of each: the first sentence of its help.
COMMANDS: Final = {
    "plan": "Show what `up FILE` would do and which plugin decides what; starts nothing.",
    "up": "Deploy the services of FILE and keep them running until interrupted.",
    "schema": "Print the JSON Schema of deployment files, for editors.",
    "plugins": "Look at the installed plugins.",
}


@click.group(
    cls=LazyGroup,
    package=__name__,
    summaries=COMMANDS,
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
    try:
        commands.main(
            args=None if arguments is None else list(arguments), prog_name="sage-deploy", standalone_mode=False
        )
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.Abort:
        progress("interrupted")
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        code = _answered(error)
        if code is None:
            raise
        sys.exit(code)


def _answered(error: Exception) -> ExitCode | None:
    """Say what went wrong, if it is an error of this project; a traceback is left to a mistake in the code."""
    from sage_plugins.errors import ConfigError, PlanError, PluginError, SageDeployError

    if isinstance(error, (ConfigError, PlanError, PluginError)):
        progress(str(error))
        return ExitCode.BAD_INPUT
    if isinstance(error, SageDeployError):
        progress(f"{type(error).__name__}: {error}")
        return ExitCode.FAILED
    return None
