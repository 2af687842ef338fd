"""The page for trying calls in a real browser: what it shows and sends, and what must never happen in it."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - the server reads the annotations
import enum
import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator  # noqa: TC003 - as above
from dataclasses import dataclass

import pytest

from chromium import Watched, chromium
from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig

pytestmark = pytest.mark.xdist_group("try_page")  # one browser for all tests

TOKEN = "t" * 64
HOSTILE = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script>"


class Colour(enum.Enum):
    RED = "red"
    HOSTILE = HOSTILE


@dataclass
class Item:
    name: str


class Desk:
    """Takes everything."""

    door, ended, called = threading.Event(), threading.Event(), 0

    def add(self, a: int, b: int = 2) -> int:
        """Add two numbers."""
        Desk.called += 1
        return a + b

    def take(  # noqa: PLR0913, PLR0917 - a field of each kind
        self,
        text: str,
        part: float = 0.5,
        exact: bool = False,  # noqa: FBT001, FBT002 - what a service takes
        colour: Colour = Colour.RED,
        day: dt.date | None = None,
        item: Item | None = None,
    ) -> dict:
        return {
            "text": text,
            "part": part,
            "exact": exact,
            "colour": colour,
            "day": None if day is None else day.isoformat(),
            "item": item,
        }

    def total(self, *numbers: int) -> int:
        return sum(numbers)

    def tag(self, name: str, **tags: int) -> dict:
        return {name: tags}

    def hostile(self, value: str = HOSTILE, colour: Colour = Colour.RED) -> list[str]:
        return [value]

    hostile.__doc__ = HOSTILE

    def fail(self) -> None:
        raise LookupError(HOSTILE)

    def raw(self) -> bytes:
        return b"\x00\xff"

    def count(self, to: int) -> Iterator[int]:
        try:
            for number in range(to):
                if number == 3:
                    Desk.door.wait()
                yield number
        finally:
            Desk.ended.set()

    def break_off(self) -> Iterator[str]:
        yield HOSTILE
        raise LookupError(HOSTILE)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def server():
    Desk.door, Desk.ended, Desk.called = threading.Event(), threading.Event(), 0
    config = ServiceDeploymentConfig(threading_strategy="pool", timeout=100)
    with Environment("tried") as env:
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.deploy()
        with serve(env, "127.0.0.1:0", token=TOKEN) as server:
            yield server
            Desk.door.set()


@pytest.fixture
def opened(browser, server):
    """Open the page in a new browser that has logged in. At the end, check that no forbidden thing has happened."""
    watched = []

    def opened(method=None, *, read_only=False, **settings):
        watched.append(Watched(browser, server.url, **settings))
        page = watched[-1].page
        page.goto(server.login_link(read_only=read_only))
        page.get_by_role("link", name="Try", exact=True).click()
        if method is not None:
            methods = page.get_by_label("Services")
            methods.get_by_role("link", name=method).click()
            methods.locator("[aria-current=page]").wait_for()  # from then on, the right side belongs to this method
        return page

    yield opened
    for each in watched:
        assert each.faults() == []
        assert 404 not in each.answered
        each.context.close()


def _call(page):
    page.get_by_role("button", name="Call", exact=True).click()


def _fill(page, **values):
    for name, value in values.items():
        page.get_by_label(name, exact=True).fill(value)


def _result(page):
    return json.loads(page.get_by_label("Result").inner_text())


# -- logging in --------------------------------------------------------------------------------------------------------


def test_a_link_leads_to_the_page_and_its_ticket_is_gone(opened, server):
    """A login link leads to the page; the ticket leaves the address, and scripts cannot read the cookie."""
    page = opened()
    assert page.url == f"{server.url}/#/try"
    page.get_by_text("Choose a method.").wait_for()
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    assert page.evaluate("document.cookie") == ""
    page.reload()
    page.get_by_text("Choose a method.").wait_for()


def test_who_has_not_logged_in_or_not_any_more_is_told_what_to_do(browser, server, opened):
    """A browser without a login, or with an expired one, is told how to log in."""
    watched = Watched(browser, server.url)
    watched.page.goto(f"{server.url}/")
    assert "sage-deploy login" in watched.page.inner_text("main")
    assert (watched.faults(), watched.answered) == ([], [401])
    watched.context.close()
    page = opened()
    page.context.clear_cookies()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on").first.click()
    page.get_by_text("This browser is not logged in any more.").wait_for()
    assert "sage-deploy login" in page.get_by_role("alert").inner_text()


@pytest.mark.parametrize("elsewhere", ["http://evil.example", "http://127.0.0.1:59999"])
def test_a_page_of_another_site_calls_nothing_with_the_login(browser, server, elsewhere):
    """
    Another site cannot call a service with the login, even on another port of this host, where the cookie is sent.
    """
    watched = Watched(browser, elsewhere)
    watched.page.goto(server.login_link())
    watched.page.route(f"{elsewhere}/**", lambda route: route.fulfill(body="<p>", content_type="text/html"))
    watched.page.goto(f"{elsewhere}/")
    form = '<form method="post" enctype="text/plain" action="{}/services/desk/add"><input name="[1," value="2]">'
    with watched.page.expect_response(f"{server.url}/**") as found:
        watched.page.evaluate(
            "form => { document.body.innerHTML = form; document.forms[0].submit(); }", form.format(server.url)
        )
    assert found.value.status == 403
    assert Desk.called == 0
    assert ("cookie" in found.value.request.all_headers()) == elsewhere.startswith("http://127.0.0.1")
    watched.context.close()


# -- calling -----------------------------------------------------------------------------------------------------------


def test_a_call_shows_its_result_its_status_its_time_and_its_id(opened):
    """A call shows its result, status, time and request id."""
    page = opened("add")
    assert page.get_by_text("Add two numbers.").is_visible()
    _fill(page, a="40")
    _call(page)
    page.get_by_text("status 200").wait_for()
    facts = page.get_by_role("status").inner_text()
    assert " ms" in facts
    assert "request" in facts
    assert _result(page) == 42


def test_a_key_may_have_any_character(opened):
    """A call may have a key with any character, although a header has only bytes."""
    page = opened("add")
    page.get_by_text("Options of the call").click()
    _fill(page, a="40", **{"Key calls with equal keys go to the same replica": "\u952e \U0001f511"})
    _call(page)
    page.get_by_text("status 200").wait_for()
    assert _result(page) == 42


def test_a_form_has_a_field_of_the_right_kind_for_each_argument(opened):
    """The form has a field of the right kind for each argument, and sends the right values."""
    page = opened("take")
    kinds = {
        name: page.get_by_label(name, exact=True).evaluate("field => field.tagName")
        for name in ("text", "part", "exact", "colour", "day", "item")
    }
    boxes = dict.fromkeys(("text", "part", "day"), "INPUT")
    assert kinds == {**boxes, "exact": "SELECT", "colour": "SELECT", "item": "TEXTAREA"}
    assert page.get_by_label("part", exact=True).get_attribute("placeholder") == "default: 0.5"
    _fill(page, text="a 'quoted' \"text\" \\", part="1e2", day="2026-02-28", item='{"name": "pen"}')
    page.get_by_label("exact", exact=True).select_option("true")
    page.get_by_label("colour", exact=True).select_option(json.dumps(HOSTILE))
    _call(page)
    page.get_by_text("status 200").wait_for()
    assert _result(page) == {
        "text": "a 'quoted' \"text\" \\",
        "part": 100.0,
        "exact": True,
        "colour": HOSTILE,
        "day": "2026-02-28",
        "item": {"name": "pen"},
    }


def test_hints_and_problems_of_a_form_are_in_the_language_of_the_page(opened):
    """Hints and problems of a form switch with the page's language, and the input is kept."""
    page = opened("take")
    _fill(page, part="one", item="{")
    page.get_by_role("button", name="中文").click()
    hints = dict(each.inner_text().split("\n")[:2] for each in page.locator(".field .label:has(label)").all())
    assert hints == {
        "text": "必填, 文本",
        "part": "数字",
        "exact": "布尔值",
        "colour": "从中选择",
        "day": "date 或 null",
        "item": "JSON 对象: Item 或 null",
    }
    assert page.get_by_label("exact", exact=True).inner_text().startswith("默认")
    page.get_by_role("button", name="调用", exact=True).click()
    problems = page.get_by_role("alert").all_inner_texts()
    assert problems[0].startswith("请填写数字")
    assert problems[1].startswith("不是有效的 JSON")
    assert page.get_by_label("part", exact=True).input_value() == "one"


def test_a_form_says_what_is_wrong_and_calls_nothing(opened):
    """With a missing or wrong argument, the form says what is wrong and sends nothing."""
    page = opened("add")
    _call(page)
    page.get_by_text("This argument is required.").wait_for()
    for wrong in ("1.5", "one", "1e3", "0x1", "--1"):
        _fill(page, a=wrong)
        page.get_by_text("Give a whole number").wait_for()
        _call(page)
    assert Desk.called == 0
    _fill(page, a="1")
    _call(page)
    page.get_by_text("status 200").wait_for()


def test_a_field_takes_json_too(opened):
    """A field can take JSON instead of text, such as null."""
    page = opened("take")
    _fill(page, text="null")
    page.get_by_role("button", name="JSON", exact=True).first.click()
    _call(page)
    page.get_by_text("status 400").wait_for()
    assert "argument 'text'" in page.get_by_label("Outcome").inner_text()
    _fill(page, text="[")
    page.get_by_text("This is not JSON").wait_for()


def test_arguments_without_names_are_a_body_of_json(opened):
    """A method that takes only positional arguments is called with a JSON body instead of fields."""
    page = opened("total")
    page.get_by_label("Body").fill("[1, 2, 3]")
    _call(page)
    page.get_by_text("status 200").wait_for()
    assert _result(page) == 6


def test_further_arguments_are_given_as_json(opened):
    """Extra keyword arguments are given as JSON; the editor starts with the form's values."""
    page = opened("tag")
    _fill(page, name="pen")
    page.get_by_role("button", name="Edit the body as JSON, for further arguments").click()
    assert page.get_by_label("Body").input_value() == '{"name": "pen"}'
    page.get_by_label("Body").fill('{"name": "pen", "size": 3}')
    _call(page)
    page.get_by_text("status 200").wait_for()
    assert _result(page) == {"pen": {"size": 3}}


def test_no_number_is_rounded(opened):
    """Large integers are sent and shown exactly, although JavaScript's numbers have only 53 bits."""
    page = opened("add")
    _fill(page, a=str(2**62 + 1), b="0")
    _call(page)
    page.get_by_text("status 200").wait_for()
    assert page.get_by_label("Result").inner_text() == str(2**62 + 1)


def test_bytes_are_shown_in_hexadecimal(opened):
    page = opened("raw")
    _call(page)
    page.get_by_text("2 bytes").wait_for()
    assert page.get_by_label("Result").inner_text() == "00 ff"


def test_items_of_a_stream_are_shown_as_they_come_until_somebody_stops_it(opened):
    """A stream's items are shown as they come; the Stop button ends the stream."""
    page = opened("count")
    _fill(page, to="100000")
    _call(page)
    page.get_by_text("3 items").wait_for()
    assert page.get_by_role("listitem").filter(has_text="2").count() == 1
    assert not Desk.ended.is_set()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped").wait_for()
    Desk.door.set()
    assert Desk.ended.wait(20)


def test_the_latest_items_of_a_long_stream_are_kept(opened):
    """Of a long stream, the page keeps the latest 500 items and says how many are hidden."""
    Desk.door.set()
    page = opened("count")
    _fill(page, to="20000")
    _call(page)
    page.get_by_text("20000 items").wait_for()
    page.get_by_text("status 200").wait_for()
    items = page.get_by_label("Items").get_by_role("listitem")
    assert (items.count(), items.last.inner_text()) == (500, "19999")
    page.get_by_text("The first 19500 are not shown any more.").wait_for()


def test_what_services_say_is_text(opened):
    """
    Text from services stays text: docstrings, defaults, choices, results, errors. `opened` checks that no script ran.
    """
    page = opened()
    for method, status in {"hostile": 200, "fail": 500, "break_off": 200}.items():
        page.get_by_label("Services").get_by_role("link", name=method).click()
        page.get_by_role("heading", name=f"desk.{method}").wait_for()
        _call(page)
        page.get_by_text(f"status {status}").wait_for()
        assert HOSTILE in page.inner_text("main"), method
        assert page.locator("img").count() == 1, method  # the page's own image
        assert page.locator("main script").count() == 0, method


def test_a_login_that_may_only_look_is_told_so_and_calls_nothing(opened):
    """A read-only login cannot call, neither with the button nor with keys, and is told so."""
    page = opened("add", read_only=True)
    _fill(page, a="1")
    button = page.get_by_role("button", name="This login may only look, not call")
    assert button.is_disabled()
    page.get_by_label("a", exact=True).press("Control+Enter")
    page.get_by_label("a", exact=True).press("Enter")
    page.get_by_text("may only look", exact=True).wait_for()
    assert page.get_by_label("Outcome").count() == 0
    assert Desk.called == 0


# -- the same from a terminal ------------------------------------------------------------------------------------------


def test_the_commands_make_the_same_call_and_have_no_secret(opened, server):
    """The page's curl and `sage-deploy call` commands make the same call and contain no secret."""
    page = opened("take", permissions=["clipboard-read", "clipboard-write"])
    text = 'it\'s $HOME `id` \\ "here" !!'
    _fill(page, text=text)
    page.get_by_text("Options of the call").click()
    _fill(page, **{"Timeout seconds": "50", "Key calls with equal keys go to the same replica": "o'clock"})
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_role("button", name="Copied").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, "SAGE_DEPLOY_TOKEN": TOKEN},
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout)["text"] == text
    words = shlex.split(page.get_by_label("sage-deploy call", exact=True).inner_text())
    assert words[:8] == ["sage-deploy", "call", "-e", "tried", "--timeout", "50", "--key", "o'clock"]
    assert words[8] == "desk.take"
    assert json.loads(words[9]) == {"text": text}
    assert TOKEN not in page.content() + command


# -- for everybody -----------------------------------------------------------------------------------------------------


def test_the_keyboard_does_everything(opened):
    """A call can be made with the keyboard alone."""
    page = opened()
    page.get_by_text("Choose a method.").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("add")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("a", exact=True).press_sequentially("1")
    page.keyboard.press("Control+Enter")
    page.get_by_text("status 200").wait_for()


def test_a_narrow_window_shows_everything(opened):
    """A window of 360 pixels shows everything, in both colour schemes."""
    page = opened("hostile", viewport={"width": 360, "height": 740})
    _call(page)
    page.get_by_text("status 200").wait_for()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, scheme
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(17, 20, 27)") == (scheme == "dark")


def test_the_address_leads_to_the_method_again(opened, server):
    """The page's address selects the method again after a reload; an unknown method gets a message."""
    page = opened("add")
    page.reload()
    page.get_by_role("heading", name="desk.add").wait_for()
    page.goto(f"{server.url}/#/try/desk/gone")
    page.get_by_text("desk has no method gone.").wait_for()
    page.goto(f"{server.url}/#/try/%/gone")
    page.get_by_text("The service is ready").wait_for()


def test_what_the_policy_forbids_is_noticed(browser, server):
    """A script that the policy blocks is noticed. The fixture `opened` relies on that."""
    watched = Watched(browser, server.url)
    watched.page.goto(server.login_link())
    watched.page.evaluate("document.body.insertAdjacentHTML('beforeend', `<img src=x onerror=\"alert(1)\">`)")
    watched.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))")
    watched.page.wait_for_function("window.violations.length === 2")
    assert all("script-src" in each for each in watched.faults() if not each.startswith("error"))
    watched.context.close()
