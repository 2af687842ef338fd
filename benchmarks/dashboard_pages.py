"""The dashboard in Chromium, driven by Playwright: time until it shows, and time to update a large one."""

from __future__ import annotations

import http.client
import importlib.util
import json
import random
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from http_servers import TOKEN, Serving
from table import show

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["paint", "updates"]

#: No sandbox, because root cannot use it. No requests that the browser makes to other hosts by itself.
_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")

#: Records when the first row of the services is in the page.
_NOTE_FIRST_ROW = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".services .row")) return;
  window.firstRow = performance.now();
  observer.disconnect();
}).observe(document, { childList: true, subtree: true });
"""

#: Milliseconds from the start of loading to the first paint.
_FIRST_PAINT = """new Promise((done) => new PerformanceObserver((list) => {
  for (const each of list.getEntries()) if (each.name === "first-contentful-paint") done(each.startTime);
}).observe({ type: "paint", buffered: true }))"""

#: Replaces the stream. `update` shows the snapshot `next`, and returns the milliseconds until it is painted. It starts
#: with a frame, so that the wait for the next frame is not measured.
_UPDATE = """
let source;
window.EventSource = class { constructor() { source = this; } close() {} };
window.update = () => new Promise((done) => requestAnimationFrame(() => {
  const painted = new MessageChannel();
  const begin = performance.now();
  painted.port1.onmessage = () => done(performance.now() - begin);
  source.onmessage({ data: window.next });
  painted.port2.postMessage(0);
}));
"""

_CONTEXTS = 12
_SERVICES, _REPLICAS = 200, 1000
#: Number of replicas in a service's row.
_STRIPES = 64
_UPDATES = 40
#: Milliseconds for the page's other work, such as asking for the replicas every other second.
_BETWEEN_MS = 500


@contextmanager
def _browser() -> Iterator[Any]:
    """Yield Chromium, or None after printing why there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None or importlib.util.find_spec("playwright") is None:
        print("the pages are not measured: that needs playwright, and `apt-get install chromium`")
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()


@contextmanager
def _page(browser: Any, port: int, script: str) -> Iterator[Any]:
    """Yield an empty page of a browser with a login and an empty cache. *script* runs in each page that it opens."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/login-link", "{}", headers)
    link = json.loads(connection.getresponse().read())["link"]
    connection.close()
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(script)
    context.request.get(link)
    yield context.new_page()
    context.close()


def paint(_rounds: int) -> None:
    """Measure the time from the start of loading to the first paint, and to the first row of the services."""
    measured: dict[str, list[float]] = {"first paint": [], "first row": []}
    with _browser() as browser, Serving("many") as server:
        if browser is None:
            return
        for _ in range(_CONTEXTS):
            with _page(browser, server.port, _NOTE_FIRST_ROW) as page:
                page.goto(f"http://127.0.0.1:{server.port}/")
                page.locator(".services .row").first.wait_for()
                measured["first paint"].append(page.evaluate(_FIRST_PAINT))
                measured["first row"].append(page.evaluate("window.firstRow"))
    show(f"{_CONTEXTS} new browser profiles, loopback (ms; goal <= 300)", measured, 1)


def updates(_rounds: int) -> None:
    """Measure updates of 200 services with 1,000 replicas each. The data is made up: that many cannot run here."""
    painted: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    chance = random.Random(1)  # noqa: S311 - numbers to show
    with _browser() as browser, Serving("many") as server:
        if browser is None:
            return
        for name, screen in {"overview": "overview", "one service": "services/service-7"}.items():
            with _page(browser, server.port, _UPDATE) as page:
                page.route("**/api/v1/services/service-7", lambda route: route.fulfill(json=_full(chance)))
                page.goto(f"http://127.0.0.1:{server.port}/#/{screen}")
                chromium = page.context.new_cdp_session(page)
                chromium.send("Performance.enable", {"timeDomain": "threadTicks"})
                _update(page, chance)
                page.locator(".grid .row").first.wait_for()
                page.wait_for_timeout(2 * _BETWEEN_MS)
                painted[name], used[name] = [], []
                for _ in range(_UPDATES):
                    page.wait_for_timeout(_BETWEEN_MS)
                    until_painted, busy = _update(page, chance, chromium)
                    painted[name].append(until_painted)
                    used[name].append(busy)
    title = f"{_SERVICES} services of {_REPLICAS} replicas, an update"
    show(f"{title}: until it is painted (ms; goal <= 50)", painted, 1)
    show(f"{title}: processor time of the page's main thread (ms; goal <= 50)", used, 1e3)


def _update(page: Any, chance: random.Random, chromium: Any = None) -> tuple[float, float]:
    """Show another snapshot. Return the milliseconds until it was painted, and the seconds of processor time."""
    page.evaluate("(text) => { window.next = text; }", _snapshot(chance))
    before = _used(chromium)
    painted = page.evaluate("update()")
    return painted, _used(chromium) - before


def _used(chromium: Any) -> float:
    if chromium is None:
        return 0.0
    found = chromium.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in found if each["name"] == "TaskDuration")


def _snapshot(chance: random.Random) -> str:
    """Return a message of the stream, with new numbers each time."""
    return json.dumps({"services": [_row(number, chance) for number in range(_SERVICES)], "events": []})


def _row(number: int, chance: random.Random) -> dict[str, Any]:
    name = f"service-{number}"
    stripes = [[f"{name}#{each}", "ready", 8, chance.randrange(9), 0] for each in range(_STRIPES)]
    return {
        "name": name,
        "state": "ready",
        "since": 1.7e9,
        "why": "",
        "ready": _REPLICAS - number % 2,
        "replicas": _REPLICAS,
        "restarts": chance.randrange(9),
        "calls": chance.randrange(10**6),
        "errors": chance.randrange(10**3),
        "rate": chance.random() * 1000,
        "error_rate": chance.random(),
        "p50": chance.random() / 100,
        "p95": chance.random() / 10,
        "p99": chance.random(),
        "queue": chance.randrange(100),
        "queue_capacity": 1000,
        "threads": 8 * _REPLICAS,
        "inflight": chance.randrange(8 * _REPLICAS),
        "slots": 8 * _REPLICAS,
        "abandoned": 0,
        "stripes": stripes,
        "more": _REPLICAS - _STRIPES,
        "generation": 0,
        "held_by": None,
    }


def _full(chance: random.Random) -> dict[str, Any]:
    """Return a service with all its replicas."""
    replicas = [
        {
            "id": f"service-7#{number}",
            "state": "ready",
            "node": f"node-{number % 20}",
            "inflight": chance.randrange(9),
            "slots": 8,
            "abandoned": 0,
            "threads": 8,
            "pid": 4000 + number,
            "stats_age": 0.0,
            "error": None,
            "since": 1.7e9,
            "restarts": 0,
            "history": [[1.7e9, "ready", ""]] * 20,
            "cpu": chance.random(),
            "memory": chance.randrange(2**30),
        }
        for number in range(_REPLICAS)
    ]
    return {"service_name": "service-7", "state": "ready", "replicas": replicas, "generation": 0}
