"""Who gets in: for every route that there is, so that a new one cannot be forgotten."""

from __future__ import annotations

import pytest

from sage_deploy_server.running.app import Application
from sage_deploy_server.running.serving import serve
from sage_plugins import Environment

TOKEN, READ_TOKEN = "t" * 64, "r" * 64

#: Paths that need no token.
OPEN = {"/healthz", "/readyz"}

#: Paths that a browser needs before it has logged in, and what it gets there without a ticket.
BEFORE_LOGIN = {"/login": 401, "/static/style.css": 200}

#: What the read token may have done, though that is no looking.
LOGIN_LINK = "/api/v1/login-link"

#: Headers with which browsers say that another site asks.
ELSEWHERE = (
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "null"},
)

#: A body that is refused by whoever reads it: a request that is let in has no effect.
BROKEN = b'{"a": '


class Nothing:
    """The routes do not depend on the environment."""


def _routes():
    """Each route of the application, with names that are there or not."""
    for route in Application(Nothing()).asgi.routes:
        named = route.path.replace("{service}", "desk").replace("{method}", "add").replace("{id}", "1")
        for path in dict.fromkeys(named.replace("{file:path}", file) for file in ("style.css", "try.js")):
            for method in sorted(route.methods - {"HEAD"}):
                yield pytest.param(method, path, id=f"{method} {path}")


each_route = pytest.mark.parametrize(("method", "path"), list(_routes()))


def test_routes_are_found():
    paths = {param.values[1] for param in _routes()}
    assert {"/services/desk/add", "/api/v1/services/desk/scale", "/api/v1/apply", "/healthz"} <= paths


@each_route
def test_nobody_gets_in_without_the_token(ask, method, path):
    for token in (None, "x" * 64, TOKEN[:-1], TOKEN + "t", ""):
        status, _, headers = ask(method, path, token=token)
        if path in OPEN:
            assert status == 200
        elif path in BEFORE_LOGIN:
            assert status == BEFORE_LOGIN[path]
        else:
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), token


@each_route
def test_the_read_token_looks_and_changes_nothing(ask, method, path):
    status, body, _ = ask(method, path, token=READ_TOKEN)
    if method == "GET":
        assert status == BEFORE_LOGIN.get(path) or status in {200, 303, 404}
    elif path == LOGIN_LINK:
        assert (status, body["access"]) == (200, "read")
    else:
        assert status == 403
        assert "is read-only" in body["detail"]


@each_route
def test_another_hosts_name_is_refused(ask, method, path):
    """Else a page of another site that has its name lead here could read what runs."""
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::2]"):
        assert ask(method, path, Host=host)[0] == 421, host


@each_route
def test_other_sites_are_refused_though_they_have_the_token(ask, method, path):
    for headers in ELSEWHERE:
        assert ask(method, path, **headers)[0] == (200 if path in OPEN else 403), headers


@each_route
def test_with_a_login_other_sites_are_refused_whatever_the_method(ask, log_in, server, method, path):
    """A browser sends the cookie for whoever makes it ask; also with methods that no route has."""
    cookie = log_in()
    for tried in (method, *sorted({"GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"} - {method})):
        for headers in ELSEWHERE:
            status = ask(tried, path, token=None, raw=BROKEN, Cookie=cookie, **headers)[0]
            assert status in ({200, 405} if path in OPEN else {403}), (tried, headers)


@each_route
def test_with_a_login_pages_of_this_server_are_let_in(ask, log_in, server, method, path):
    """What is not safe needs the browser's word that such a page asks; that it says nothing is not enough."""
    cookie = log_in()
    own = {"Origin": server.url, "Host": server.url.removeprefix("http://")}
    for headers in ({"Sec_Fetch_Site": "same-origin"}, own):
        status = ask(method, path, token=None, raw=BROKEN, Cookie=cookie, **headers)[0]
        assert status == 400 if method == "POST" else status in {200, 303, 404, BEFORE_LOGIN.get(path)}
    for headers in ({}, {"Sec_Fetch_Site": "none"}):
        status = ask(method, path, token=None, raw=BROKEN, Cookie=cookie, **headers)[0]
        assert status == 403 if method == "POST" else status in {200, 303, 404, BEFORE_LOGIN.get(path)}


@each_route
def test_a_login_that_may_only_look_changes_nothing(ask, log_in, method, path):
    cookie = log_in(read_only=True)
    status, body, _ = ask(method, path, token=None, Cookie=cookie, Sec_Fetch_Site="same-origin")
    if method == "POST":
        assert status == 403
        assert "this login is read-only" in body["detail"]
    else:
        assert status in {200, 303, 404, BEFORE_LOGIN.get(path)}


@each_route
def test_another_cookie_lets_nobody_in(ask, log_in, method, path):
    name, _, session = log_in().partition("=")
    for cookie in (f"{name}=", f"{name}={session[:-1]}", f"{name}={TOKEN}", f"other={session}", session, f"{name}"):
        status = ask(method, path, token=None, Cookie=cookie, Sec_Fetch_Site="same-origin")[0]
        assert status == (200 if path in OPEN else BEFORE_LOGIN.get(path, 401)), cookie


@each_route
def test_a_wrong_token_is_not_made_good_by_a_cookie(ask, log_in, method, path):
    status = ask(method, path, token="x" * 64, Cookie=log_in(), Sec_Fetch_Site="same-origin")[0]
    assert status == (200 if path in OPEN else BEFORE_LOGIN.get(path, 401))


@each_route
def test_another_method_is_refused(ask, method, path):
    offered = {param.values[0] for param in _routes() if param.values[1] == path}
    assert method in offered
    for other in {"GET", "POST", "PUT", "DELETE", "PATCH"} - offered:
        status, body, _ = ask(other, path)
        assert (status, body["code"]) == (405, "http"), other


@each_route
def test_a_body_that_is_too_large_or_no_json_is_refused(ask, method, path):
    if method == "POST":
        status, body, _ = ask(method, path, raw=b"x" * 2**21)
        assert (status, body["code"]) == (413, "body")
        status, body, _ = ask(method, path, raw=BROKEN)
        assert (status, body["code"]) == (400, "json")


@each_route
def test_no_answer_is_kept_and_none_names_the_server(ask, method, path):
    """What runs may change, and whoever attacks is told no version."""
    _, _, headers = ask(method, path, token=None)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] is None


@pytest.mark.parametrize("host", ["LOCALHOST:8400", "127.0.0.1", "[::1]:80", "localhost"])
def test_names_of_the_loopback_interface_are_this_host(ask, host):
    assert ask("GET", "/healthz", Host=host)[0] == 200


def test_a_page_of_this_server_is_no_other_site(ask, server):
    assert ask("POST", "/services/desk/add", [1, 2], Sec_Fetch_Site="same-origin")[:2] == (200, 3)
    assert ask("POST", "/services/desk/add", [1, 2], Origin=server.url, Host=server.url[7:])[:2] == (200, 3)


def test_who_only_looks_whether_it_lives_needs_no_token(ask):
    assert ask("GET", "/healthz", token=None)[:2] == (200, {"status": "alive"})
    assert ask("GET", "/readyz", token=None)[:2] == (200, {"ready": True, "not_ready": {}})


@pytest.mark.parametrize(
    "tokens", [{"token": ""}, {"token": " "}, {"token": TOKEN, "read_token": ""}], ids=["token", "blank", "read_token"]
)
def test_empty_token_is_refused_before_anybody_can_connect(tokens):
    """It would let in whoever sends a header without a token in it."""
    with Environment("open") as env, pytest.raises(ValueError, match="is empty"), serve(env, "127.0.0.1:0", **tokens):
        pass


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic", f"Basic {TOKEN}", TOKEN])
def test_header_without_a_bearer_token_lets_nobody_in(ask, header):
    assert ask("GET", "/api/v1/status", token=None, Authorization=header)[0] == 401
