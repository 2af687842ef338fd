"""The file of `sage-deploy report` in a real browser: it shows what the dashboard shows, without a server."""

from __future__ import annotations

import json
import logging
import re
import threading

import pytest
from click.testing import CliRunner

from chromium import Watched, chromium
from sage_deploy_server import serve
from sage_deploy_server.commands.client import EnvironmentClient
from sage_deploy_server.commands.reporting import report
from sage_deploy_server.reports import answers, page
from sage_plugins import Environment, ServiceDeploymentConfig
from screens import each_screen, faults_of_look

pytestmark = pytest.mark.xdist_group("report")  # one browser for all tests

HOSTILE = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script><!-- \u2028\u202e"
CANARY = "canary-in-a-coal-mine"
TOKEN, READ_TOKEN = "t" * 64, "r" * 64

SCREENS = {
    "overview": "Latest events",
    "services/desk": "desk",
    "services/desk/desk%230": "desk#0",
    "services/sick": "sick",
    "placement": "Placement",
    "events": "Events",
    "logs": "Logs",
    "plan": "Plan",
    "plugins": "Plugins",
    "doctor": "Doctor",
}


class Desk:
    door, entered = threading.Event(), threading.Event()

    def add(self, a: int, b: int = 2) -> int:
        return a + b

    def hang(self) -> None:
        Desk.entered.set()
        Desk.door.wait()

    def fail(self) -> None:
        raise LookupError(HOSTILE)


class Sick:
    def check_health(self) -> None:
        raise ConnectionError(HOSTILE)

    def look(self) -> int:
        return 1


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A service that was called and has a call that hangs, an unhealthy one, and one with a secret."""
    Desk.door, Desk.entered = threading.Event(), threading.Event()
    # Checked only once, when ready: the test run would report the thread of a later check as left behind.
    asked = {"health_check_interval": 3600, "failure_threshold": 1}
    pause = threading.Event()
    file = tmp_path_factory.mktemp("files") / "secret.yaml"
    file.write_text(f"services: {{secret: {{class: 'served_desk:Desk', user_config: {{api_key: {CANARY}}}}}}}\n")
    with Environment(HOSTILE) as env:
        config = ServiceDeploymentConfig(replicas=2, timeout=600)
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.register_service_with_config("sick", Sick, deployment_config=ServiceDeploymentConfig(**asked))
        env.load_service_deployment_config(file)
        env.deploy()
        calling = threading.Thread(target=call, args=[env.service("desk")])
        calling.start()
        assert Desk.entered.wait(20)
        with serve(env, "127.0.0.1:0", token=TOKEN, read_token=READ_TOKEN) as server:
            logging.getLogger("sage.service.desk").warning("a warning of %s", HOSTILE)
            client = EnvironmentClient.at_url(server.url, TOKEN)
            while "replica_unhealthy" not in [each["kind"] for each in client.get("/api/v1/events")]:
                pause.wait(0.01)
            yield server
            Desk.door.set()
            calling.join()


def call(desk):
    """
    Make nine calls that end and one that hangs. Runs in a thread, because Playwright uses the main thread's event loop.
    """
    for number in range(7):
        desk.add(number)
    for _ in range(2):
        with pytest.raises(LookupError):
            desk.fail()
    desk.hang()


def write(server, file, token=TOKEN):
    """Write a report; return its recording."""
    done = CliRunner().invoke(report, ["-o", str(file), "--url", server.url, "--token", token])
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    return recording_in(file)


def recording_in(file):
    found = re.search(r'<script type="application/json" id="recording">(.*?)</script>', file.read_text("utf-8"))
    return json.loads(found[1])


@pytest.fixture(scope="module")
def file(server, tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "out.html"
    write(server, file)
    return file


@pytest.fixture
def opened(browser, file):
    """Open a screen of a report. At the end, check that there were no errors, policy violations or requests."""
    watched = []

    def opened(screen="overview", *, of=file, **settings):
        watched.append(Watched(browser, "file://", **settings))
        shown = watched[-1].page
        asked = watched[-1].asked = []
        shown.on("request", lambda request: asked.append(request.url.partition("#")[0]))
        shown.goto(f"{of.as_uri()}#/{screen}")
        return shown

    yield opened
    for each in watched:
        assert each.faults() == []
        assert {url for url in each.asked if not url.startswith("data:")} == {each.page.url.partition("#")[0]}
        each.context.close()


# -- every screen ------------------------------------------------------------------------------------------------------


def test_screens_break_no_rule_of_accessibility_and_fit_into_360_pixels(opened):
    """
    Each screen has no serious accessibility fault and fits 360 pixels. `opened` checks errors, policy and requests.
    """
    shown = opened()
    faults = {screen: faults_of_look(shown) for screen in each_screen(shown, SCREENS)}
    assert {screen: found for screen, found in faults.items() if found} == {}


def test_a_screen_has_nothing_that_needs_a_server(opened):
    """A report has no actions, no screen for calls and no live state. It shows when it was recorded."""
    shown = opened()
    for _ in each_screen(shown, SCREENS):
        buttons = {each.inner_text() for each in shown.get_by_role("button").all()}
        assert buttons <= {"中文", "?", "15 min", "1 h", "24 h"}
        links = shown.get_by_role("navigation").get_by_role("link").all_inner_texts()
        assert links == ["Overview", "Placement", "Events", "Logs", "Plan", "Plugins", "Doctor"]
        assert re.search(r"Recorded \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", shown.locator("header time").inner_text())
        assert shown.get_by_text(re.compile(r"^(live|paused|lost|connecting)$")).count() == 0


def test_without_javascript_the_file_says_what_it_needs(opened):
    """Without JavaScript, the file says that it needs it."""
    shown = opened(java_script_enabled=False)
    assert "This file needs JavaScript" in shown.locator("noscript").inner_text()


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_api(opened, server, file):
    """The report has the numbers of the API, in the rows and on the service's page."""
    rows = {row["name"]: row for row in EnvironmentClient.at_url(server.url, TOKEN).get("/api/v1/services")}
    recorded = {row["name"]: row for row in recording_in(file)["answers"]["/api/v1/services"]["data"]}
    fixed = ("state", "ready", "replicas", "calls", "errors", "p50", "p95", "p99", "queue", "stripes", "generation")
    assert {name: [row[each] for each in fixed] for name, row in recorded.items()} == {
        name: [row[each] for each in fixed] for name, row in rows.items()
    }
    shown = opened()
    shown.get_by_text("1 of 3 services not fully ready").wait_for()
    cells = shown.locator(".services .row").filter(has_text="desk").locator("td").all_inner_texts()
    assert (cells[0].strip(), cells[2], cells[8]) == ("ready", "2/2", "0/1,000")
    assert cells[5] == f"{rows['desk']['p50'] * 1000:.2f} ms"
    shown.get_by_role("link", name="desk", exact=True).click()
    facts = shown.locator(".facts-row")
    for name, number in (("Calls", "9"), ("Slots", "1 / 2")):
        fact = facts.locator("div").filter(has=shown.get_by_text(name, exact=True))
        assert fact.locator("dd").inner_text() == number
    shown.get_by_role("cell", name="1/1").wait_for()
    assert shown.locator(".fault").filter(has_text="LookupError").locator(".badge").inner_text() == "2"


def test_ages_are_those_of_the_moment_of_recording(opened, file):
    """Ages are those at the time of recording, however late the file is opened."""
    shown = opened("services/desk/desk%230")
    before = shown.locator("dl").inner_text()
    assert re.search(r"Runs for\n\d+ s\n", before)
    when = recording_in(file)["time"]
    shown.clock.set_fixed_time(when + 10 * 86_400)
    shown.reload()
    assert shown.locator("dl").inner_text() == before
    assert shown.locator("main.stale").count() == 0


def test_hostile_texts_stay_texts(opened, file):
    """
    Hostile text in names, errors and logs stays text. In the file, too, it cannot end the script that contains it.
    """
    text = file.read_text("utf-8")
    assert len(re.findall(r"<script|<!--|</script", text)) == 4
    assert re.findall("[\u2028\u202e]", text.partition("<style>")[2]) == []
    shown = opened()
    assert f"ConnectionError: {HOSTILE[:-2]}" in shown.locator(".health").inner_text()
    assert shown.locator("header b").get_attribute("title") == HOSTILE
    assert HOSTILE[:-2] in shown.title()
    places = {"services/sick": ".reason", "services/desk": ".fault", "logs": ".log", "events": ".feed"}
    for screen, found in places.items():
        shown.goto(f"{file.as_uri()}#/{screen}")
        shown.locator(found).filter(has_text="onerror").first.wait_for()
        assert HOSTILE[:-3] in shown.locator(found).filter(has_text="onerror").first.inner_text()
        assert shown.locator("main img, main script").count() == 0


def test_secrets_are_not_in_the_file(file):
    """The file contains no secrets, tokens or login tickets."""
    text = file.read_text("utf-8")
    assert "api_key" in text
    assert [each for each in (CANARY, TOKEN, READ_TOKEN, "ticket=") if each in text] == []


# -- the way in it -----------------------------------------------------------------------------------------------------


def test_links_filters_and_keys_lead_everywhere(opened):
    """Links, filters and keys work as in the dashboard; filters are in the address."""
    shown = opened()
    shown.get_by_placeholder("Find").fill("sick")
    shown.get_by_role("link", name="desk", exact=True).wait_for(state="detached")
    assert shown.url.endswith("#/overview?q=sick")
    shown.get_by_role("cell", name="sick").get_by_role("link").click()
    shown.get_by_role("link", name="sick#0").first.click()
    shown.get_by_role("heading", name="States so far").wait_for()
    shown.keyboard.press("g")
    shown.keyboard.press("l")
    shown.get_by_text("a warning of").wait_for()
    shown.get_by_placeholder("Find").fill("nothing has that")
    shown.get_by_text("No such line.").wait_for()
    shown.go_back()
    shown.get_by_role("heading", name="States so far").wait_for()
    shown.goto(shown.url.partition("#")[0] + "#/try")
    shown.get_by_text("1 of 3 services not fully ready").wait_for()


def test_charts_are_there_of_each_span(opened):
    """The report has charts for each time span."""
    shown = opened("services/desk")
    for span in ("1 h", "24 h", "15 min"):
        shown.get_by_role("button", name=span).click()
        assert shown.url.endswith(f"span={span.replace(' ', '+')}")
        shown.get_by_role("img", name=re.compile("^Calls per second: ")).wait_for()
        assert re.search(r"slots\s*2", shown.locator(".charts").inner_text())
        shown.locator(".curve[d^='M']").first.wait_for(state="attached")


class Measured:
    """Ten seconds of history from noon on, three of them known."""

    def get(self, path, **query):
        first = 1_800_014_400  # 2027-01-15 12:00:00
        known = dict.fromkeys(("error_rate", "p50", "p95", "p99", "queue", "inflight", "slots"), [None] * 10)
        rate = [*[None] * 4, 1, 2, 3, *[None] * 3]
        return {"every": 1, "times": [first + second for second in range(10)], "rate": rate, **known}


def test_a_chart_has_each_value_at_its_time(opened, file, tmp_path):
    """A chart draws each value at its time and ends with the last known second; unknown values are gaps."""
    recording = recording_in(file)
    recording["answers"]["/api/v1/history?seconds=900&service=desk"] = answers._history(Measured(), 900, "desk")
    drawn = tmp_path / "drawn.html"
    drawn.write_text(page.page_of(recording), encoding="utf-8")
    shown = opened("services/desk", of=drawn, timezone_id="UTC")
    chart = shown.locator(".chart").first
    assert "rate 3" in chart.inner_text().replace("\n", " ")
    box = chart.locator("svg").bounding_box()
    for part, when, rate in ((0.999, "12:00:06", "3"), (0.85, "12:00:05", "2"), (0.02, "12:00:00", "\u2013")):
        shown.mouse.move(box["x"] + 56 + part * (box["width"] - 56), box["y"] + 50)
        chart.get_by_text(when).wait_for()
        assert chart.locator(".legend b").first.inner_text() == rate


def test_the_language_can_be_chosen(opened):
    """The language of a report can be switched."""
    shown = opened()
    shown.get_by_role("button", name="中文").click()
    shown.get_by_text("3 个服务中有 1 个未完全就绪").wait_for()
    assert shown.locator("header time").inner_text().startswith("记录于 ")
    shown.get_by_role("button", name="English").click()
    shown.get_by_text("1 of 3 services not fully ready").wait_for()


# -- how it is made ----------------------------------------------------------------------------------------------------


def test_only_the_script_and_the_style_of_the_file_count(browser, file):
    """The file's policy allows only its own script and style: injected scripts and requests are blocked."""
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', file.read_text("utf-8"))[1]
    allowed = dict(each.split(" ", 1) for each in policy.split("; "))
    assert allowed.pop("img-src") == "data:"
    hashes = [allowed.pop("script-src"), allowed.pop("style-src")]
    assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", each) for each in hashes)
    assert allowed == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    watched = Watched(browser, "file://")
    watched.page.goto(file.as_uri())
    watched.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    watched.page.evaluate("fetch('data:,x').catch(() => {})")
    assert watched.page.evaluate("window.ran") is None
    assert watched.page.evaluate("window.violations.length") == 2
    watched.context.close()


class Many:
    """A client that shows 200 services, one of them failed, and records its requests."""

    def __init__(self, server):
        self.client = EnvironmentClient.at_url(server.url, TOKEN)
        self.asked = []
        (self.row,) = (row for row in self.client.get("/api/v1/services") if row["name"] == "desk")

    def get(self, path, **query):
        self.asked.append((path, *query.values()))
        if path == "/api/v1/services":
            rows = [{**self.row, "name": f"s{number:03}"} for number in range(200)]
            return [*rows[:-1], {**rows[-1], "state": "failed"}]
        if path == "/api/v1/logs":
            line = self.client.get(path)[0]
            return [{**line, "seq": number, "message": f"line {number}"} for number in range(2500)]
        if path == "/api/v1/plan":
            (plan,) = (each for each in self.client.get(path)["services"] if each["name"] == "desk")
            return {"services": [{**plan, "name": f"s{number:03}"} for number in range(200)]}
        query.pop("service", None)
        return self.client.get(re.sub("/s[0-9]{3}", "/desk", path), **query)

    def change(self, path):
        self.asked.append((path, "POST"))
        return self.client.change(path)


def test_of_many_services_the_ill_ones_have_charts_and_the_file_says_what_it_leaves_out(opened, server, tmp_path):
    """
    With many services, unhealthy ones get charts first. The file says what it leaves out; each path is asked once.
    """
    many = Many(server)
    file = tmp_path / "many.html"
    file.write_text(page.page_of(answers.record(many)), encoding="utf-8")
    assert len(many.asked) == len(set(many.asked)) <= 10 + 2 * 200 + 3 * answers._MAX_CHARTS
    shown = opened(of=file)
    shown.get_by_text("1 of 200 services not fully ready").wait_for()
    said = shown.get_by_role("complementary").inner_text()
    assert [line for line in said.splitlines() if line] == [
        "This file leaves out:",
        "charts of 150 of 200 services",
        "500 of 2500 log lines, the oldest",
    ]
    charts = shown.get_by_role("img", name=re.compile("^Latency: "))
    for service, count in {"s199": 1, "s000": 1, "s048": 1, "s049": 0}.items():
        shown.goto(f"{file.as_uri()}#/services/{service}")
        shown.get_by_role("heading", name=service).wait_for()
        assert charts.count() == count
        assert shown.get_by_text("threading_strategy").count() == 1
    shown.goto(f"{file.as_uri()}#/logs")
    shown.get_by_text("line 2499").wait_for()


def test_of_a_service_that_is_left_out_the_page_says_so(opened, server, tmp_path, monkeypatch):
    """The page of a service that the file leaves out says so."""
    monkeypatch.setattr(answers, "_MAX_SERVICES", 1)
    monkeypatch.setattr(answers, "_MAX_CHARTS", 1)
    file = tmp_path / "few.html"
    write(server, file)
    shown = opened("services/desk", of=file)
    assert shown.get_by_role("alert").inner_text() == "This file leaves it out."
    assert "replicas, errors and settings of 2 of 3 services" in shown.get_by_role("complementary").inner_text()
    assert opened("services/sick", of=file).get_by_role("alert").count() == 0


def test_who_may_only_look_gets_all_but_the_plan(opened, server, tmp_path):
    """A report written with the read token has everything except the plan."""
    file = tmp_path / "read.html"
    write(server, file, READ_TOKEN)
    shown = opened("plan", of=file)
    assert (
        shown.get_by_role("alert").inner_text() == "token: this token is read-only and cannot call or change anything"
    )
    assert opened("services/desk", of=file).get_by_text("threading_strategy").count() == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('import { t } from "./main.js";', "api.js -> board/words.js -> board/main.js"),
        ('import { nothing } from "./chinese.js";', "imports ['nothing'], which board/chinese.js does not export"),
        ("export let language = 1;", "imports or exports in a way that a report cannot have"),
    ],
)
def test_a_module_that_a_report_cannot_have_is_told(monkeypatch, text, words):
    """A module that a report cannot include is an error, because the report would be an empty page."""
    read_file = page.read_file
    monkeypatch.setattr(page, "read_file", lambda file: text.encode() if file == "board/words.js" else read_file(file))
    with pytest.raises(ValueError, match=re.escape(words)):
        page._script()
