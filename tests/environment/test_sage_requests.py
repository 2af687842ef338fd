"""A task answers SAGE's request dictionaries and takes a context, as in SAGE."""

from __future__ import annotations

import queue

from sage_plugins import (
    ServiceFactory,
    ServiceTaskFactory,
)

PATIENCE = 20.0
SHORT = 0.03


def response_to(task, **request):
    responses = queue.SimpleQueue()
    task.handle_request({"response_queue": responses, **request})
    return responses.get(timeout=PATIENCE)


def test_request_and_response(deploy, strategy):
    """The response to a request has SAGE's keys."""
    task = deploy(strategy).env.task("svc")
    response = response_to(
        task, request_id="r1", method_name="given", args=(1,), kwargs={"word": "w"}, service_name="svc"
    )
    assert set(response) == {"request_id", "result", "error", "success", "execution_time", "timestamp"}
    assert (response["request_id"], response["result"]) == ("r1", ((1,), {"word": "w"}))
    assert (response["error"], response["success"]) == (None, True)
    assert response["execution_time"] >= 0
    assert response["timestamp"] > 1_600_000_000
    assert response_to(task, method_name="echo")["request_id"] is None


def test_failed_request(deploy, strategy):
    """Whatever goes wrong with a request, its response has the error as text, and `handle_request` raises nothing."""

    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def fail(kind, *args):
        raise kind(*args)

    task = deploy(strategy).env.task("svc")
    for error, request in {
        "went wrong": {"method_name": "run", "args": (fail, ValueError, "went wrong")},
        "ValueError": {"method_name": "run", "args": (fail, ValueError)},
        "": {"method_name": "run", "args": (fail, UnprintableError)},
        "leaving": {"method_name": "run", "args": [fail, SystemExit, "leaving"]},
        "did you mean 'echo'": {"method_name": "ecco"},
        "life-cycle hook": {"method_name": "stop"},
        "stream": {"method_name": "items"},
        "timeout": {"method_name": "echo", "timeout": -1},
        "method_name": {},
    }.items():
        response = response_to(task, request_id=7, **request)
        assert (response["request_id"], response["success"], response["result"]) == (7, False, None)
        assert response["error"]
        assert error in response["error"]


def test_request_does_not_wait(deploy, threaded, gates):
    """`handle_request` returns at once, also with a full queue."""
    service = deploy(threaded, queue_size=1)
    task, responses, held = service.env.task("svc"), queue.SimpleQueue(), gates()
    for number in range(service.slots + 4):
        task.handle_request(
            {"request_id": number, "method_name": "run", "args": (held, number), "response_queue": responses}
        )
    assert responses.empty()
    held.open()
    answers = [responses.get(timeout=PATIENCE) for _ in range(service.slots + 4)]
    assert {(answer["request_id"], answer["result"]) for answer in answers} == {
        (number, number) for number in range(service.slots + 4)
    }


def test_request_has_a_deadline(deploy, threaded, gate):
    """A request's `timeout` ends it, although no thread waits for it."""
    task = deploy(threaded).env.task("svc")
    response = response_to(task, method_name="run", args=(gate,), timeout=SHORT)
    assert not response["success"]
    assert "gave no answer in 0.03 s" in response["error"]
    gate.open()


def test_request_to_a_stopped_service(deploy, strategy):
    """A request to a stopped service gets an error response."""
    service = deploy(strategy)
    task = service.env.task("svc")
    service.env.close()
    assert "svc" in response_to(task, method_name="echo")["error"]


def test_overloaded_request(deploy, threaded, occupy):
    """A request to a full queue gets an error response."""
    service = deploy(threaded, queue_size=0, overload="reject")
    occupied = occupy(service)
    assert "queue_size" in response_to(service.env.task("svc"), method_name="echo")["error"]
    occupied.open()


def test_task_factory_takes_a_context(env, given):
    """A task made with a context finds the services that the context finds."""

    class Asking:
        def ask(self):
            return self.ctx.service("svc").given()

    class Outer:
        def make(self):
            return ServiceTaskFactory(ServiceFactory("asking", Asking)).create_service_task(self.ctx)

    env.register_service("svc", given, 5)
    env.register_service("outer", Outer)
    task = env.service("outer").make()
    try:
        assert task.handle.ask() == ((5,), {})
    finally:
        task.stop()
