"""`sage-deploy plan`: what `up` would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sage_plugins.cli.deployment_file import FILE, PROFILE, environment_of
from sage_plugins.cli.output import printable_text, write

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@click.command("plan")
@FILE
@PROFILE
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(file: Path, profile: str | None, *, as_json: bool) -> None:
    """Show what `up FILE` would do and which plugin decides what; starts nothing."""
    with environment_of(file, profile) as env:
        found = env.plan()
        write(found.to_json() if as_json else printable_text(found))
