"""The header `Server-Timing` says how long a call waited and ran, wherever its replica is."""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from pathlib import Path

import acme_sockets
import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_server
import sage_deploy_threading
import timed_desk
from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins.registry import Registry

TOKEN = "t" * 64
#: The import path for replicas in other processes.
PATHS = os.pathsep.join(map(str, (Path(acme_sockets.__file__).parents[1], Path(timed_desk.__file__).parent)))
REGISTRY = Registry.of(
    acme_sockets,
    sage_deploy_balancers,
    sage_deploy_local,
    sage_deploy_monitors,
    sage_deploy_server,
    sage_deploy_threading,
)


@pytest.fixture(params=["local", "sockets"])
def timed(request):
    """
    Call a served environment with a local or remote replica; return the status, and the queue and run times in ms.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATHS)
        with Environment("timed", registry=REGISTRY) as env:
            config = ServiceDeploymentConfig(target=request.param, threading_strategy="single", timeout=20)
            env.register_service_with_config("desk", timed_desk.TimedDesk, deployment_config=config)
            env.deploy()
            with serve(env, "127.0.0.1:0", token=TOKEN) as server:
                yield lambda method, *args, **headers: ask(server, method, args, headers)


def ask(server, method, args, headers):
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    try:
        sent = {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request("POST", f"/services/desk/{method}", json.dumps(args), sent)
        answer = connection.getresponse()
        answer.read()
        said = answer.headers["Server-Timing"]
    finally:
        connection.close()
    return answer.status, {name: float(value) for name, value in re.findall(r"(\w+);dur=([0-9.]+)", said or "")}


def test_a_calls_answer_says_how_long_it_waited_and_ran(timed):
    """The answer has the queue and run times of the call. Together they are shorter than the request."""
    began = time.monotonic()
    status, found = timed("spin", 20_000)
    spent = (time.monotonic() - began) * 1e3
    assert status == 200
    assert 0 < found["run"] < spent
    assert 0 <= found["queue"] < spent - found["run"]


def test_a_method_that_raises_was_timed_too(timed):
    """A call whose method raises has both times too."""
    status, found = timed("fail")
    assert (status, found.keys()) == (500, {"queue", "run"})


def test_a_call_that_was_never_accepted_has_no_times(timed):
    """A call that was not accepted has no times."""
    assert timed("missing") == (404, {})
    assert timed("spin", X_Timeout="soon") == (400, {})


def test_a_streams_answer_begins_with_how_long_it_waited(timed):
    """The header of a stream has only the time in the queue: it is sent before the stream's run time is known."""
    status, found = timed("count", 1000)
    assert (status, found.keys()) == (200, {"queue"})


def test_a_stream_without_items_says_both(timed):
    """A stream without items has both times."""
    status, found = timed("count", 0)
    assert (status, found.keys()) == (200, {"queue", "run"})
