"""A real Prometheus scrapes the server with the example's configuration and answers queries."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "monitoring"
READ_TOKEN = "r" * 64
PATIENCE = 60
PROMETHEUS = shutil.which("prometheus")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="Debian's package `prometheus` is not installed"),
]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture
def query(server, tmp_path):
    """Query Prometheus, which scrapes the server ten times a second; return the value of the only series."""
    config = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "100ms", "scrape_timeout": "100ms", "evaluation_interval": "100ms"}
    (job,) = config["scrape_configs"]
    del job["scrape_timeout"]
    token = tmp_path / "token"
    token.write_text(READ_TOKEN, encoding="ascii")
    job["authorization"]["credentials_file"] = str(token)
    job["static_configs"] = [{"targets": ["{}:{}".format(*server.address)]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(EXAMPLE / "alerts.yml", tmp_path)
    port = free_port()
    prometheus = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def query(expression):
        try:
            with urlopen(f"http://127.0.0.1:{port}/api/v1/query?{urlencode({'query': expression})}") as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:  # it has only just started
            return None
        return float(found[0]["value"][1]) if found else None

    yield query
    prometheus.terminate()
    prometheus.wait(PATIENCE)


def until(found):
    """Wait until *found* returns true."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end
        threading.Event().wait(0.1)


def test_prometheus_counts_the_calls_that_the_status_counts(query, env):
    """Prometheus has exactly the calls that the status has, also after the service was scaled."""
    desk = env.service("desk")
    for number in range(50):
        assert desk.add(number, 1) == number + 1
    for _ in range(5):
        with pytest.raises(LookupError):
            desk.fail()
    until(lambda: query('up{job="sage-deploy"}') == 1)
    until(lambda: query('sum(sage_requests_total{service="desk"})') == 55)
    assert query('sum(sage_requests_total{service="desk",outcome="error"})') == 5
    metrics = env.get_service_status("desk")["metrics"]
    assert metrics.request_count == 55
    assert query("sum(sage_request_duration_seconds_count)") == metrics.request_count
    assert query('sage_replicas{service="desk",state="ready"}') == 1
    env.scale("desk", 3)
    until(lambda: query('sage_replicas{service="desk",state="ready"}') == 3)
    assert query('sum(sage_requests_total{service="desk"})') == 55
