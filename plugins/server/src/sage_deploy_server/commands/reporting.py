"""The command `report`, which saves the dashboard in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sage_deploy_cli.output import progress
from sage_deploy_server.commands.environment_options import environment_options

if TYPE_CHECKING:
    from sage_deploy_server.commands.client import EnvironmentClient

__all__ = ["report"]


@click.command("report")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="File to write, such as report.html; overwritten if it exists.",
)
@environment_options
def report(client: EnvironmentClient, file: Path) -> None:
    """Save the current dashboard of a running environment as one HTML file that needs no server."""
    from sage_deploy_server.reports.answers import record
    from sage_deploy_server.reports.page import page_of

    page = page_of(record(client))
    try:
        file.write_bytes(page.encode())
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
    progress(f"wrote {file}")
