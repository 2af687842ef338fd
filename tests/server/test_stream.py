"""The event stream: viewers get a snapshot each second, and without viewers none is made."""

from __future__ import annotations

import http.client
import json
import threading
import time
from email.utils import parsedate_to_datetime

import pytest

from sage_deploy_server.management import stream as streaming

TOKEN = "t" * 64
PATIENCE = 20


class Viewer:
    def __init__(self, server):
        self.connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
        self.connection.request("GET", "/api/v1/stream", headers={"Authorization": f"Bearer {TOKEN}"})
        self.answer = self.connection.getresponse()

    def snapshot(self):
        """Return the next snapshot; None at the end."""
        lines = []
        while (line := self.answer.readline()) not in {b"\n", b""}:
            lines.append(line)
        return json.loads(lines[-1].removeprefix(b"data: ")) if lines else None

    def close(self):
        self.answer.close()
        self.connection.close()


@pytest.fixture
def watch(server, monkeypatch):
    monkeypatch.setattr(streaming, "_INTERVAL_S", 0.02)
    viewers = []

    def watch():
        viewers.append(Viewer(server))
        return viewers[-1]

    yield watch
    for viewer in viewers:
        viewer.close()


def test_each_snapshot_has_all_services_and_the_events_since_the_last(watch, env):
    """Each snapshot has all services, and the events since the last snapshot."""
    viewer = watch()
    first = viewer.snapshot()
    assert [row["name"] for row in first["services"]] == ["desk"]
    assert "replica_ready" in [event["kind"] for event in first["events"]]
    env.scale("desk", 2)
    seen = []
    while "scaled" not in [event["kind"] for event in seen]:
        seen += viewer.snapshot()["events"]
    assert min(event["seq"] for event in seen) > max(event["seq"] for event in first["events"])


def test_a_snapshot_is_made_once_for_all_who_watch_and_never_for_nobody(watch, env, monkeypatch):
    """One snapshot serves all viewers: the environment is asked once, and never when nobody watches."""
    asked, numbers, overview = [], threading.Semaphore(0), env.overview

    def counting():
        asked.append(threading.current_thread().name)
        numbers.release()
        return overview()

    monkeypatch.setattr(env, "overview", counting)
    assert asked == []
    viewers = [watch() for _ in range(10)]
    shown = [[viewer.snapshot() for _ in range(3)] for viewer in viewers]
    assert all(snapshot["services"] for snapshots in shown for snapshot in snapshots)
    assert len(asked) < 3 * len(viewers)
    for viewer in viewers:
        viewer.close()
    while numbers.acquire(timeout=0.5):  # the last ones may still be under way; then no more come
        pass
    before = len(asked)
    assert not numbers.acquire(timeout=0.2)
    assert len(asked) == before


def test_who_comes_later_sees_at_once_what_the_others_saw_last(watch, monkeypatch):
    """A new viewer gets the last snapshot at once, without waiting for the next."""
    monkeypatch.setattr(streaming, "_INTERVAL_S", 10 * PATIENCE)
    first = watch().snapshot()
    assert watch().snapshot() == first


def test_no_more_than_so_many_watch(watch, monkeypatch):
    """The number of viewers is limited; one more gets 503."""
    monkeypatch.setattr(streaming, "_MAX_VIEWERS", 2)
    assert [watch().answer.status for _ in range(3)] == [200, 200, 503]


def test_every_answer_has_the_time_though_nobody_wakes_up_to_write_it(ask):
    """Every answer has the current time in `Date`, also after a long pause, although no timer updates it."""
    for _ in range(2):
        date = parsedate_to_datetime(ask("GET", "/healthz")[2]["Date"]).timestamp()
        assert abs(date - time.time()) < 2


def test_the_end_of_the_server_waits_for_no_viewer(watch, server):
    """The server's end does not wait for viewers."""
    viewer = watch()
    assert viewer.snapshot() is not None
    server.close()
    while viewer.snapshot() is not None:
        pass


def test_a_look_at_the_stream_without_its_body_ends(server):
    """HEAD of the stream is answered at once, so that the next request of its connection is answered too."""
    connection = http.client.HTTPConnection(*server.address, timeout=5)
    connection.request("HEAD", "/api/v1/stream", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
    answer.read()
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


class Odd:
    """A service that meets a file whose name is not UTF-8."""

    def __init__(self, name="file"):
        if name != "file":
            raise FileNotFoundError(name)

    def fail(self):
        self.ctx.logger.warning("no %s", "caf\udce9")
        raise FileNotFoundError("no caf\udce9")

    def items(self):
        yield 1
        raise FileNotFoundError("no caf\udce9")

    def result(self):
        return "caf\udce9"

    fail.__doc__ = "Say caf\udce9."  # Python 3.13 compiles no such docstring


def test_text_that_is_not_utf_8_breaks_no_answer(watch, env, ask):
    """Text that UTF-8 does not have, such as the name of a file from elsewhere, is escaped in every answer."""
    env.register_service("odd", Odd)
    env.register_service("sick", Odd, "caf\udce9")
    status, problem, headers = ask("POST", "/services/odd/fail")
    assert (status, problem["code"], problem["detail"]) == (500, "FileNotFoundError", r"no caf\udce9")
    assert headers["X-Request-Id"]
    assert r"no caf\\udce9" in ask("POST", "/services/odd/items")[1].splitlines()[-1].decode()
    status, problem, _ = ask("POST", "/services/odd/result")
    assert (status, problem["code"]) == (500, "result")
    assert ask("POST", "/services/sick/fail")[0] == 409
    paths = ["services", "services/odd", "services/sick", "services/odd/errors", "logs", "events"]
    answers = {path: ask("GET", f"/api/v1/{path}") for path in paths} | {"/": ask("GET", "/openapi.json")}
    assert {path: answer[0] for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    for path in ("services/odd/errors", "logs", "events"):
        assert r"caf\udce9" in str(answers[path][1]).replace("\\\\", "\\"), path
    assert "caf" in str(watch().snapshot()["events"])
