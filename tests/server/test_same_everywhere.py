"""The page, the commands, the API and `/metrics` show the same numbers, the page within two snapshots."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

import process_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from chromium import Watched, chromium
from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig, hookimpl
from sage_plugins.errors import OverloadedError
from sage_plugins.plugins.registry import Registry
from second_terminal import SAGE_DEPLOY

#: Playwright runs an event loop in this thread.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sage_plugins.errors.BlockingCallWarning"),
    pytest.mark.xdist_group("same_everywhere"),  # one browser for all tests
]

TOKEN = "t" * 64

#: Counts the snapshots that the server sends.
_COUNT = """
window.snapshots = 0;
window.EventSource = class extends EventSource {
  constructor(url) { super(url); this.addEventListener("message", () => { window.snapshots += 1; }); }
};
"""


_SNAPSHOTS_IF_SHOWN = r"""
text => document.body.innerText.replace(/\s+/g, " ").toLowerCase().includes(text.toLowerCase()) && window.snapshots
"""


class Till:
    """Counts, fails, hangs, becomes unhealthy and cannot be constructed, as the test says."""

    door, entered = threading.Event(), threading.Semaphore(0)
    is_ill = is_broken = False

    def __init__(self) -> None:
        if Till.is_broken:
            raise FileNotFoundError("no till.db")

    def check_health(self) -> bool:
        return not Till.is_ill

    def add(self, number: int) -> int:
        return number + 1

    def fail(self) -> None:
        raise LookupError("no such thing")

    def hang(self) -> None:
        Till.entered.release()
        Till.door.wait()


class SlowToReturn(process_target.ProcessReplica):
    """A replica in a child process. A replacement waits for the test before it starts."""

    door = threading.Event()

    def __init__(self, spec, events, clock):
        if spec.generation:
            SlowToReturn.door.wait()
        super().__init__(spec, events, clock)


class Plugin:
    @hookimpl
    def sage_register_targets(self):
        return [process_target.registration(replica=SlowToReturn)]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def env():
    Till.door, Till.entered, Till.is_ill, Till.is_broken = threading.Event(), threading.Semaphore(0), False, False
    settings = {"threading_strategy": "pool", "thread_count": 2, "queue_size": 2, "overload": "reject"}
    health = {"health_check_interval": 1.0, "failure_threshold": 1, "monitors": ["metrics", "health"]}
    with Environment("shop") as env:
        env.register_service_with_config("till", Till, deployment_config=ServiceDeploymentConfig(**settings, **health))
        env.deploy()
        yield env
        Till.door.set()


class Surfaces:
    """All surfaces that show a service."""

    def __init__(self, env, server, page):
        self.env, self.server, self.page = env, server, page

    def rest(self, path="/api/v1/services"):
        return json.loads(self.text(path))

    def text(self, path):
        """Return the API's answer, even if it is an error."""
        connection = HTTPConnection(*self.server.address, timeout=20)
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def command(self, *arguments):
        """Run a command in its own process; return its output as JSON, and the exit code."""
        line = [SAGE_DEPLOY, *arguments, "--url", self.server.url, "--token", TOKEN]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        return json.loads(done.stdout), done.returncode

    def metric(self, name, **labels):
        """Return the sum of all samples of that name with these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in self.text("/metrics").splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(each in line for each in wanted))

    def fact(self, name):
        """Return a number from the service's page."""
        text = self.page.locator(".facts-row div").filter(has=self.page.get_by_text(name, exact=True)).inner_text()
        return text.removeprefix(name).strip()

    def snapshots(self):
        return self.page.evaluate("window.snapshots")

    def shows(self, text, since):
        """Check that the page shows *text* no later than two snapshots after *since*."""
        shown_at = self.page.wait_for_function(
            _SNAPSHOTS_IF_SHOWN, arg=text
        )  # counted in the page: this process may be slow
        assert shown_at.json_value() <= since + 2


@pytest.fixture
def watched(browser):
    @contextmanager
    def watched(env):
        with serve(env, "127.0.0.1:0", token=TOKEN) as server:
            watched = Watched(browser, server.url, viewport={"width": 1400, "height": 1000})
            watched.page.add_init_script(_COUNT)
            watched.page.goto(server.login_link())
            watched.page.get_by_text("live", exact=True).wait_for()
            yield Surfaces(env, server, watched.page)
            assert watched.faults() == []
            watched.context.close()

    return watched


@pytest.fixture
def shop(watched, env):
    with watched(env) as shop:
        yield shop


@pytest.fixture
def processes(watched):
    """The same service with each replica in its own process."""
    SlowToReturn.door.clear()
    with Environment(
        "shop", registry=Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())
    ) as env:
        config = ServiceDeploymentConfig(target="process", replicas=2)
        env.register_service_with_config("till", Till, deployment_config=config)
        env.deploy()
        with watched(env) as shop:
            yield shop
        SlowToReturn.door.set()


def until(condition):
    """Wait until *condition* holds, such as the result of a health check."""
    while not condition():
        time.sleep(0.01)


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_service_without_a_replica_that_is_ready_is_unready_everywhere(shop, env):
    """A service without a ready replica is unready on every surface, also in /readyz, and then ready again."""
    Till.is_ill = True
    until(lambda: "till#0 returned False" in (shop.rest()[0]["why"] or ""))  # on a busy machine a check times out first
    shop.shows("unready, 0 of 1 replicas ready", shop.snapshots())
    assert env.get_service_status("till")["state"] == "unready"
    (row,) = shop.rest()
    assert (row["state"], row["ready"], row["replicas"]) == ("unready", 0, 1)
    assert shop.command("status", "-o", "json") == ([shop.rest()[0]], 4)
    assert shop.command("describe", "till", "-o", "json")[0]["state"] == "unready"
    assert json.loads(shop.text("/readyz")) == {"ready": False, "not_ready": {"till": "unready"}}
    assert shop.metric("sage_service_ready", service="till") == 0
    Till.is_ill = False
    until(lambda: env.overview()["till"]["state"] == "ready")
    shop.shows("The service is ready", shop.snapshots())
    assert json.loads(shop.text("/readyz"))["ready"]
    assert shop.metric("sage_service_ready", service="till") == 1


def test_a_killed_replica_is_missing_everywhere_until_another_has_its_place(processes):
    """
    A killed replica is missing on every surface until it is replaced. Meanwhile the service is degraded and /readyz ok.
    """
    shop = processes
    ready = lambda: shop.env.overview()["till"]["health"]["ready"]  # noqa: E731 - used twice
    process_target.kill("till#0")
    until(lambda: ready() == 1)
    shop.shows("degraded, 1 of 2 replicas ready", shop.snapshots())
    assert "its process ended with -9" in shop.page.locator(".health").inner_text()
    assert shop.page.locator(".services .stripes .ill").count() == 1
    (row,) = shop.command("status", "-o", "json")[0]
    assert (row["state"], row["ready"], row["replicas"]) == ("degraded", 1, 2)
    assert json.loads(shop.text("/readyz"))["ready"]
    assert shop.metric("sage_service_ready", service="till") == 1
    assert shop.metric("sage_replicas", service="till", state="ready") == 1
    SlowToReturn.door.set()
    until(lambda: ready() == 2)
    shop.shows("The service is ready", shop.snapshots())
    assert shop.page.locator(".services .stripes .ill").count() == 0
    assert shop.rest()[0]["restarts"] == shop.metric("sage_replica_restarts_total", service="till") == 1


def test_a_full_queue_is_full_everywhere(shop, env):
    """A full queue and its refused calls show the same numbers on every surface."""
    till = env.service("till")
    futures = [till.submit("hang") for _ in range(4)]
    for _ in range(2):
        assert Till.entered.acquire(timeout=20)
    with pytest.raises(OverloadedError):
        till.add(1)
    shop.shows("2/2", shop.snapshots())
    (row,) = shop.command("status", "-o", "json")[0]
    assert row["rejected"] == shop.metric("sage_rejected_total", service="till", reason="overloaded") == 1
    assert (row["queue"], row["queue_capacity"], row["inflight"], row["slots"]) == (2, 2, 2, 2)
    assert shop.metric("sage_queue_depth", service="till") == shop.metric("sage_queue_capacity", service="till") == 2
    shop.page.goto(f"{shop.server.url}/#/services/till")
    shop.page.locator(".facts-row div").filter(has_text="Rejected").get_by_text("1", exact=True).wait_for()
    Till.door.set()
    for future in futures:
        future.result(20)
    shop.page.get_by_text("0 / 2").first.wait_for()


def test_a_constructor_that_breaks_is_named_where_the_change_was_asked_for(shop, env):
    """A constructor error is shown in the dialog that asked for the change; the running replicas are unchanged."""
    page = shop.page
    page.goto(f"{shop.server.url}/#/services/till")
    Till.is_broken = True
    page.get_by_role("button", name="Scale").click()
    page.get_by_label("Replicas").fill("2")
    page.get_by_role("dialog").get_by_role("button", name="Scale", exact=True).click()
    page.get_by_role("dialog").get_by_text("no till.db").wait_for()
    (row,) = shop.rest()
    assert (row["state"], row["ready"], row["replicas"]) == ("ready", 1, 1)
    assert env.service("till").add(1) == 2


# -- numbers -----------------------------------------------------------------------------------------------------------


def load(env, enough):
    """Make calls until the event *enough* is set, of which every tenth fails; return their number."""
    till, made = env.service("till"), 0
    while not enough.wait(0.002):  # to limit the load
        made += 1
        if made % 10:
            till.add(made)
        else:
            with pytest.raises(LookupError):
                till.fail()
    return made


@pytest.mark.parametrize("looks", [4, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_numbers_are_the_same_everywhere_under_load_and_after_it(shop, env, looks):
    """Under load, each reading is at least as high as the one before it. Afterwards all surfaces are equal."""
    shop.page.goto(f"{shop.server.url}/#/services/till")
    made, enough = [], threading.Event()
    loader = threading.Thread(target=lambda: made.append(load(env, enough)))
    loader.start()
    page_before = 0
    for _ in range(looks):
        found = [
            shop.metric("sage_requests_total", service="till"),
            shop.rest()[0]["calls"],
            shop.command("status", "-o", "json")[0][0]["calls"],
            env.get_service_status("till")["metrics"].request_count,
        ]
        assert found == sorted(found)
        shown = int(shop.fact("Calls").replace(",", ""))
        assert page_before <= shown <= shop.metric("sage_requests_total", service="till")
        page_before = shown
    enough.set()
    loader.join()
    (row,) = shop.rest()
    (told,) = shop.command("status", "-o", "json")[0]
    measured = env.get_service_status("till")["metrics"]
    counts = ("calls", "errors", "p50", "p95", "p99", "queue", "inflight", "slots", "restarts")
    assert {name: told[name] for name in counts} == {name: row[name] for name in counts}
    assert (row["calls"], row["errors"]) == (made[0], made[0] // 10)
    assert (measured.request_count, measured.error_count) == (row["calls"], row["errors"])
    assert shop.metric("sage_requests_total", service="till") == made[0]
    assert shop.metric("sage_requests_total", service="till", outcome="error") == made[0] // 10
    assert shop.metric("sage_request_duration_seconds_count", service="till") == made[0]
    since = shop.snapshots()
    shop.page.wait_for_function("(since) => window.snapshots > since + 1", arg=since)
    assert shop.fact("Calls") == f"{made[0]:,}"
    for share in ("p50", "p95", "p99"):
        number, unit = shop.fact(share).split()
        assert float(number) == pytest.approx(row[share] * {"s": 1, "ms": 1000}[unit], rel=0.006, abs=0.006)
    assert shop.fact("Queue") == "0 / 2"
    assert shop.fact("Slots") == "0 / 2"
