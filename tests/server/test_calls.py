"""Calls over HTTP to a real server: arguments, results, errors and streams."""

from __future__ import annotations

import json

import pytest

from sage_plugins import ServiceDeploymentConfig
from served_desk import Inner


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
    """JSON arguments become the types that the method declares."""
    assert post(f"/services/desk/{method}", body)[:2] == (200, result)


def test_bytes_are_sent_as_they_are(post):
    """A result of bytes is sent unchanged, as application/octet-stream."""
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
        ("/elsewhere", None, 404, "there is no /elsewhere"),
    ],
)
def test_an_error_says_what_is_wrong(post, path, body, status, words):
    """An error has a status, a problem document with the reason, and no traceback."""
    found, problem, headers = post(path, body)
    assert (found, headers["Content-Type"]) == (status, "application/problem+json")
    assert words in problem["detail"]
    assert "Traceback" not in json.dumps(problem)


def test_the_services_log_has_the_traceback_of_a_failed_method(ask, post):
    """The traceback of a method's exception is in the log of its service, under the ID of the request."""
    post("/services/desk/fail", X_Request_Id="lost")
    _, lines, _ = ask("GET", "/api/v1/logs?service=desk")
    (line,) = [line for line in lines if line["request_id"] == "lost"]
    assert (line["level"], "in fail" in line["message"]) == ("ERROR", True)


def test_a_time_limit_of_the_client_holds(post):
    """The client's `X-Timeout` limits the call; a wrong value is refused."""
    status, problem, _ = post("/services/desk/hold", X_Timeout="0.2")
    assert (status, problem["code"], problem["stage"]) == (504, "CallTimeoutError", "run")
    for wrong in ("soon", "0", "-1", "nan", "inf", "1e10"):
        assert post("/services/desk/hold", X_Timeout=wrong)[0] == 400, wrong


def test_a_body_that_is_null_is_not_an_empty_one(post):
    """The body `null` is refused, as it is neither object nor array; an empty body means no arguments."""
    assert post("/services/desk/raw", raw=b"")[0] == 200
    assert post("/services/desk/raw", raw=b" null ")[0] == 400


def test_streams_come_as_lines_or_events(post):
    """A stream comes as lines or as server-sent events; an error during the stream is its last line."""
    assert post("/services/desk/count", {"to": 3})[1] == b"0\n1\n2\n"
    assert post("/services/desk/count", {"to": 2}, Accept="text/event-stream")[1] == b"data: 0\n\ndata: 1\n\n"
    first, last, _ = post("/services/desk/break_off")[1].split(b"\n")
    assert (first, json.loads(last)["error"]["detail"]) == (b"1", "broke off")


def test_the_requests_id_goes_along_into_inner_calls_and_logs(ask, post, env, caplog):
    """
    The request's id goes into inner calls and logs, so that it can be followed; a request without one gets a new id.
    """
    caplog.set_level("INFO", "sage.service")
    env.register_service("inner", Inner)
    _, found, headers = post("/services/desk/request", X_Request_Id="mine")
    assert (found, headers["X-Request-Id"]) == (["mine", "mine"], "mine")
    line = ask("GET", "/api/v1/logs?service=desk")[1][-1]
    assert (line["message"], line["request_id"], line["replica"]) == ("asked", "mine", "desk#0")
    _, found, headers = post("/services/desk/request")
    assert found == [headers["X-Request-Id"]] * 2 != ["mine", "mine"]


def test_a_body_that_is_too_large_is_refused(post):
    """A body that is too large gets 413, one that is no JSON gets 400."""
    assert post("/services/desk/greet", {"name": "x" * 2**21})[0] == 413
    assert post("/services/desk/greet", raw=b"{")[0] == 400


class Before:
    def answer(self, value: int) -> int:
        return value

    def gone(self) -> None:
        pass


class After:
    def answer(self, value: str):
        yield value
        yield len(value)

    def new(self) -> str:
        return "new"


def test_a_service_that_is_deployed_again_has_the_methods_of_its_new_class(env, post):
    """A service deployed again with another class has the methods of that class."""
    env.register_service("changing", Before)
    env.deploy()
    assert post("/services/changing/answer", [1])[:2] == (200, 1)
    assert post("/services/changing/gone")[0] == 200
    env.drain("changing")
    env.register_service("changing", After)
    env.deploy()
    assert post("/services/changing/answer", {"value": "ab"})[1] == b'"ab"\n2\n'
    assert post("/services/changing/new")[:2] == (200, "new")
    assert post("/services/changing/gone")[0] == 404
    assert post("/services/changing/answer", [1])[0] == 400


def test_a_service_that_has_stopped_is_said_to_have(env, post):
    """A call to a stopped service gets 503."""
    assert post("/services/desk/add", [1, 2])[0] == 200
    env.drain("desk")
    assert post("/services/desk/add", [1, 2])[0] == 503


class UnreadableError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Unreadable:
    def fail(self):
        raise UnreadableError


def test_an_error_whose_text_cannot_be_read_is_a_problem_too(env, post):
    """An exception whose text cannot be read is answered like any other, with its class."""
    env.register_service("unreadable", Unreadable)
    status, problem, headers = post("/services/unreadable/fail")
    assert (status, problem["code"], problem["detail"]) == (500, "UnreadableError", "its text cannot be read")
    assert headers["X-Request-Id"]


class Who:
    def index(self):
        return self.ctx.replica_index


def test_a_key_means_the_same_replica_as_in_python(env, post):
    """A key in `X-Key` is read as UTF-8, so it leads to the same replica as in Python."""
    config = ServiceDeploymentConfig(replicas=8, load_balancer="consistent_hash")
    env.register_service_with_config("who", Who, deployment_config=config)
    for key in ("ada", *(f"\u952e{number}" for number in range(8))):
        expected = env.service("who").with_options(key=key).index()
        assert post("/services/who/index", **{"X-Key": key.encode()})[1] == expected
    latin = env.service("who").with_options(key="caf\xe9").index()
    assert post("/services/who/index", **{"X-Key": "caf\xe9".encode("latin-1")})[1] == latin
