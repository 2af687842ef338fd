"""The commands that change running services."""

from __future__ import annotations

import select
import time
from typing import Final

import click

from sage_deploy_cli.output import printable, write
from sage_deploy_server.commands.calling import parse_arguments
from sage_deploy_server.commands.client import EnvironmentClient, path_of
from sage_deploy_server.commands.environment_options import BALANCER, REPLICA, SERVICE, environment_options
from sage_deploy_server.commands.output import DRY_RUN, YES, confirm, done

__all__ = ["apply", "balancer", "down", "drain", "restart", "scale"]

#: Sign for each action of a plan.
_SIGNS: Final = {"add": "+", "change": "~", "remove": "-", "keep": " "}

#: Seconds between checks whether an environment still runs.
_POLL_INTERVAL_S: Final = 0.1


@click.command("scale")
@click.argument("service", type=SERVICE)
@click.argument("replicas", type=click.IntRange(min=1))
@DRY_RUN
@YES
@environment_options
def scale(client: EnvironmentClient, service: str, replicas: int, *, dry_run: bool, yes: bool) -> None:
    """Change the number of replicas of SERVICE, and wait until all are ready. No call is lost."""
    body, path = {"replicas": replicas}, path_of(service, "scale")
    what = client.change(path, body, dry_run=True)
    before = what["before"]
    if not dry_run:
        if replicas < before:
            confirm(f"Stop {before - replicas} of {before} replicas of {service}?", yes=yes)
        what = client.change(path, body)
    done(what, f"{'scale' if dry_run else 'scaled'} {service} from {before} to {replicas}")


@click.command("restart")
@click.argument("service", type=SERVICE)
@click.option("--replica", type=REPLICA, help="Replace only the replica with this ID.")
@DRY_RUN
@YES
@environment_options
def restart(client: EnvironmentClient, service: str, replica: str | None, *, dry_run: bool, yes: bool) -> None:
    """Replace the replicas of SERVICE one by one, or only one of them. No call is lost."""
    path, body = path_of(service, "restart"), {"replica": replica}
    what = client.change(path, body, dry_run=True)
    replicas = ", ".join(what["replicas"])
    if not dry_run:
        confirm(f"Replace {replicas}?", yes=yes)
        what = client.change(path, body)
    done(what, f"{'replace' if dry_run else 'replaced'} {replicas}")


@click.command("balancer")
@click.argument("service", type=SERVICE)
@click.argument("balancer", metavar="ID", type=BALANCER)
@click.argument("options", nargs=-1, metavar="[JSON | KEY=VALUE ...]")
@DRY_RUN
@YES
@environment_options
def balancer(  # noqa: PLR0913 - one parameter for each argument and option
    client: EnvironmentClient, service: str, balancer: str, options: tuple[str, ...], *, dry_run: bool, yes: bool
) -> None:
    """
    Change the load balancer of SERVICE to ID. No call is lost.

    Give its options as one JSON object or as KEY=VALUE pairs. A value that is not JSON is text. By default the balancer
    gets the options that the configuration of SERVICE has for it.
    """
    if not dry_run:
        confirm(f"Have {balancer} choose among the replicas of {service}?", yes=yes)
    body = {"id": balancer, "options": parse_arguments(options) if options else None}
    what = client.change(path_of(service, "balancer"), body, dry_run=dry_run)
    done(what, f"{'change' if dry_run else 'changed'} the balancer of {service} to {balancer}")


@click.command("drain")
@click.argument("service", type=SERVICE)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    help="Seconds for accepted calls; default: the service's drain_timeout.",
)
@DRY_RUN
@YES
@environment_options
def drain(client: EnvironmentClient, service: str, timeout: float | None, *, dry_run: bool, yes: bool) -> None:
    """Stop SERVICE: accept no more calls, finish the accepted ones, then stop."""
    if not dry_run:
        confirm(f"Stop {service}?", yes=yes)
    body = {} if timeout is None else {"timeout": timeout}
    what = client.change(path_of(service, "drain"), body, dry_run=dry_run)
    done(what, f"{'stop' if dry_run else 'stopped'} {service}")


@click.command("apply")
@DRY_RUN
@YES
@environment_options
def apply(client: EnvironmentClient, *, dry_run: bool, yes: bool) -> None:
    """Read the file of a running environment again, and start, change and stop services as it says."""
    plan = client.change("/api/v1/plan")
    changes = [each for each in plan["services"] if each["action"] != "keep"]
    for each in plan["services"]:
        way = f": {printable(each['way'])}" if each.get("way") else ""
        write(f"{_SIGNS.get(each['action'], '?')} {printable(each['name'])}: {each['action']}{way}")
    if dry_run or not changes:
        write(f"{len(changes)} would change" if changes else "nothing to do")
        return
    confirm("Apply this?", yes=yes)
    client.change("/api/v1/apply")
    write("applied")


@click.command("down")
@DRY_RUN
@YES
@environment_options
def down(client: EnvironmentClient, *, dry_run: bool, yes: bool) -> None:
    """Stop a running environment as Ctrl-C in its terminal would: finish accepted calls, then stop."""
    about = client.get("/api/v1/environment")
    who = f"environment {about['name']} (process {about['pid']})"
    if dry_run:
        done(client.change("/api/v1/down", dry_run=True), f"stop {who}")
        return
    confirm(f"Stop {who}?", yes=yes)
    with client.process() as process:
        client.ask("POST", "/api/v1/down", {}).read()
        while _is_running(client, about["id"]):
            time.sleep(_POLL_INTERVAL_S)
        if process is not None:  # services stop after the server
            select.select([process], [], [])
    write(f"stopped {who}")


def _is_running(client: EnvironmentClient, id: str) -> bool:
    try:
        return bool(client.get("/api/v1/environment")["id"] == id)
    except click.ClickException:
        return False
