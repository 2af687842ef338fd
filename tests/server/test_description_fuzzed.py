"""Generated requests: what the server's description allows is answered as described, and the rest is refused."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - the server reads the annotations
import enum
import subprocess
import sys
from collections.abc import Iterator  # noqa: TC003 - as above
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig

pytestmark = pytest.mark.slow

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
TOKEN = "t" * 64

#: A call whose X-Timeout is too short is answered with 504; no other server error is allowed. JSON Schema accepts 3.0
#: as an integer, the server does not. A change for another generation of the service is answered with 412.
RULES = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "429", "5xx"]

[[operations]]
include-path = "/api/v1/services/{service}/scale"

[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404", "409", "412"]
"""

#: Without this, names are made up and most requests are about a service that does not exist. Changes are dry runs: a
#: service with thousands of replicas would take all memory.
NAMED = """
[parameters]
"path.service" = "shelf"
"path.id" = "1"
"query.dry_run" = "1"
"""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Item:
    name: str
    tags: list[str] = field(default_factory=list)
    size: float | None = None


class Desk:
    """Methods with arguments of every kind; none of them fails."""

    def add(self, a: int, b: int = 2) -> int:
        return a + b

    def item(self, item: Item, colour: Colour = Colour.RED) -> Item:
        return item

    def day(self, day: dt.date) -> dt.date:
        return day

    def size(self, data: bytes) -> int:
        return len(data)

    def raw(self) -> bytes:
        return b"\x00"

    def total(self, *numbers: int) -> int:
        return sum(numbers)

    def tag(self, name: str, **tags: int) -> dict[str, int]:
        return tags

    def order(self, first: int, /, second: str = "", *, third: bool = False) -> list[str]:
        return [second]

    def anything(self, value, other=None):
        return value

    def nested(self, items: dict[str, list[Item | int]]) -> dict[str, list[Item | int]]:
        return items

    def count(self, to: int) -> Iterator[int]:
        yield from range(min(to, 5))

    async def later(self, value: tuple[int, str]) -> set[int]:
        return {value[0]}


class Shelf:
    def put(self, item: str) -> str:
        return item


@pytest.fixture
def url():
    config = ServiceDeploymentConfig(threading_strategy="pool", timeout=10)
    with Environment("described") as env:
        env.register_service_with_config("desk", Desk, deployment_config=config)
        env.register_service_with_config("shelf", Shelf, deployment_config=config)
        env.deploy()
        with serve(env, "127.0.0.1:0", token=TOKEN) as server:
            yield server.url


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed: make test-long installs it")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("settings", [RULES, RULES + NAMED], ids=["made up", "named"])
def test_requests_are_answered_as_described(settings, url, tmp_path):
    """Each answer has the described status, headers, media type and schema; 5xx only where it is described."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(settings, encoding="utf-8")
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "--config-file", config, "run", f"{url}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}", "--seed", "1", "--max-examples", "50"),
            *("--phases", "examples,coverage,fuzzing", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert "Tested: 34" in done.stdout
