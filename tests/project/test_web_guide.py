"""The application of docs/guides/web-application.md, under uvicorn."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection

import pytest

from documentation_pages import DOCS, blocks

PATIENCE = 30


@pytest.fixture
def server(tmp_path):
    """Start the application in a separate process, on a free port."""
    for block in blocks((DOCS / "guides" / "web-application.md").read_text(encoding="utf-8")):
        if block.name is not None:
            (tmp_path / block.name).write_text(block.text, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "web:app", "--host", "127.0.0.1", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        yield running
        running.kill()


def address_of(running):
    for line in running.stderr:
        if found := re.search(r"running on http://([\d.:]+)", line):
            return found[1]
    return pytest.fail("it did not start")


def count(address, text):
    connection = HTTPConnection(address, timeout=PATIENCE)
    with closing(connection):
        connection.request("POST", "/count", text.encode())
        answer = connection.getresponse()
        return answer.status, json.load(answer)


def test_the_application_answers_and_stops_its_services(server):
    """The application returns results, turns an exception into a status, and stops its services on SIGTERM."""
    address = address_of(server)
    assert count(address, "three little words") == (200, {"words": 3})
    assert count(address, "") == (400, {"error": "there is no text"})
    server.send_signal(signal.SIGTERM)
    out, err = server.communicate(timeout=PATIENCE)
    assert "words has stopped" in out, err
    assert server.returncode in {0, -signal.SIGTERM}, err
