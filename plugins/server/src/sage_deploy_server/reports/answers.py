"""Records the API answers that the pages of a report need."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sage_deploy_server.commands.client import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_deploy_server.commands.client import EnvironmentClient

__all__ = ["record"]

#: Maximum numbers of services with charts and with details. More would make the file too large to send.
_MAX_CHARTS: Final = 50
_MAX_SERVICES: Final = 500

#: Maximum number of log lines: as many as the pages keep.
_MAX_LINES: Final = 2000

#: Time spans of a service's charts, in seconds.
_SPANS: Final = (900, 3600, 86_400)

#: Characters that `encodeURIComponent` keeps. Paths must match those that the pages build.
_UNESCAPED: Final = "!~*'()"


def record(client: EnvironmentClient) -> dict[str, Any]:
    """
    Ask a running environment for everything that the pages show.

    Returns:
        `time`: reference for ages, in seconds since the epoch. `answers`: by path, each with `data`, `history` or
        `error`. `left`: by kind, how many (`n`) of how many (`all`) were left out.

    Raises:
        click.ClickException: The environment does not answer.
    """
    rows = client.get("/api/v1/services")
    now = time.time()
    lines = client.get("/api/v1/logs")
    names = _worst_first(rows)
    answers = {
        "/api/v1/services": {"data": rows},
        "/api/v1/environment": {"data": _without_access(client.get("/api/v1/environment"))},
        "/api/v1/events": {"data": client.get("/api/v1/events")},
        "/api/v1/logs?after=0": {"data": lines[-_MAX_LINES:]},
        "/api/v1/history?seconds=900": _history(client, 900),
        **{path: _answer(client.get, path) for path in ("/api/v1/nodes", "/api/v1/plugins", "/api/v1/doctor")},
        "POST /api/v1/plan": _answer(client.change, "/api/v1/plan"),
        **_service_answers(client, names[:_MAX_SERVICES]),
        **_charts(client, names[:_MAX_CHARTS]),
    }
    left = {
        "services": _left_out(len(names), _MAX_SERVICES),
        "charts": _left_out(len(names), _MAX_CHARTS),
        "logs": _left_out(len(lines), _MAX_LINES),
    }
    return {"time": now, "answers": answers, "left": left}


def _service_answers(client: EnvironmentClient, names: Sequence[str]) -> dict[str, Any]:
    """Return the answers about single services: replicas, errors and plans."""
    planned = _answer(client.get, "/api/v1/plan").get("data", {"services": []})
    plans = {each["name"]: each for each in planned["services"]}
    answers = {}
    for name in names:
        path = f"/api/v1/services/{quote(name, safe=_UNESCAPED)}"
        replicas = _answer(client.get, f"{path}/replicas")
        # The pages show only the replicas of a full service description.
        answers[path] = {"data": {"replicas": replicas["data"]}} if "data" in replicas else replicas
        answers[f"{path}/errors"] = _answer(client.get, f"{path}/errors")
        answers[f"{path}/plan"] = {"data": plans.get(name)}
    return answers


def _charts(client: EnvironmentClient, names: Sequence[str]) -> dict[str, Any]:
    return {
        f"/api/v1/history?seconds={seconds}&service={quote(name, safe=_UNESCAPED)}": _history(client, seconds, name)
        for name in names
        for seconds in _SPANS
    }


def _without_access(about: dict[str, Any]) -> dict[str, Any]:
    """Return the environment's description without the access level, because the file's reader is somebody else."""
    return {name: value for name, value in about.items() if name != "access"}


def _answer(ask: Callable[[str], Any], path: str) -> dict[str, Any]:
    """Return the answer, or the refusal, which the page shows as it would with a server."""
    try:
        return {"data": ask(path)}
    except RefusedError as error:
        return {"error": {"status": error.status, "message": error.message}}


def _history(client: EnvironmentClient, seconds: int, service: str | None = None) -> dict[str, Any]:
    """
    Return the recorded metrics, from the first to the last known values.

    Earlier rows are empty, so only their number is kept. Later rows are of seconds that have not ended.
    """
    answer = _answer(lambda path: client.get(path, seconds=seconds, service=service), "/api/v1/history")
    if "error" in answer:
        return answer
    found = answer["data"]
    every, times = found.pop("every"), found.pop("times")
    known = [at for at, row in enumerate(zip(*found.values(), strict=True)) if set(row) != {None}]
    first, last = (known[0], known[-1]) if known else (len(times), len(times) - 1)
    shown = {name: values[first : last + 1] for name, values in found.items()}
    return {"history": {"every": every, "end": times[last], "rows": last + 1, **shown}}


def _worst_first(rows: Sequence[dict[str, Any]]) -> list[str]:
    def is_good(row: dict[str, Any]) -> bool:
        return bool(row["state"] == "ready" and row["ready"] >= row["replicas"])

    return [row["name"] for row in sorted(rows, key=lambda row: (is_good(row), row["name"]))]


def _left_out(there: int, maximum: int) -> dict[str, int]:
    return {"n": max(0, there - maximum), "all": there}
