"""The commands `events` and `logs`, which can follow new entries."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import click

from sage_deploy_cli.output import printable, printable_text, write
from sage_deploy_server.commands.client import EnvironmentClient, path_of
from sage_deploy_server.commands.environment_options import SERVICE, environment_options

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["events", "logs"]

_SERVICE = click.argument("service", type=SERVICE, required=False)
_FOLLOW = click.option(
    "-f", "--follow", is_flag=True, help="Keep printing new ones until Ctrl-C or until the environment ends."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")

#: Seconds between requests.
_POLL_INTERVAL_S: Final = 0.5


def _follow(
    client: EnvironmentClient, path: str, service: str | None, tell: Callable[[dict[str, Any]], None], *, follow: bool
) -> None:
    """
    Pass all entries at *path* of the API to *tell*.

    Args:
        client: Client of the environment.
        path: Path that returns entries with a `seq`, and takes `after`.
        service: Show only this service; None for all.
        tell: Called once for each entry, in order.
        follow: Whether to continue until the environment ends.
    """
    if service is not None:
        client.get(path_of(service))  # its error suggests similar names
    after = 0
    while True:
        for each in client.get(path, after=after, service=service):
            after = each["seq"]
            tell(each)
        if not follow:
            return
        time.sleep(_POLL_INTERVAL_S)


@click.command("events")
@_SERVICE
@_FOLLOW
@_JSON
@environment_options
def events(client: EnvironmentClient, service: str | None, *, follow: bool, as_json: bool) -> None:
    """Show the events of all running services, or of SERVICE, oldest first."""
    _follow(
        client,
        "/api/v1/events",
        service,
        lambda each: write(json.dumps(each) if as_json else _event(each)),
        follow=follow,
    )


def _event(event: dict[str, Any]) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    reason = f": {printable(event['reason'])}" if event["reason"] else ""
    return f"{when} {printable(event['replica'] or event['service'] or '-')} {event['kind']}{reason}"


@click.command("logs")
@_SERVICE
@_FOLLOW
@_JSON
@environment_options
def logs(client: EnvironmentClient, service: str | None, *, follow: bool, as_json: bool) -> None:
    """Show the logs of all running services, or of SERVICE, oldest first."""
    _follow(
        client,
        "/api/v1/logs",
        service,
        lambda each: write(json.dumps(each) if as_json else _log_line(each)),
        follow=follow,
    )


def _log_line(line: dict[str, Any]) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(line["time"]))
    request = f" [{printable(line['request_id'])}]" if line["request_id"] else ""
    text = printable_text(line["message"]).replace("\n", "\n  ")
    return f"{when} {line['level'].lower()} {printable(line['replica'] or line['service'])}{request}: {text}"
