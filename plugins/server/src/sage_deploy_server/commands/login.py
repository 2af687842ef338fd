"""`sage-deploy login`: a link for a browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from sage_deploy_cli.output import progress, write
from sage_deploy_server.commands.choosing import environment_options

if TYPE_CHECKING:
    from sage_deploy_server.commands.client import Running

__all__ = ["login"]


@click.command("login")
@click.option("--read", is_flag=True, help="Whoever opens the link may only look.")
@environment_options
def login(running: Running, *, read: bool) -> None:
    """
    Print a link that logs a browser in to a running environment; it works once, within an hour.

    The environment has to answer over HTTP: `sage-deploy up FILE --http PORT`.
    """
    made = json.loads(running.ask("POST", "/api/v1/login-link", {"read": True} if read else {}).read())
    write(made["link"])
    progress("it may only look" if made["access"] == "read" else "it may do everything: open it yourself")
