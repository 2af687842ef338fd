"""`sage-deploy validate`: reports every problem of a file, without starting or placing anything."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import click

from sage_deploy_cli.environment_of import FILE, PROFILE, environment_of
from sage_deploy_cli.output import printable, progress, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["command"]


@click.command("validate")
@FILE
@PROFILE
@click.option(
    "--no-import",
    is_flag=True,
    help="Import no class of FILE; skip the checks that need one.",
)
@click.option(
    "--resolved",
    is_flag=True,
    help="Print the file with profile, defaults, variables and units applied. Prints secrets too.",
)
def command(file: Path, profile: str | None, *, no_import: bool, resolved: bool) -> None:
    """
    Check FILE and report every problem; starts nothing.

    Checks the values, the rules of the plugins, whether classes can be imported, and whether arguments fit their
    constructors. Each problem is reported with its place. Importing a class runs its module.
    """
    # Imported here because `validate --help` needs no library.
    from sage_deploy_files.reading.problems import FileProblem, refuse
    from sage_deploy_files.reading.reader import read

    with environment_of(file, profile, import_classes=not no_import) as env:
        services = read(file, profile=profile)  # read before classes are imported: their modules may do anything
        with redirect_stdout(sys.stderr):  # what modules print on import is no data
            problems = env.check(import_classes=not no_import)
        if any(problem.severity == "error" for problem in problems):
            refuse(str(file), [problem for problem in problems if isinstance(problem, FileProblem)])
        report: Callable[[object], None] = write
        if resolved:
            from sage_deploy_files.writing import dump

            write(dump(services).rstrip("\n"))
            report = progress
        for problem in problems:
            report(printable(problem))
        report(printable(f"{file}: {_count(len(services.services), 'service')}, {_count(len(problems), 'warning')}"))


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}" + ("" if number == 1 else "s")
