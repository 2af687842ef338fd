"""The command that keeps how everything is in one file: `report`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

import click

from sage_deploy_cli.output import duration, printable_text, progress
from sage_deploy_server.commands.choosing import environment_options
from sage_deploy_server.commands.client import Running, path_of
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["report"]

#: Events and log lines that are shown, the latest of them.
_LATEST: Final = 500

#: Shape and words of states: never colour alone.
_SHAPES: Final = {"ready": "●", "failed": "■", "unhealthy": "■", "crash_loop": "■", "refused": "■", "stopped": "○"}


@click.command("report")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="The file to write, such as report.html.",
)
@environment_options
def report(running: Running, file: Path) -> None:
    """Write how a running environment is into one HTML file that needs nothing else: to look at later, or to send."""
    text = _page(running)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
    progress(f"wrote {file}")


def _page(running: Running) -> str:
    """Everything that is shown; texts are put in by a writer of HTML, which escapes them."""
    about = running.get("/api/v1/environment")
    rows = sorted(running.get("/api/v1/services"), key=lambda row: (row["state"] == "ready", row["name"]))
    page = ET.Element("html", lang="en")
    head = ET.SubElement(page, "head")
    ET.SubElement(head, "meta", charset="utf-8")
    ET.SubElement(head, "meta", name="viewport", content="width=device-width")
    _add(head, "title", f"{about['name']}: report")
    _add(head, "style", Path(__file__).with_name("report.css").read_text(encoding="utf-8"))
    body = ET.SubElement(page, "body")
    _add(body, "h1", about["name"])
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    _add(body, "p", f"{when} · process {about['pid']} · serving since {_clock(about['serving_since'])}")
    not_ready = [row["name"] for row in rows if row["state"] != "ready"]
    kind = "bad" if not_ready else "good"
    _add(body, "p", _summary(len(rows), not_ready), {"class": f"banner {kind}"})
    _services(body, rows)
    for row in rows:
        _service(body, running.get(path_of(row["name"])))
    _events(body, running.get("/api/v1/events")[-_LATEST:])
    _logs(body, running.get("/api/v1/logs")[-_LATEST:])
    _machine(body, running)
    return f"<!doctype html>\n{ET.tostring(page, encoding='unicode', method='html')}\n"


def _summary(services: int, not_ready: Sequence[str]) -> str:
    if not services:
        return "There are no services."
    if not not_ready:
        return "The service is ready." if services == 1 else f"All {services} services are ready."
    return f"Not ready: {', '.join(not_ready)} ({len(not_ready)} of {counted(services, 'service')})."


def _services(body: ET.Element, rows: Sequence[dict[str, Any]]) -> None:
    head = ("service", "state", "ready", "calls", "errors", "p50", "p95", "p99", "queue", "why")
    _table(
        body,
        head,
        (
            (
                row["name"],
                _state(row["state"]),
                f"{row['ready']}/{row['replicas']}",
                row["calls"],
                row["errors"],
                *(duration(row[share] or 0) for share in ("p50", "p95", "p99")),
                row["queue"],
                row["why"],
            )
            for row in rows
        ),
    )


def _service(body: ET.Element, found: dict[str, Any]) -> None:
    _add(body, "h2", found["service_name"])
    if found.get("error"):
        _add(body, "pre", found["error"])
    names = ("id", "state", "node", "pid", "inflight", "slots", "error")
    replicas = [
        [_state(each[name]) if name == "state" else each.get(name) for name in names]
        for each in found.get("replicas", [])
    ]
    if replicas:
        _table(body, ("replica", "state", "node", "process", "running", "slots", "error"), replicas)
    config = found.get("deployment_config")
    if config:
        _add(_folded(body, "configuration in force"), "pre", _lines(config))


def _lines(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _events(body: ET.Element, events: Sequence[dict[str, Any]]) -> None:
    _add(body, "h2", "events")
    if not events:
        _add(body, "p", "Nothing has happened.")
        return
    rows = [
        (_clock(each["time"]), each["replica"] or each["service"], each["kind"], each["reason"])
        for each in reversed(events)
    ]
    _table(body, ("time", "about", "event", "reason"), rows)


def _logs(body: ET.Element, lines: Sequence[dict[str, Any]]) -> None:
    _add(body, "h2", "logs")
    if not lines:
        _add(body, "p", "No service has logged anything.")
        return
    rows = [
        (
            _clock(each["time"]),
            each["level"].lower(),
            each["replica"] or each["service"],
            each["request_id"],
            each["message"],
        )
        for each in reversed(lines)
    ]
    _table(body, ("time", "level", "about", "request", "message"), rows)


def _machine(body: ET.Element, running: Running) -> None:
    _add(body, "h2", "machine")
    findings = running.get("/api/v1/doctor")["findings"]
    _table(
        body,
        ("what", "state", "found", "what to do"),
        [(each["name"], each["status"], each["found"], each["fix"]) for each in findings],
    )
    plugins = running.get("/api/v1/plugins")["plugins"]
    _table(
        _folded(body, f"{len(plugins)} plugins"),
        ("kind", "ID", "distribution", "version"),
        [(each["kind"], each["id"], each["distribution"], each["version"]) for each in plugins],
    )


def _table(parent: ET.Element, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    # A wide table scrolls by itself, and the page does not.
    table = ET.SubElement(ET.SubElement(parent, "div", {"class": "wide"}), "table")
    line = ET.SubElement(table, "tr")
    for name in head:
        _add(line, "th", name)
    for row in rows:
        line = ET.SubElement(table, "tr")
        for cell in row:
            number = isinstance(cell, (int, float))
            text = "-" if cell is None or cell == "" else str(cell)
            _add(line, "td", text, {"class": "number"} if number else {})


def _folded(parent: ET.Element, title: str) -> ET.Element:
    """A part that opens when its title is clicked."""
    part = ET.SubElement(parent, "details")
    _add(part, "summary", title)
    return part


def _state(state: object) -> str:
    return f"{_SHAPES.get(str(state), '◐')} {state}"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _add(parent: ET.Element, tag: str, text: str, attributes: dict[str, str] | None = None) -> None:
    ET.SubElement(parent, tag, attributes or {}).text = printable_text(text)
