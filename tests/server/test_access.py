"""Who may use which route. The tests find all routes themselves, so that no new one is forgotten."""

from __future__ import annotations

import pytest

from sage_deploy_server.commands.client import EnvironmentClient, RefusedError
from sage_deploy_server.running.app import Application
from sage_deploy_server.running.serving import serve
from sage_plugins import Environment

TOKEN, READ_TOKEN = "t" * 64, "r" * 64

#: Paths that need no token.
OPEN = {"/healthz", "/readyz"}

#: Paths that a browser needs before it has logged in, with the status that it gets there without a ticket.
BEFORE_LOGIN = {"/login": 401, "/static/style.css": 200}

#: The only POST route that the read token may use.
LOGIN_LINK = "/api/v1/login-link"

#: Headers that a browser sends when another site makes a request.
ELSEWHERE = (
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
)

#: A body that every handler refuses, so that a request that passes the checks has no effect.
BROKEN = b'{"a": '


class Nothing:
    """The environment: the routes do not depend on it."""


def _routes():
    """Yield each method and path of the application, with names filled in."""
    for route in Application(Nothing()).asgi.routes:
        named = route.path.replace("{service}", "desk").replace("{method}", "add").replace("{id}", "1")
        for path in dict.fromkeys(named.replace("{file:path}", file) for file in ("style.css", "try.js")):
            for method in sorted(route.methods - {"HEAD"}):
                yield method, path


ROUTES = tuple(_routes())
PATHS = sorted({path for _, path in ROUTES})


def test_routes_are_found():
    """The list of routes that the tests use has the expected ones."""
    assert {"/services/desk/add", "/api/v1/services/desk/scale", "/api/v1/apply", "/healthz"} <= set(PATHS)


def test_nobody_gets_in_without_the_token(ask):
    """Without the right token every route answers 401, except the open ones and those needed before login."""
    for method, path in ROUTES:
        for token in (None, "x" * 64, TOKEN[:-1], TOKEN + "t", ""):
            status, _, headers = ask(method, path, token=token)
            if path in OPEN:
                assert status == 200, (method, path, token)
            elif path in BEFORE_LOGIN:
                assert status == BEFORE_LOGIN[path], (method, path, token)
            else:
                assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), (method, path, token)


def test_the_read_token_looks_and_changes_nothing(ask):
    """The read token may read every route and change nothing."""
    for method, path in ROUTES:
        status, body, _ = ask(method, path, token=READ_TOKEN)
        if method == "GET":
            assert status == BEFORE_LOGIN.get(path) or status in {200, 303, 404}, path
        elif path == LOGIN_LINK:
            assert (status, body["access"]) == (200, "read")
        else:
            assert status == 403, (method, path)
            assert "is read-only" in body["detail"], (method, path)


def test_another_hosts_name_is_refused(ask):
    """A request with another host's name is refused, so that DNS rebinding cannot read the answers."""
    for method, path in ROUTES:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::2]"):
            assert ask(method, path, Host=host)[0] == 421, (method, path, host)


def test_other_sites_are_refused_though_they_have_the_token(ask):
    """Requests from other sites are refused even with the token."""
    for method, path in ROUTES:
        for headers in ELSEWHERE:
            assert ask(method, path, **headers)[0] == (200 if path in OPEN else 403), (method, path, headers)


def test_with_a_login_other_sites_are_refused_whatever_the_method(ask, log_in):
    """Other sites cannot use a login's cookie, whatever the method: a browser sends it along with their requests."""
    cookie = log_in()
    for path in PATHS:
        for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"):
            for headers in ELSEWHERE:
                status = ask(method, path, token=None, raw=BROKEN, Cookie=cookie, **headers)[0]
                assert status in ({200, 405} if path in OPEN else {403}), (method, path, headers)


def test_with_a_login_pages_of_this_server_are_let_in(ask, log_in, server):
    """
    With a login, a change needs a header which says that a page of this server asks; a missing header is not enough.
    """
    cookie = log_in()
    own = {"Origin": server.url, "Host": server.url.removeprefix("http://")}
    for method, path in ROUTES:
        for headers in ({"Sec_Fetch_Site": "same-origin"}, own):
            status = ask(method, path, token=None, raw=BROKEN, Cookie=cookie, **headers)[0]
            looks = status in {200, 303, 404, BEFORE_LOGIN.get(path)}
            assert status == 400 if method == "POST" else looks, (method, path, headers)
        for headers in ({}, {"Sec_Fetch_Site": "none"}):
            status = ask(method, path, token=None, raw=BROKEN, Cookie=cookie, **headers)[0]
            looks = status in {200, 303, 404, BEFORE_LOGIN.get(path)}
            assert status == 403 if method == "POST" else looks, (method, path, headers)


def test_a_login_that_may_only_look_changes_nothing(ask, log_in):
    """A read-only login cannot change anything."""
    cookie = log_in(read_only=True)
    for method, path in ROUTES:
        status, body, _ = ask(method, path, token=None, Cookie=cookie, Sec_Fetch_Site="same-origin")
        if method == "POST":
            assert status == 403, path
            assert "this login is read-only" in body["detail"], path
        else:
            assert status in {200, 303, 404, BEFORE_LOGIN.get(path)}, (method, path)


def test_another_cookie_lets_nobody_in(ask, log_in):
    """Any other cookie is no login."""
    name, _, session = log_in().partition("=")
    for method, path in ROUTES:
        for cookie in (f"{name}=", f"{name}={session[:-1]}", f"{name}={TOKEN}", f"other={session}", session, f"{name}"):
            status = ask(method, path, token=None, Cookie=cookie, Sec_Fetch_Site="same-origin")[0]
            assert status == (200 if path in OPEN else BEFORE_LOGIN.get(path, 401)), (method, path, cookie)


def test_a_wrong_token_is_not_made_good_by_a_cookie(ask, log_in):
    """A wrong token is refused even if a valid cookie comes with it."""
    cookie = log_in()
    for method, path in ROUTES:
        status = ask(method, path, token="x" * 64, Cookie=cookie, Sec_Fetch_Site="same-origin")[0]
        assert status == (200 if path in OPEN else BEFORE_LOGIN.get(path, 401)), (method, path)


def test_another_method_is_refused(ask):
    """A method that a path does not offer gets 405, with the methods that it offers."""
    for path in PATHS:
        offered = {method for method, its_path in ROUTES if its_path == path}
        for other in {"GET", "POST", "PUT", "DELETE", "PATCH"} - offered:
            status, body, _ = ask(other, path)
            assert (status, body["code"]) == (405, "http"), (other, path)
            said = body["detail"].partition(" takes ")[2].removesuffix(f", not {other}").split(", ")
            assert set(said) & offered, (other, path)


def test_a_body_that_is_too_large_or_no_json_is_refused(ask):
    """A body that is too large or no JSON is refused."""
    for method, path in ROUTES:
        if method == "POST":
            status, body, _ = ask(method, path, raw=b"x" * 2**21)
            assert (status, body["code"]) == (413, "body"), path
            status, body, _ = ask(method, path, raw=BROKEN)
            assert (status, body["code"]) == (400, "json"), path


def test_no_answer_is_kept_and_none_names_the_server(ask):
    """No answer may be cached, because the state may change, and none names the server software."""
    for method, path in ROUTES:
        _, _, headers = ask(method, path, token=None)
        assert headers["Cache-Control"] == "no-store", (method, path)
        assert headers["Server"] is None, (method, path)


def test_names_of_the_loopback_interface_are_this_host(ask):
    """All names of the loopback interface are accepted as this host."""
    for host in ("LOCALHOST:8400", "127.0.0.1", "[::1]:80", "localhost"):
        assert ask("GET", "/healthz", Host=host)[0] == 200, host


def test_a_page_of_this_server_is_no_other_site(ask, server):
    """A page of this server may call services, whichever header its browser sends."""
    assert ask("POST", "/services/desk/add", [1, 2], Sec_Fetch_Site="same-origin")[:2] == (200, 3)
    assert ask("POST", "/services/desk/add", [1, 2], Origin=server.url, Host=server.url[7:])[:2] == (200, 3)


def test_who_only_looks_whether_it_lives_needs_no_token(ask):
    """The health checks need no token."""
    assert ask("GET", "/healthz", token=None)[:2] == (200, {"status": "alive"})
    assert ask("GET", "/readyz", token=None)[:2] == (200, {"ready": True, "not_ready": {}})


@pytest.mark.parametrize(
    "tokens", [{"token": ""}, {"token": " "}, {"token": TOKEN, "read_token": ""}], ids=["token", "blank", "read_token"]
)
def test_empty_token_is_refused_before_anybody_can_connect(tokens):
    """An empty token is refused before the server listens: a header without a token would match it."""
    with Environment("open") as env, pytest.raises(ValueError, match="is empty"), serve(env, "127.0.0.1:0", **tokens):
        pass


def test_header_without_a_bearer_token_lets_nobody_in(ask):
    """An Authorization header without a bearer token is refused."""
    for header in ("", "Bearer", "Bearer ", "Basic", f"Basic {TOKEN}", TOKEN):
        assert ask("GET", "/api/v1/status", token=None, Authorization=header)[0] == 401, header


def test_the_line_end_of_a_tokens_file_is_no_part_of_the_token(env):
    """White space around a token does not count: the file of a secret often ends with a line break."""
    with serve(env, "127.0.0.1:0", token=TOKEN + "\n", read_token=f" {READ_TOKEN}\n") as server:
        for token, access in ((TOKEN, "full"), (READ_TOKEN + "\n", "read")):
            client = EnvironmentClient.at_url(server.url, token)
            assert client.get("/api/v1/environment")["access"] == access
        with pytest.raises(RefusedError, match="token"):
            EnvironmentClient.at_url(server.url, "other").get("/api/v1/environment")
