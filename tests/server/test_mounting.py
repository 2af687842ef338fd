"""Calls under a path of another application."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.routing import Mount

from sage_deploy_server import asgi


async def _post(app, path, body):
    """Send one request as a server does."""
    sent = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "http_version": "1.1",
    }
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()
        return message

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:])


def test_calls_are_answered_below_the_path_of_an_application(env):
    """A mounted application answers calls only; the management API is not available there."""
    app = Starlette(routes=[Mount("/services", asgi(env))])
    assert asyncio.run(_post(app, "/services/desk/add", b"[1, 2]")) == (200, b"3")
    assert asyncio.run(_post(app, "/services/desk/ad", b"[1, 2]"))[0] == 404
    assert asyncio.run(_post(app, "/services/api/v1/services/desk/drain", b""))[0] == 404
    assert asyncio.run(_post(app, "/api/v1/services/desk/drain", b""))[0] == 404
