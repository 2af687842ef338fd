"""The commands `login` and `dashboard`, which log a browser in to a running environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sage_deploy_cli.output import progress, write
from sage_deploy_server.commands.environment_options import environment_options

if TYPE_CHECKING:
    from sage_deploy_server.commands.client import EnvironmentClient

__all__ = ["dashboard", "login"]


@click.command("login")
@click.option("--read", is_flag=True, help="The link gives read-only access.")
@environment_options
def login(client: EnvironmentClient, *, read: bool) -> None:
    """
    Print a link that logs a browser in to the dashboard of a running environment. It works once, within an hour.

    The environment must answer over HTTP: `sage-deploy up FILE --http PORT`.
    """
    link, access = _link(client, read=read)
    write(link)
    progress("read-only access" if access == "read" else "full access: open it yourself")


@click.command("dashboard")
@click.option("--no-open", is_flag=True, help="Print the link on stdout; open no browser.")
@click.option("--read", is_flag=True, help="The browser gets read-only access.")
@environment_options
def dashboard(client: EnvironmentClient, *, no_open: bool, read: bool) -> None:
    """
    Open the dashboard of a running environment in a browser, logged in.

    The environment must answer over HTTP: `sage-deploy up FILE --http PORT`.
    """
    link, _ = _link(client, read=read)
    if no_open:
        write(link)
        return
    progress(f"opening {link}")
    import webbrowser

    if not webbrowser.open(link):
        raise click.ClickException("there is no browser here; open the link above yourself, once, within an hour")


def _link(client: EnvironmentClient, *, read: bool) -> tuple[str, str]:
    """Request a new link. Returns the link and its access level."""
    made = client.ask("POST", "/api/v1/login-link", {"read": True} if read else {}).json()
    return made["link"], made["access"]
