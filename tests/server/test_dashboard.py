"""The dashboard in a real browser: what it shows, what it does, and what must never happen in it."""

from __future__ import annotations

import json
import logging
import re
import threading

import pytest

from chromium import Watched, chromium
from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig
from screens import each_screen, faults_of_look

pytestmark = pytest.mark.xdist_group("dashboard")  # one browser for all tests

HOSTILE = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script>"

#: `window.hide` hides the tab. The streams that the page opens are kept in `window.sources`.
_TAB = """
window.sources = [];
window.EventSource = class extends EventSource { constructor(url) { super(url); window.sources.push(this); } };
window.hide = (hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
};
"""


class Desk:
    """A service with a method that hangs until the test opens the door."""

    door, entered = threading.Event(), threading.Event()

    def add(self, a: int, b: int = 2) -> int:
        return a + b

    def hang(self) -> None:
        Desk.entered.set()
        Desk.door.wait()

    def fail(self) -> None:
        raise LookupError(HOSTILE)


class Sick:
    """A service that is as healthy as the test says."""

    is_ill = False

    def check_health(self) -> None:
        if Sick.is_ill:
            raise ConnectionError(HOSTILE)

    def look(self) -> int:
        return 1


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def env(request):
    """Two services. One checks its health only when it has started, or as often as the test's parameter says."""
    Desk.door, Desk.entered, Sick.is_ill = threading.Event(), threading.Event(), False
    interval = getattr(request, "param", 3600)
    quick = {"health_check_interval": interval, "failure_threshold": 1, "success_threshold": 1}
    with Environment("shown") as env:
        env.register_service_with_config("desk", Desk, deployment_config=ServiceDeploymentConfig(replicas=2))
        env.register_service_with_config("sick", Sick, deployment_config=ServiceDeploymentConfig(**quick))
        env.deploy()
        yield env
        Desk.door.set()


@pytest.fixture
def server(env):
    with serve(env, "127.0.0.1:0", token="t" * 64) as server:
        yield server


@pytest.fixture
def opened(browser, server):
    """Open the first screen or another in a new browser that has logged in. At the end, check what must not happen."""
    watched = []

    def opened(screen=None, *, read_only=False, **settings):
        watched.append(Watched(browser, server.url, **settings))
        page = watched[-1].page
        page.add_init_script(_TAB)
        page.goto(server.login_link(read_only=read_only))
        page.get_by_placeholder("Find").wait_for()
        if screen is not None:
            page.goto(f"{server.url}/#/{screen}")
        return page

    yield opened
    for each in watched:
        assert each.faults() == []
        assert [status for status in each.answered if status not in {401, 412, 422}] == []
        each.context.close()


# -- every screen ------------------------------------------------------------------------------------------------------

SCREENS = {
    "overview": "Latest events",
    "services/desk": "desk",
    "services/desk/desk%230": "desk#0",
    "placement": "Placement",
    "events": "Events",
    "logs": "Logs",
    "plan": "Plan",
    "plugins": "Plugins",
    "doctor": "Doctor",
    "try/desk/add": "desk.add",
}


def test_screens_break_no_rule_of_accessibility_and_fit_into_360_pixels(opened):
    """
    Each screen has no serious accessibility fault and fits 360 pixels. `opened` checks errors, policy and requests.
    """
    page = opened()
    faults = {screen: faults_of_look(page) for screen in each_screen(page, SCREENS)}
    assert {screen: found for screen, found in faults.items() if found} == {}


#: Finds elements that reach over the edges of the screen, and chart labels cut off by the chart's edges.
_CUT = """
const isCut = (each, edge) => {
  const [inner, outer] = [each, edge].map((one) => one.getBoundingClientRect());
  return inner.width > 0 && (inner.left < outer.left - 1 || inner.right > outer.right + 1);
};
const parts = [...document.querySelectorAll("main *")].filter((each) => isCut(each, document.querySelector("main")));
const labels = [...document.querySelectorAll(".chart text")].filter((each) => isCut(each, each.closest("svg")));
[...parts, ...labels].map((each) => each.outerHTML)
"""


def test_screens_use_a_window_of_4k_and_are_read_from_afar(opened):
    """On a 4K window each screen uses the width, nothing is cut off, and text grows with the window."""
    page = opened(viewport={"width": 3840, "height": 2160})
    for screen in each_screen(page, SCREENS):
        assert page.evaluate("document.documentElement.scrollWidth") == 3840, screen
        assert page.locator("main").bounding_box()["width"] > 0.65 * 3840, screen
        assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") > 20
        assert page.evaluate(_CUT) == [], screen


# -- what it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [0.5], indirect=True)  # seconds between two checks
def test_the_first_screen_says_which_service_is_ill_and_why_and_lists_it_first(opened):
    """The first screen lists an unhealthy service first, with the reason. HTML in the reason's text stays text."""
    page = opened()
    page.get_by_text("All 2 services are ready").wait_for()
    Sick.is_ill = True
    page.get_by_text("1 of 2 services not fully ready").wait_for()
    health = page.locator(".health")
    health.filter(has_text=f"ConnectionError: {HOSTILE}").wait_for()  # on a busy machine a check may time out first
    assert "sick unready, 0 of 1 replicas ready" in health.inner_text()
    assert page.locator(".services .row").first.inner_text().split()[:1] == ["unready"]
    assert page.title().startswith("▲ 1 ")
    assert page.locator("main img, main script").count() == 0
    page.get_by_role("status").get_by_role("link", name="sick").click()
    assert HOSTILE in page.locator(".reason").inner_text()
    Sick.is_ill = False
    page.get_by_role("link", name="Overview").click()
    page.get_by_text("All 2 services are ready").wait_for()


def test_a_call_that_hangs_is_seen_in_its_slot(opened, env):
    """A call that hangs is shown in its slot until it ends."""
    page = opened("services/desk")
    page.get_by_role("cell", name="0/1").first.wait_for()
    thread = threading.Thread(target=env.service("desk").hang)
    thread.start()
    assert Desk.entered.wait(20)
    page.get_by_role("cell", name="1/1").wait_for()
    assert page.locator(".stripes .on").count() >= 1
    Desk.door.set()
    thread.join()
    page.get_by_role("cell", name="1/1").wait_for(state="detached")


def test_a_lost_connection_is_said_with_the_age_of_what_is_shown(browser, env):
    """
    When the connection is lost, the page shows the age of its data and never calls it live; it reconnects by itself.
    """
    with serve(env, "127.0.0.1:0", token="t" * 64) as server:
        watched = Watched(browser, server.url)
        page = watched.page
        page.goto(server.login_link())
        page.get_by_text("live", exact=True).wait_for()
        port = server.url.rpartition(":")[2]
    page.get_by_text("The connection is lost.").wait_for()
    assert re.search(r"What you see is \d+ s old\.", page.get_by_role("alert").inner_text())
    assert page.get_by_text("live", exact=True).count() == 0
    assert "stale" in page.locator("main").get_attribute("class")
    with serve(env, f"127.0.0.1:{port}", token="t" * 64):
        page.get_by_text("This browser is not logged in any more.").wait_for()
    assert watched.faults() == []
    watched.context.close()


def test_updates_stop_in_hidden_tabs_and_on_demand(opened):
    """A hidden tab and the pause button close the page's event stream; both can resume."""
    page = opened()
    page.get_by_text("live", exact=True).wait_for()
    states = "window.sources.map((each) => each.readyState)"
    page.evaluate("window.hide(true)")
    assert page.evaluate(states) == [2]
    page.evaluate("window.hide(false)")
    page.get_by_text("live", exact=True).wait_for()
    assert page.evaluate(states) == [2, 1]
    page.get_by_role("button", name="Pause").click()
    page.get_by_text(re.compile(r"What you see is \d+ s old\.")).wait_for()
    assert page.evaluate(states) == [2, 2]
    page.get_by_role("button", name="Go on").last.click()
    page.get_by_text("live", exact=True).wait_for()


def test_logs_are_text_and_are_filtered_by_the_address(opened):
    """Log messages are shown as text, and the filter is kept in the page's address."""
    logging.getLogger("sage.service.desk").warning("a warning of %s", HOSTILE)
    page = opened("logs?level=WARNING")
    page.get_by_text(f"a warning of {HOSTILE}").wait_for()
    page.get_by_placeholder("Find").fill("nothing has that")
    page.get_by_text("No such line.").wait_for()
    assert page.url.endswith("#/logs?level=WARNING&q=nothing+has+that")
    page.reload()
    page.get_by_text("No such line.").wait_for()
    page.get_by_placeholder("Find").fill("")
    page.get_by_text(f"a warning of {HOSTILE}").wait_for()


def test_a_long_list_of_services_has_few_rows_in_the_page(opened, browser, server):
    """Of 1000 services only the visible rows are in the page, which is as long as all of them."""
    row = {"state": "ready", "ready": 1, "replicas": 1, "calls": 0, "errors": 0, "queue": 0, "why": "", "generation": 0}
    snapshot = {"services": [{"name": f"s{number:04}", **row} for number in range(1000)], "events": []}
    watched = Watched(browser, server.url)
    page = watched.page
    body = f"data: {json.dumps(snapshot)}\n\n"
    page.route("**/api/v1/stream", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.goto(server.login_link())
    page.get_by_role("link", name="s0000").wait_for()
    assert page.locator(".services .row").count() < 100
    assert page.evaluate("document.documentElement.scrollHeight") > 50_000
    page.evaluate("scrollTo(0, document.querySelector('.services').offsetHeight)")
    page.get_by_role("link", name="s0999").wait_for()
    assert page.locator(".services .row").count() < 100
    assert watched.faults() == []
    watched.context.close()


def test_of_a_service_with_a_thousand_replicas_only_those_are_drawn_that_can_be_seen(opened):
    """Of 1000 replicas only the visible ones are drawn; scrolling reaches all of them."""
    page = opened()
    replica = {"state": "ready", "slots": 4, "inflight": 1, "pid": 1, "error": "", "cpu": 0.5, "memory": 1}
    full = {"replicas": [{"id": f"desk#{number}", **replica} for number in range(1000)]}
    page.route("**/api/v1/services/desk", lambda route: route.fulfill(json=full))
    page.goto(f"{page.url.partition('#')[0]}#/services/desk")
    page.locator(".grid .row").first.wait_for()
    assert page.locator(".grid .row").count() < 100
    page.get_by_role("heading", name="Configuration in force").scroll_into_view_if_needed()
    page.get_by_role("link", name="desk#999", exact=True).wait_for()
    assert page.locator(".grid .row").count() < 100


# -- what it does ------------------------------------------------------------------------------------------------------


def test_scaling_shows_what_would_happen_and_then_does_it(opened):
    """Scaling first shows what would happen and the matching command, then does it."""
    page = opened("services/desk")
    page.get_by_role("button", name="Scale").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Replicas").fill("3")
    dialog.get_by_text("2 replicas now, 3 afterwards.").wait_for()
    assert dialog.locator("pre").inner_text() == "sage-deploy scale -e shown desk 3"
    assert page.get_by_text("2 of 2 replicas ready").count() == 1
    dialog.get_by_role("button", name="Scale", exact=True).click()
    dialog.get_by_text("done").wait_for()
    dialog.get_by_role("button", name="Close").click()
    page.get_by_text("3 of 3 replicas ready").wait_for()


def test_restarting_one_replica_replaces_that_one_alone(opened, env):
    """Restarting one replica replaces only that one."""
    page = opened("services/desk")
    page.get_by_role("button", name="Restart").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Replica").select_option("desk#1")
    dialog.get_by_text("New replicas take the place of desk#1. No call is lost.").wait_for()
    dialog.get_by_role("button", name="Restart", exact=True).click()
    dialog.get_by_text("done").wait_for()
    assert [each["restarts"] for each in env.get_service_status("desk")["replicas"]] == [0, 1]


def test_another_balancer_is_chosen_among_those_that_are_installed(opened, env):
    """Another balancer can be chosen from the installed ones; the setting is then marked as changed by hand."""
    page = opened("services/desk")
    page.get_by_role("button", name="Balancer").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Load balancer").select_option("round_robin")
    dialog.get_by_text("round_robin would choose replicas from then on.").wait_for()
    assert dialog.locator("pre").inner_text() == "sage-deploy balancer -e shown desk round_robin"
    dialog.get_by_role("button", name="Balancer", exact=True).click()
    dialog.get_by_text("done").wait_for()
    assert env.task("desk").drift == {"load_balancer": "round_robin"}
    dialog.get_by_role("button", name="Close").click()
    setting = page.get_by_role("row", name=re.compile("load_balancer .*round_robin"))
    setting.get_by_text("changed by hand; an apply sets").wait_for()


def test_a_drained_service_finishes_what_it_has_accepted_and_stops(opened, env):
    """A drained service finishes its accepted calls, then stops."""
    page = opened("services/desk")
    accepted = env.service("desk").submit("hang")
    assert Desk.entered.wait(20)
    page.get_by_role("button", name="Drain").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("desk finishes what it has accepted, and stops. It takes no more calls.").wait_for()
    dialog.get_by_role("button", name="Drain", exact=True).click()
    page.locator(".head").get_by_text("draining").wait_for()
    Desk.door.set()
    dialog.get_by_text("done").wait_for()
    page.locator(".head").get_by_text("stopped").wait_for()
    assert accepted.result(20) is None


def test_a_change_of_what_has_changed_meanwhile_is_refused(opened, env):
    """A change is refused if the service has changed since the dialog was opened."""
    page = opened("services/desk")
    page.get_by_role("button", name="Restart").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("New replicas take the place of desk#0, desk#1.").wait_for()
    env.scale("desk", 1)
    dialog.get_by_role("button", name="Restart", exact=True).click()
    dialog.get_by_text("desk has changed meanwhile").wait_for()


def test_a_login_that_may_only_look_sees_no_actions(opened):
    """A read-only login sees no actions."""
    page = opened(read_only=True)
    page.get_by_text("may only look", exact=True).wait_for()
    actions = re.compile("Scale|Restart|Drain|Balancer|Apply|Read")
    with_actions = ("services/desk", "services/desk/desk%230", "plan")
    for screen in each_screen(page, {screen: SCREENS[screen] for screen in with_actions}):
        assert page.locator("main button").filter(has_text=actions).count() == 0, screen


#: Goes to another screen as soon as the bar is drawn, before the page listens for that.
_HASTY_USER = """
new MutationObserver((_, observer) => {
  if (!document.querySelector("nav")) return;
  observer.disconnect();
  location.hash = "#/events";
}).observe(document, { childList: true, subtree: true });
"""


def test_a_screen_that_is_chosen_while_the_page_is_being_drawn_is_shown(opened, server):
    """A user who clicks a link of the bar before the page is ready sees the chosen screen."""
    page = opened().context.new_page()
    page.add_init_script(_HASTY_USER)
    page.goto(server.url)
    page.locator("nav [aria-current=page]", has_text="Events").wait_for()


def test_an_event_that_comes_while_older_ones_are_fetched_is_kept(opened, server, env):
    """The page loses no event that the stream sends while the page fetches older events."""
    page = opened().context.new_page()
    answers = []
    page.route("**/api/v1/events", lambda route: answers.append((route, route.fetch())))
    with page.expect_request("**/api/v1/events"):
        page.goto(f"{server.url}/#/events")
    page.get_by_text("live", exact=True).wait_for()
    while not answers:
        page.wait_for_timeout(10)
    env.scale("desk", 3)
    scaled = page.locator("main .kind", has_text="scaled")
    scaled.wait_for()
    route, answer = answers[0]
    route.fulfill(response=answer)
    page.locator(".brand", has_text="shown").wait_for()  # the page has both answers
    assert scaled.count() == 1


def test_events_of_a_snapshot_that_a_slow_page_has_missed_are_fetched(opened, env):
    """If the server leaves out a snapshot because the page reads too slowly, the page fetches its events."""
    page = opened("events")
    page.get_by_text("live", exact=True).wait_for()
    page.locator(".brand", has_text="shown").wait_for()
    page.evaluate(
        """() => {
            const source = window.sources.at(-1), take = source.onmessage;
            window.missed = false;
            source.onmessage = (message) => {
                const kinds = JSON.parse(message.data).events.map((each) => each.kind);
                if (kinds.includes("scaled") && !window.missed) window.missed = true;
                else take(message);
            };
        }"""
    )
    env.scale("desk", 3)
    while not page.evaluate("window.missed"):
        page.wait_for_timeout(10)
    env.set_load_balancer("desk", "random")
    page.locator("main .kind", has_text="balancer changed").wait_for()
    page.locator("main .kind", has_text="scaled").wait_for()


def test_the_keyboard_leads_everywhere(opened):
    """Keys reach the filter, the screens and the help. The filter keeps the focus, though it changes the address."""
    page = opened()
    page.keyboard.press("/")
    page.keyboard.type("sick")
    page.get_by_role("link", name="desk", exact=True).wait_for(state="detached")
    page.keyboard.press("Tab")
    page.keyboard.press("g")
    page.keyboard.press("e")
    page.get_by_role("heading", name="Events").wait_for()
    page.keyboard.press("?")
    page.get_by_role("dialog").get_by_text("these keys").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")


def test_the_language_is_switched_and_remembered(opened):
    """The language can be switched, and the page remembers it."""
    page = opened()
    page.get_by_role("button", name="中文").click()
    page.get_by_text("全部 2 个服务均已就绪").wait_for()
    page.reload()
    page.get_by_text("全部 2 个服务均已就绪").wait_for()
    assert page.evaluate("document.documentElement.lang") == "zh"
    page.get_by_role("button", name="English").click()
    page.get_by_text("All 2 services are ready").wait_for()


def test_the_plan_shows_what_a_changed_file_would_change_and_applies_it(opened, env, tmp_path):
    """
    The plan shows and applies what a changed file changes. A broken file is shown with its line and changes nothing.
    """
    file = tmp_path / "services.yaml"
    entry = "services: {second: {class: 'served_desk:Desk', deployment: {replicas: %s}}}\n"
    file.write_text(entry % 1)
    env.load_service_deployment_config(file)
    env.apply()
    page = opened("plan")
    page.get_by_text("What runs is what the files say.").wait_for()
    file.write_text(entry % 2)
    page.get_by_role("button", name="Read the files again").click()
    page.locator(".change").get_by_text("replicas").wait_for()
    page.get_by_role("button", name="Apply 1 change").click()
    page.get_by_role("status").get_by_text("done").wait_for()
    page.get_by_text("What runs is what the files say.").wait_for()
    file.write_text("services: {second: {clas: 'x:Y'}}\n")
    page.get_by_role("button", name="Read the files again").click()
    assert f"{file}:1:" in page.get_by_role("alert").inner_text()
