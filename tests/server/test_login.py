"""A browser logs in with a link that works once. Without a login, browsers get a page and programs get JSON."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from sage_deploy_server.running.serving import _browser_url
from sage_deploy_server.web.logins import LINK_LIFE_S, Access, Logins
from second_terminal import Terminal

TOKEN, READ_TOKEN = "t" * 64, "r" * 64
PAGE = "text/html,application/xhtml+xml,*/*;q=0.8"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


@pytest.fixture
def ticket(server):
    return server.login_link().removeprefix(server.url)


def test_a_link_begins_a_session_and_leads_away_from_the_ticket(ask, server):
    """A login link sets a session cookie and redirects to `/`, so that the ticket leaves the address bar."""
    link = server.login_link()
    assert link.startswith(f"{server.url}/login?ticket=")
    ticket = link.partition("=")[2]
    status, _, headers = ask("GET", link.removeprefix(server.url), token=None)
    assert (status, headers["Location"]) == (303, "/")
    name, _, rest = headers["Set-Cookie"].partition("=")
    session, *attributes = rest.split("; ")
    assert name == f"sage_deploy_{server.address[1]}"
    assert attributes == ["HttpOnly", "SameSite=Strict", "Path=/"]
    assert len(session) >= 43
    assert session not in {ticket, TOKEN}
    assert ask("GET", "/api/v1/environment", token=None, Cookie=f"{name}={session}")[1]["access"] == "full"
    assert {key: headers[key] for key in HEADERS} == HEADERS


def test_a_link_works_once(ask, ticket):
    """A login link works only once."""
    assert ask("GET", ticket, token=None)[0] == 303
    status, problem, headers = ask("GET", ticket, token=None)
    assert (status, problem["code"], headers["Set-Cookie"]) == (401, "login", None)


def test_who_only_checks_a_link_does_not_use_it_up(ask, ticket):
    """A HEAD request does not use up a login link."""
    assert ask("HEAD", ticket, token=None)[2]["Set-Cookie"] is None
    assert ask("GET", ticket, token=None)[0] == 303


def test_a_link_that_another_site_has_is_refused_and_not_used_up(ask, ticket):
    """
    A login link opened from another site is refused and stays valid: the browser would not send its cookie from there.
    """
    status, page, _ = ask("GET", ticket, token=None, Sec_Fetch_Site="cross-site", Accept=PAGE)
    assert status == 403
    assert b"address bar" in page
    assert ask("GET", ticket, token=None, Sec_Fetch_Site="none")[0] == 303


@pytest.mark.parametrize("more", ["&next=//evil.example", "&next=http://evil.example", "&redirect=/services"])
def test_nothing_in_a_link_says_where_it_leads(ask, ticket, more):
    """Parameters of a login link cannot change where it leads."""
    assert ask("GET", ticket + more, token=None)[2]["Location"] == "/"


@pytest.mark.parametrize("path", ["/login", "/login?ticket=", f"/login?ticket={TOKEN}", f"/login?token={TOKEN}"])
def test_a_link_without_a_ticket_logs_nobody_in_and_says_how_to_get_one(ask, path):
    """Without a valid ticket nobody is logged in, and the page says how to get a link."""
    status, page, headers = ask("GET", path, token=None, Accept=PAGE)
    assert (status, headers["Set-Cookie"]) == (401, None)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"sage-deploy login" in page


def test_a_browser_that_has_not_logged_in_gets_a_page_that_says_how(ask):
    """A browser without a login gets a page that says how to log in."""
    for path in ("/", "/services", "/no/such/page"):
        status, page, headers = ask("GET", path, token=None, Accept=PAGE)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert b"sage-deploy login" in page
        assert {key: headers[key] for key in HEADERS} == HEADERS


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_programs_get_an_object_as_before(ask, accept):
    """Programs without a token get a problem document, not a page."""
    status, problem, headers = ask("GET", "/services", token=None, Accept=accept)
    assert (status, problem["code"], headers["Content-Type"]) == (401, "token", "application/problem+json")
    assert ask("POST", "/services/desk/add", [1, 2], token=None, Accept=PAGE)[1]["code"] == "token"


def test_a_login_calls(ask, log_in):
    """A logged-in browser can call services and change them; changes are recorded as made by a login."""
    same = {"Cookie": log_in(), "Sec_Fetch_Site": "same-origin"}
    assert ask("POST", "/services/desk/add", [1, 2], token=None, **same)[:2] == (200, 3)
    _, done, _ = ask("POST", "/api/v1/services/desk/restart", {}, token=None, **same)
    assert done["by"] == "login"


# -- links later -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, {}, {"read": False}])
def test_the_token_gets_a_new_link_which_leads_where_its_holder_asked(ask, server, body):
    """The token gets a new login link, with the host name that its holder used."""
    host = f"localhost:{server.address[1]}"
    status, made, _ = ask("POST", "/api/v1/login-link", body, Host=host)
    assert (status, made["access"], made["expires_in"]) == (200, "full", 3600)
    assert made["link"].startswith(f"http://{host}/login?ticket=")
    assert ask("GET", made["link"].removeprefix(f"http://{host}"), token=None)[0] == 303


def test_links_of_the_read_token_may_only_look(ask, server):
    """A link that the read token made gives read-only access; the full token can also make such links."""
    assert ask("POST", "/api/v1/login-link", {"read": False}, token=READ_TOKEN)[0] == 403
    for body, token in (({"read": True}, TOKEN), ({"read": True}, READ_TOKEN), ({}, READ_TOKEN)):
        _, made, _ = ask("POST", "/api/v1/login-link", body, token=token)
        assert made["access"] == "read"
        _, _, headers = ask("GET", made["link"].removeprefix(server.url), token=None)
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert ask("GET", "/api/v1/environment", token=None, Cookie=cookie)[1]["access"] == "read"
        same = {"Cookie": cookie, "Sec_Fetch_Site": "same-origin"}
        assert ask("POST", "/services/desk/add", [1, 2], token=None, **same)[0] == 403


def test_no_secret_is_logged(ask, server, env, caplog):
    """Neither tickets nor sessions nor the token are logged. The login itself is logged."""
    caplog.set_level("DEBUG")
    made = ask("POST", "/api/v1/login-link", {})[1]["link"]
    _, _, headers = ask("GET", made.removeprefix(server.url), token=None)
    ask("GET", made.removeprefix(server.url), token=None)
    said = caplog.text + str(env.events()) + str(env.logs())
    assert "login link by token: full access" in said
    assert "a browser has logged in: full access" in caplog.text
    session = headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    for secret in (made.partition("ticket=")[2], session, TOKEN):
        assert secret not in said


def test_up_prints_a_link_and_login_another(tmp_path):
    """
    `up` prints a link to stderr and `login` one to stdout. The log has none, because it may be kept or sent elsewhere.
    """
    terminal = Terminal(tmp_path, "services: {greeter: {class: 'greeters:Greeter'}}", "class Greeter: pass")
    try:
        up = terminal.up("--http", "0", "--log-format", "json")
        (first,) = [line.rstrip() for line in up.said if line.startswith("http://")]
        assert not any("ticket" in line for line in up.said if line.startswith("{"))
        second, said = terminal.run("login")
        assert "full access" in said
        third, said = terminal.run("login", "--read")
        assert "read-only access" in said
        for link, access in ((first, "full"), (second.rstrip(), "full"), (third.rstrip(), "read")):
            assert _access_by(link) == access
        terminal.run("login", "--url", first.partition("/login")[0], "--token", "x" * 64, code=1)
    finally:
        terminal.close()


def test_without_http_there_is_no_link(tmp_path):
    """Without HTTP there is no link, and `login` says which option is missing."""
    terminal = Terminal(tmp_path, "services: {greeter: {class: 'greeters:Greeter'}}", "class Greeter: pass")
    try:
        assert not any("login" in line for line in terminal.up().said)
        assert "--http PORT" in terminal.run("login", code=1)[1]
    finally:
        terminal.close()


def _access_by(link):
    """Open a link as a browser does; return the access that the session has."""
    url = urlsplit(link)
    connection = http.client.HTTPConnection(url.netloc, timeout=20)
    try:
        connection.request("GET", f"{url.path}?{url.query}")
        answer = connection.getresponse()
        answer.read()
        connection.request("GET", "/api/v1/environment", headers={"Cookie": answer.headers["Set-Cookie"]})
        return json.loads(connection.getresponse().read())["access"]
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("host", "hosts", "url"),
    [
        ("127.0.0.1", (), "http://127.0.0.1:8400"),
        ("0.0.0.0", ("deploy.example", "other.example"), "http://deploy.example:8400"),  # noqa: S104 - nothing is bound
        ("0.0.0.0", (), "http://localhost:8400"),  # noqa: S104 - as above
        ("::1", (), "http://[::1]:8400"),
    ],
)
def test_a_link_has_a_name_that_the_server_lets_in(host, hosts, url):
    """A link uses a host name that the server accepts."""
    assert _browser_url((host, 8400), hosts) == url


# -- what is remembered ------------------------------------------------------------------------------------------------


class Time:
    """A clock that the test advances."""

    now = 0.0

    def monotonic(self):
        return self.now


def _ticket(link):
    return link.partition("ticket=")[2]


def test_a_link_expires():
    time = Time()
    logins = Logins(time.monotonic)
    used, late = (_ticket(logins.link(Access.FULL, "http://here")) for _ in range(2))
    time.now = LINK_LIFE_S - 1
    assert logins.begin(used) is not None
    time.now = LINK_LIFE_S
    assert logins.begin(late) is None


def test_links_and_sessions_are_bounded_and_who_may_look_displaces_nobody_else():
    """Links and sessions are bounded in number; read-only ones do not displace others."""
    logins = Logins()
    first_link = _ticket(logins.link(Access.FULL, "http://here"))
    session, _ = logins.begin(_ticket(logins.link(Access.FULL, "http://here")))
    reading = [logins.begin(_ticket(logins.link(Access.READ, "http://here")))[0] for _ in range(200)]
    assert [logins.access_of(each) for each in reading].count(Access.READ) == 64
    assert logins.access_of(reading[-1]) is Access.READ
    for _ in range(200):
        logins.link(Access.READ, "http://here")
    assert logins.access_of(session) is Access.FULL
    assert logins.begin(first_link) is not None


def test_a_session_that_is_used_outlives_others():
    """When there are too many sessions, the one unused for longest ends."""
    logins = Logins()
    sessions = [logins.begin(_ticket(logins.link(Access.FULL, "http://here")))[0] for _ in range(64)]
    assert logins.access_of(sessions[0]) is Access.FULL
    logins.begin(_ticket(logins.link(Access.FULL, "http://here")))
    assert [logins.access_of(each) for each in sessions[:2]] == [Access.FULL, None]
