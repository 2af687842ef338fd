"""
Calls over HTTP against a bare application on the same server, and other costs of a served environment.

`--only calls status ...` measures some parts. Parts are the functions named in `_PARTS`.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from http_load import Load
from http_servers import BENTOML, TOKEN, Echo, Serving
from rounds import interleave
from table import goal, show

from sage_deploy_server import serve
from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PATH = "/services/bench/echo"
_HEADERS = {"Authorization": f"Bearer {TOKEN}"}
_OURS = ("inline", "pool")
#: The packages of other servers. BentoML has an environment of its own.
_PACKAGES = {"Ray Serve": "ray.serve", "LitServe": "litserve", "mosec": "mosec"}
_MANY, _REPLICAS = 200, 4
_IDLE_S = 10.0


def calls(rounds: int) -> None:
    """Requests a second and the slowest of a hundred, against a bare application."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Serving(name)) for name in ("bare", "bare, thread", *_OURS)}
        for connections in (1, 32):
            measured, late = _measure(servers, connections, rounds, dict.fromkeys(servers, 2_000))
            for name in _OURS:
                goal(measured, "bare", name, ">= 0.75")
                goal(measured, "bare, thread", name)
            show(f"{connections} connections: 99 of 100 requests are answered within (us)", late)
            for name in _OURS:
                goal(late, name, "bare", "<= 1.5")
                goal(late, name, "bare, thread")


def peers(rounds: int) -> None:
    """Requests a second against other model servers. Separate from `calls`, because those are busy even when idle."""
    _against({"Ray Serve": 500, "LitServe": 500, "BentoML": 500}, _OURS, rounds, ">= 3")


def workers(rounds: int) -> None:
    """The same for a service on target `process`, against servers that also run the method in another process."""
    _against({"LitServe": 500, "mosec": 2_000}, ["process"], rounds)


def _against(others: Mapping[str, int], ours: Sequence[str], rounds: int, wanted: str = "") -> None:
    """Compare *ours* with the installed ones of *others*, whose values are the requests in a measurement."""
    requests = dict.fromkeys(ours, 2_000)
    for name, number in others.items():
        if BENTOML.exists() if name == "BentoML" else _is_installed(_PACKAGES[name]):
            requests[name] = number
        else:
            print(f"{name} is not installed")
    with ExitStack() as stack:
        servers = {name: stack.enter_context(Serving(name)) for name in requests}
        for connections in (1, 32):
            measured, _ = _measure(servers, connections, rounds, requests)
            for name in ours:
                for other in filter(servers.__contains__, others):
                    goal(measured, other, name, wanted)


def _measure(
    servers: Mapping[str, Serving], connections: int, rounds: int, requests: Mapping[str, int]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return, by server, the seconds for a request and those within which 99 of 100 were answered, in each round."""
    late: dict[str, list[float]] = {name: [] for name in servers}
    with Load() as load:

        def measured_of(name: str) -> float:
            each, slow = load.measure(
                servers[name].port, _PATH, _HEADERS, connections=connections, requests=requests[name]
            )
            late[name].append(slow)
            return each

        measured = interleave({name: partial(measured_of, name) for name in servers}, rounds)
    show(f"{connections} connections: a request (us)", measured)
    return measured, {name: values[1:] for name, values in late.items()}  # without the warm-up round


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def status(rounds: int) -> None:
    """The command `status` as a process, next to Python itself."""
    with tempfile.TemporaryDirectory() as state, Serving("commanded", XDG_STATE_HOME=state):
        environment = os.environ | {"XDG_STATE_HOME": state}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)

        def process(*command: str) -> float:
            begin = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            return time.perf_counter() - begin

        command = str(Path(sys.executable).with_name("sage-deploy"))
        measured = interleave(
            {
                "status -o json": lambda: process(command, "status", "-o", "json"),
                "bare Python": lambda: process(sys.executable, "-c", "pass"),
            },
            rounds,
        )
    show("the command as a process (ms; goal of `status` <= 400)", measured, 1e3)


def scrape(rounds: int) -> None:
    """The metrics of many services."""
    with Environment("bench") as env:
        config = ServiceDeploymentConfig(threading_strategy="inline", replicas=_REPLICAS, load_balancing=True)
        for number in range(_MANY):
            env.register_service_with_config(f"service-{number}", Echo, deployment_config=config)
        env.deploy()
        for number in range(_MANY):
            env.service(f"service-{number}").call("echo", 1)
        with serve(env, "127.0.0.1:0", token=TOKEN) as server:
            assert server.address is not None
            connection = http.client.HTTPConnection(*server.address)

            def scraped() -> float:
                begin = time.perf_counter()
                connection.request("GET", "/metrics", headers=_HEADERS)
                assert connection.getresponse().read()
                return time.perf_counter() - begin

            def scraped_cpu() -> float:  # the part that does not depend on the machine's other load
                begin = time.process_time()
                scraped()
                return time.process_time() - begin

            def took(look: Callable[[], object]) -> float:
                begin = time.perf_counter()
                look()
                return time.perf_counter() - begin

            measured = interleave(
                {
                    "GET /metrics": scraped,
                    "GET /metrics, processor time": scraped_cpu,
                    "metrics()": lambda: took(env.metrics),
                    "status()": lambda: took(env.status),
                },
                rounds,
            )
            connection.close()
    show(f"{_MANY} services of {_REPLICAS} replicas (ms; goal of GET /metrics <= 50)", measured, 1e3)


def idle(rounds: int) -> None:
    """The processor time of a server without requests."""
    with Serving("pool") as served, Serving("unserved") as unserved:
        measured: dict[str, list[float]] = {"with a server": [], "without": []}
        for _ in range(max(3, rounds // 3)):
            before = served.cpu(), unserved.cpu()
            time.sleep(_IDLE_S)
            measured["with a server"].append(served.cpu() - before[0])
            measured["without"].append(unserved.cpu() - before[1])
    show(f"processor time in {_IDLE_S:g} s without a client (ms; goal: no difference)", measured, 1e3)


_PARTS = (calls, status, scrape, idle, peers, workers)


def main() -> None:
    """Measure, and print a row for each goal."""
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
