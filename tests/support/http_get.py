"""Sends one request to a sage-deploy server."""

from __future__ import annotations

import http.client
import json

__all__ = ["TOKEN", "get"]

TOKEN = "t" * 64


def get(server, path, *, token=TOKEN, method="GET", body=None, **headers):
    """Return status, body (parsed if it is JSON, else text), and headers of the reply."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    try:
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Authorization": f"Bearer {token}", **said})
        answer = connection.getresponse()
        text = answer.read()
        is_json = (answer.headers["Content-Type"] or "").endswith("json")
        return answer.status, json.loads(text) if is_json else text.decode(), answer.headers
    finally:
        connection.close()
