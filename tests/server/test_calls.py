"""Calls over HTTP: arguments, results, errors and streams of a real server."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - the server reads the annotations
import enum
import http.client
import json
import threading
from dataclasses import dataclass

import pytest

from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig

TOKEN = "t" * 64


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    count: int = 1


class Desk:
    def greet(self, name: str, *, times: int = 1) -> str:
        return f"hello {name} " * times

    def add(self, a: int, b: int) -> int:
        return a + b

    def describe(self, item: Item, colour: Colour, day: dt.date) -> dict[str, object]:
        kinds = [type(item).__name__, type(day).__name__]
        return {"item": item, "colour": colour, "day": day.isoformat(), "kinds": kinds}

    def size(self, data: bytes) -> int:
        return len(data)

    def raw(self) -> bytes:
        return b"\x00\x01"

    def fail(self) -> None:
        raise LookupError("no such thing")

    def odd(self) -> object:
        return object()

    async def later(self, value: object) -> object:
        return value

    def count(self, to: int):
        yield from range(to)

    def break_off(self):
        yield 1
        raise LookupError("broke off")

    def hold(self) -> None:
        while not self.ctx.cancelled:
            threading.Event().wait(0.01)


@pytest.fixture
def server():
    config = ServiceDeploymentConfig(threading_strategy="pool", timeout=5)
    with Environment("served") as env:
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.deploy()
        with serve(env, "127.0.0.1:0", token=TOKEN, read_token="r" * 64) as running:
            yield running


@pytest.fixture
def post(server):
    def post(path, body=None, *, token=TOKEN, method="POST", raw=None, **headers):
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        try:
            data = raw if raw is not None else None if body is None else json.dumps(body).encode()
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            if token is not None:
                said["Authorization"] = f"Bearer {token}"
            connection.request(method, path, data, said)
            answer = connection.getresponse()
            text = answer.read()
            kind = answer.headers["Content-Type"] or ""
            return answer.status, json.loads(text) if "json" in kind and "nd" not in kind else text, answer.headers
        finally:
            connection.close()

    return post


@pytest.mark.parametrize(
    ("method", "body", "result"),
    [
        ("greet", {"name": "Ada", "times": 2}, "hello Ada hello Ada "),
        ("add", [1, 2], 3),
        ("later", {"value": {"a": [1, None]}}, {"a": [1, None]}),
        ("size", {"data": "AAEC"}, 3),
        (
            "describe",
            {"item": {"name": "pen", "count": 2}, "colour": "red", "day": "2026-01-02"},
            {"item": {"name": "pen", "count": 2}, "colour": "red", "day": "2026-01-02", "kinds": ["Item", "date"]},
        ),
    ],
)
def test_arguments_are_made_of_json_as_the_method_declares_them(post, method, body, result):
    assert post(f"/services/desk/{method}", body)[:2] == (200, result)


def test_bytes_are_sent_as_they_are(post):
    status, data, headers = post("/services/desk/raw")
    assert (status, data, headers["Content-Type"]) == (200, b"\x00\x01", "application/octet-stream")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/services/desk/add", {"a": 1}, 400, "missing a required argument: 'b'"),
        ("/services/desk/add", {"a": 1, "b": "two"}, 400, "argument 'b'"),
        ("/services/desk/add", "text", 400, "an object with the arguments by name"),
        ("/services/desk/ad", [1, 2], 404, "did you mean 'add'"),
        ("/services/desk/_private", [], 404, "no method"),
        ("/services/desc/add", [1, 2], 404, "did you mean 'desk'"),
        ("/services/desk/fail", None, 500, "no such thing"),
        ("/services/desk/odd", None, 500, "object"),
        ("/elsewhere", None, 404, ""),
    ],
)
def test_an_error_says_what_is_wrong(post, path, body, status, words):
    found, problem, headers = post(path, body)
    assert (found, headers["Content-Type"]) == (status, "application/problem+json")
    assert words in problem["detail"]
    assert "Traceback" not in json.dumps(problem)


def test_a_time_limit_of_the_client_holds(post):
    status, problem, _ = post("/services/desk/hold", X_Timeout="0.2")
    assert (status, problem["code"], problem["stage"]) == (504, "CallTimeoutError", "run")
    assert post("/services/desk/hold", X_Timeout="soon")[0] == 400


def test_streams_come_as_lines_or_events(post):
    assert post("/services/desk/count", {"to": 3})[1] == b"0\n1\n2\n"
    assert post("/services/desk/count", {"to": 2}, Accept="text/event-stream")[1] == b"data: 0\n\ndata: 1\n\n"
    first, last, _ = post("/services/desk/break_off")[1].split(b"\n")
    assert (first, json.loads(last)["error"]["detail"]) == (b"1", "broke off")


def test_a_body_that_is_too_large_is_refused(post):
    assert post("/services/desk/greet", {"name": "x" * 2**21})[0] == 413
    assert post("/services/desk/greet", raw=b"{")[0] == 400


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({}, None, 401),
        ({}, "t" * 63, 401),
        ({}, "r" * 64, 403),
        ({"Host": "evil.example"}, TOKEN, 421),
        ({"Origin": "http://evil.example"}, TOKEN, 403),
        ({"Sec_Fetch_Site": "cross-site"}, TOKEN, 403),
        ({"Sec_Fetch_Site": "same-origin"}, TOKEN, 200),
    ],
)
def test_nobody_gets_in_without_the_token_from_here(post, headers, token, status):
    assert post("/services/desk/add", [1, 2], token=token, **headers)[0] == status


def test_who_only_looks_whether_it_lives_needs_no_token(post):
    assert post("/healthz", method="GET", token=None)[0] == 200
    assert post("/readyz", method="GET", token=None)[:2] == (200, {"ready": True, "not_ready": {}})
