"""Who gets in: for every route that there is, so that a new one cannot be forgotten."""

from __future__ import annotations

import pytest

from sage_deploy_server.running.app import Application

TOKEN, READ_TOKEN = "t" * 64, "r" * 64

#: Paths that need no token.
OPEN = {"/healthz", "/readyz"}


class Nothing:
    """The routes do not depend on the environment."""


def _routes():
    """Each route of the application, with names that are there or not."""
    for route in Application(Nothing()).asgi.routes:
        path = route.path.replace("{service}", "desk").replace("{method}", "add").replace("{id}", "1")
        for method in sorted(route.methods - {"HEAD"}):
            yield pytest.param(method, path, id=f"{method} {route.path}")


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
        else:
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), token


@each_route
def test_the_read_token_looks_and_changes_nothing(ask, method, path):
    status, body, _ = ask(method, path, token=READ_TOKEN)
    assert status == 403 if method != "GET" else status in {200, 404}
    assert status != 403 or "may look" in body["detail"]


@each_route
def test_another_hosts_name_is_refused(ask, method, path):
    """Else a page of another site that has its name lead here could read what runs."""
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::2]"):
        assert ask(method, path, Host=host)[0] == 421, host


@each_route
def test_other_sites_are_refused_though_they_have_the_token(ask, method, path):
    for headers in (
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert ask(method, path, **headers)[0] == (200 if path in OPEN else 403), headers


@each_route
def test_another_method_is_refused(ask, method, path):
    for other in {"GET", "POST", "PUT", "DELETE", "PATCH"} - {method}:
        status, body, _ = ask(other, path)
        assert (status, body["code"]) == (405, "http"), other


@each_route
def test_a_body_that_is_too_large_or_no_json_is_refused(ask, method, path):
    if method == "POST":
        status, body, _ = ask(method, path, raw=b"x" * 2**21)
        assert (status, body["code"]) == (413, "body")
        status, body, _ = ask(method, path, raw=b'{"a": ')
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
