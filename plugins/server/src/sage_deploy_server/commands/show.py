"""The commands `status` and `describe`, which show running services."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.output import heading, printable, table, write
from sage_deploy_server.commands.client import EnvironmentClient, path_of
from sage_deploy_server.commands.environment_options import SERVICE, environment_options
from sage_deploy_server.commands.output import FORMAT, service_table, show

__all__ = ["describe", "status"]


@click.command("status")
@FORMAT
@click.option("-w", "--watch", is_flag=True, help="Print again every second, until Ctrl-C.")
@environment_options
def status(client: EnvironmentClient, form: str, *, watch: bool) -> None:
    """Show running services, those that are not ready first. Exit with 4 if any is not ready."""
    while True:
        rows = _worst_first(client.get("/api/v1/services"))
        show(rows, form, lambda: service_table(rows, wide=form == "wide"))  # noqa: B023 - called at once
        if not watch:
            break
        write()
        time.sleep(1.0)
    if any(row["state"] != "ready" for row in rows):
        sys.exit(ExitCode.UNHEALTHY)


def _worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["state"] == "ready", row["name"]))


@click.command("describe")
@click.argument("service", type=SERVICE)
@FORMAT
@environment_options
def describe(client: EnvironmentClient, service: str, form: str) -> None:
    """Show the state, replicas, configuration and latest events of SERVICE."""
    found = client.get(path_of(service))
    events = client.get("/api/v1/events", service=service)[-20:]
    show({**found, "events": events}, form, lambda: _laid_out(service, found, events))


def _laid_out(service: str, found: dict[str, Any], events: list[dict[str, Any]]) -> str:
    health = found.get("health", {})
    parts = [f"{heading(service)}: {found['state']}, {health.get('ready', 0)}/{health.get('replicas', 0)} ready"]
    if "autoscale" in found:
        parts[0] += "; scaled by load: {wanted} wanted, {min} to {max}".format(**found["autoscale"])
    parts += [f"  {printable(id)}: {printable(why)}" for id, why in health.get("missing", {}).items()]
    rows = [
        (
            each["id"],
            f"{each['state']}, stands by" if each.get("standby") else each["state"],
            str(each.get("node") or "-"),
            str(each.get("pid") or "-"),
            str(each.get("inflight")),
        )
        for each in found.get("replicas", [])
    ]
    parts += ["", table(("REPLICA", "STATE", "NODE", "PID", "RUNNING"), rows, states=("STATE",))] if rows else []
    parts += ["", heading("configuration")]
    parts += [f"  {name}: {printable(value)}" for name, value in found.get("deployment_config", {}).items()]
    parts += ["", heading("last events")]
    for each in events:
        when = time.strftime("%H:%M:%S", time.localtime(each["time"]))
        who = each["replica"] or each["service"]
        parts.append(
            f"  {when} {printable(who)} {each['kind']}" + (f": {printable(each['reason'])}" if each["reason"] else "")
        )
    return "\n".join(parts)
