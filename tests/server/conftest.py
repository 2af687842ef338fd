"""An environment with a real server, and functions that send requests."""

from __future__ import annotations

import http.client
import json

import pytest

from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig
from served_desk import Desk

TOKEN = "t" * 64
READ_TOKEN = "r" * 64


@pytest.fixture
def env():
    config = ServiceDeploymentConfig(threading_strategy="pool", timeout=5)
    with Environment("served") as env:
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.deploy()
        yield env


@pytest.fixture
def server(env):
    with serve(env, "127.0.0.1:0", token=TOKEN, read_token=READ_TOKEN) as running:
        yield running


@pytest.fixture
def ask(server):
    """Send a request; return the status, the body (parsed if it is JSON) and the headers."""

    def ask(method, path, body=None, *, token=TOKEN, raw=None, **headers):
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        try:
            data = raw if raw is not None else None if body is None else json.dumps(body).encode()
            said = {name.replace("_", "-"): value for name, value in headers.items()}
            if token is not None:
                said["Authorization"] = f"Bearer {token}"
            connection.request(method, path, data, said)
            answer = connection.getresponse()
            kind = answer.headers["Content-Type"] or ""
            text = b"" if "event-stream" in kind and method == "GET" else answer.read()  # an event stream does not end
            is_json = text and "json" in kind and "nd" not in kind
            return answer.status, json.loads(text) if is_json else text, answer.headers
        finally:
            connection.close()

    return ask


@pytest.fixture
def log_in(server, ask):
    """Open a login link; return the cookie."""

    def log_in(*, read_only=False):
        path = server.login_link(read_only=read_only).removeprefix(server.url)
        status, _, headers = ask("GET", path, token=None)
        assert status == 303
        return headers["Set-Cookie"].partition(";")[0]

    return log_in


@pytest.fixture
def post(ask):
    def post(path, body=None, *, method="POST", **more):
        return ask(method, path, body, **more)

    return post
