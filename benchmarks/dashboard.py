"""
The cost of the dashboard, for its server and for the browser. Prints each figure with its goal.

`--only watched paint ...` measures some parts. Parts are the functions named in `_PARTS`.
"""

from __future__ import annotations

import argparse
import http.client
import subprocess
import sys
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dashboard_pages import paint, updates
from http_servers import TOKEN, Serving
from table import show

from sage_deploy_server.pages.files import LOADED
from sage_deploy_server.recording.history import History
from sage_deploy_server.recording.sample import CallCounts, Sample
from sage_plugins.metrics import HISTOGRAM_EDGES_S

if TYPE_CHECKING:
    from collections.abc import Iterator

_VIEWERS = 5
_WATCHED_S = 10.0
#: A minute, because the recorder runs once a minute.
_ALONE_S = 60.0
_SERVICES = 50
_DAY_S = 86_400


@contextmanager
def _watchers(port: int) -> Iterator[None]:
    program = Path(__file__).with_name("dashboard_watchers.py")
    command = [sys.executable, str(program), str(port), str(_VIEWERS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline(), "the watchers have failed"
        yield
        process.stdin.close()


def _share(server: Serving, seconds: float) -> float:
    """Return the share of a core that the server's process uses during *seconds*."""
    before, begin = server.cpu(), time.perf_counter()
    time.sleep(seconds)
    return (server.cpu() - before) / (time.perf_counter() - begin)


def watched(rounds: int) -> None:
    """Measure the cost of viewers with 50 services of 4 replicas, without calls and with 200 calls a second."""
    with Serving("many") as idle, Serving("many, called") as called:
        for name, server in {"nobody calls": idle, "200 calls a second": called}.items():
            shares: dict[str, list[float]] = {"with viewers": [], "without": [], "difference": []}
            for _ in range(rounds):
                with _watchers(server.port):
                    shares["with viewers"].append(_share(server, _WATCHED_S))
                shares["without"].append(_share(server, _WATCHED_S))
                shares["difference"].append(shares["with viewers"][-1] - shares["without"][-1])
            show(f"{_VIEWERS} viewers, {name}: per cent of a core (goal of the difference <= 1)", shares, 100)


def alone(rounds: int) -> None:
    """Measure the cost of a server without viewers, next to the same environment without a server."""
    with Serving("many") as served, Serving("many, unserved") as unserved:
        time.sleep(5)  # until all imports are done
        shares: dict[str, list[float]] = {"with a server": [], "without": []}
        for _ in range(max(3, rounds // 3)):
            before = served.cpu(), unserved.cpu()
            time.sleep(_ALONE_S)
            shares["with a server"].append((served.cpu() - before[0]) / _ALONE_S)
            shares["without"].append((unserved.cpu() - before[1]) / _ALONE_S)
    show("no viewer: per cent of a core (goal: no difference)", shares, 100)


def weight(_rounds: int) -> None:
    """Print the size of the page with everything that it loads."""
    with Serving("pool") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        bytes_ = 0
        for path in ("/", *(f"/static/{file}" for file in LOADED)):
            connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            assert answer.status == http.HTTPStatus.OK, path
            bytes_ += len(answer.read())
        connection.close()
    print(f"page and all that it loads: {bytes_:,} bytes in {1 + len(LOADED)} files  (goal <= 122,880)")


def memory(_rounds: int) -> None:
    """Print the memory of a full day's history of 50 services."""
    now = 0.0
    call_counts = CallCounts(1, 0, 0, 1.0, [1.0] * (len(HISTOGRAM_EDGES_S) + 1), HISTOGRAM_EDGES_S)
    names: list[str | None] = [None, *(f"service-{number}" for number in range(_SERVICES))]
    samples = dict.fromkeys(names, Sample(call_counts, 0, 0, 4, 0))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    history = History(lambda: now, lambda: now)
    # Enough samples to fill every ring.
    for length, step in ((_DAY_S - 10_800, 60), (10_800 - 900, 10), (900, 1)):
        until = now + length
        while now < until:
            now += step
            history.record(samples)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    missing = [history.read(seconds, "service-0")["rate"].count(None) for seconds in (900, 10_800, _DAY_S)]
    print(
        f"history of {_SERVICES} services, 24 h: {(after - before) / 2**20:.1f} MiB  (goal <= 16); "
        f"values that are missing at 15 min, 3 h, 24 h: {missing}"
    )


_PARTS = (weight, memory, paint, updates, watched, alone)


def main() -> None:
    """Measure and print each figure with its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    names = [part.__name__ for part in _PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    asked = parser.parse_args()
    for part in _PARTS:
        if part.__name__ in asked.only:
            part(asked.rounds)


if __name__ == "__main__":
    main()
