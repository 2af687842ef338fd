"""`sage-deploy plugins`: what is installed."""

from __future__ import annotations

import sys

import click

from sage_plugins.cli.exit_codes import ExitCode
from sage_plugins.cli.output import table

__all__ = ["command"]


@click.group("plugins")
def command() -> None:
    """Look at the installed plugins."""


@command.command("list")
def list_plugins() -> None:
    """List what the installed plugins offer, and those that did not load with the reason."""
    from sage_plugins.plugins import Registry

    registry = Registry.discover()
    rows = [
        (kind, id, entry.plugin.source, entry.registration.summary)
        for (kind, id), entry in sorted(registry.entries().items())
    ]
    click.echo(table(("KIND", "ID", "FROM", "WHAT"), rows))
    for failure in registry.failures:
        click.echo(f"! {failure}")
    if registry.failures:
        sys.exit(ExitCode.FAILED)
