"""One request to a server of sage-deploy."""

from __future__ import annotations

import http.client
import json

__all__ = ["TOKEN", "get"]

TOKEN = "t" * 64


def get(server, path, *, token=TOKEN, method="GET", body=None, **headers):
    """The status, the body (what the JSON stands for, or the text), and the headers of the answer."""
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
