"""
The cost of a call by callers, replicas, and size of argument and result, on each target, next to a bare socket.

    python benchmarks/curves.py --plots docs/images

This prints the figures and draws the pictures of docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bare_socket import bare_socket
from private_ray import private_ray
from rounds import interleave, per_call
from workloads import from_threads

from sage_deploy_testing.load_simulation.results.charts import Chart, Line, picture
from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CALLERS = (1, 4, 16, 64, 256)
_REPLICAS = (1, 4, 16, 64)
_SIZES = {"0": 0, "1 KiB": 2**10, "64 KiB": 2**16, "1 MiB": 2**20, "16 MiB": 2**24, "64 MiB": 2**26}
#: Configuration of each target, by its name in the pictures.
_TARGETS: Mapping[str, Mapping[str, Any]] = {
    "local": {"target": "local"},
    "process": {"target": "process"},
    "Ray": {"target": "remote_any", "cpu_cores": 0.1},
}
_LIMIT = "bare socket"
#: Seconds that all replicas of one service may take to start.
_START_S = 300
_WAIT_S = 0.001
#: For the method that does nothing: calls in one measurement, and minimum for each caller.
_CALLS, _LEAST = 2_000, 16
#: For the method that waits: calls for each one that can run at once, and minimum for each caller.
_WAITING_CALLS, _LEAST_WAITING = 100, 2
#: Bytes that one measurement sends to another process, and maximum number of its calls.
_MOVED, _MOST = 2**25, 300


class Service:
    """A method that does nothing, and one that waits."""

    def echo(self, data: bytes) -> bytes:
        """Return *data*."""
        return data

    def wait(self) -> None:
        """Wait as for a disk or a network."""
        time.sleep(_WAIT_S)


class Panel(NamedTuple):
    """
    The measurements for one chart.

    Attributes:
        title: Title of the chart.
        x: Label of the horizontal axis.
        places: Names of the points on the horizontal axis.
        lines: By line name, one function for each point. It measures the seconds for a call.
        unit: Unit of the vertical axis: how many of it make a second, and its name.
    """

    title: str
    x: str
    places: Sequence[str]
    lines: Mapping[str, Sequence[Callable[[], float]]]
    unit: tuple[float, str] = (1e6, "microseconds for each call")


def deploy(stack: ExitStack, target: str, *replicas: int) -> list[Any]:
    """Return handles to services on *target*, one for each number of *replicas*. They end with *stack*."""
    if target == "Ray":
        stack.enter_context(private_ray())
    env = stack.enter_context(Environment("bench"))
    for number in replicas:
        config = ServiceDeploymentConfig(**_TARGETS[target], replicas=number, startup_timeout=_START_S)
        env.register_service_with_config(f"of-{number}", Service, deployment_config=config)
    env.deploy(timeout=_START_S)
    return [env.service(f"of-{number}") for number in replicas]


def by_callers(target: str, services: Sequence[Any], exchange: Callable[[bytes], object]) -> Panel:
    """Measure a method that does nothing on each of *services*. *exchange* is the limit for other processes."""

    def line(call: Callable[[], object]) -> list[Callable[[], float]]:
        return [
            partial(from_threads, call, threads=callers, number=max(_LEAST, _CALLS // callers)) for callers in _CALLERS
        ]

    lines = {
        _replicas(number): line(partial(service.echo, b"")) for number, service in zip(_REPLICAS, services, strict=True)
    }
    if target != "local":
        lines[_LIMIT] = line(partial(exchange, b""))
    return Panel(f"{target}: a method that does nothing", "calling threads", [str(each) for each in _CALLERS], lines)


def by_replicas(target: str, services: Sequence[Any]) -> Panel:
    """Measure a method that waits on each of *services*."""
    lines: dict[str, list[Callable[[], float]]] = {}
    for callers in (1, 16, 64, 256):
        lines[f"{callers} callers" if callers > 1 else "1 caller"] = [
            partial(
                from_threads,
                service.wait,
                threads=callers,
                number=max(_LEAST_WAITING, _WAITING_CALLS * min(callers, replicas) // callers),
            )
            for replicas, service in zip(_REPLICAS, services, strict=True)
        ]
    lines["1 ms / replicas"] = [lambda number=number: _WAIT_S / number for number in _REPLICAS]  # type: ignore[misc]
    return Panel(f"{target}: a method that waits 1 ms", "replicas", [str(each) for each in _REPLICAS], lines)


def by_size(services: Mapping[str, Any], exchange: Callable[[bytes], object]) -> Panel:
    """Measure one thread that calls each target of *services* with an argument that is also the result."""
    calls = {target: service.echo for target, service in services.items()} | {_LIMIT: exchange}
    lines: defaultdict[str, list[Callable[[], float]]] = defaultdict(list)
    for size in _SIZES.values():
        data = bytes(size)
        for name, call in calls.items():
            assert call(data) == data
            number = _MOST if name == "local" else max(1, min(_MOST, _MOVED // (size + 1)))
            lines[name].append(partial(per_call, partial(call, data), number))
    x, unit = "size of the argument, and of the result", (1e3, "milliseconds for a call")
    return Panel("An argument that is also the result", x, list(_SIZES), lines, unit)


def measure(panels: Sequence[Panel], rounds: int) -> list[Chart]:
    """Measure everything in turns, print the medians, and return the charts."""
    runs = {
        (number, name, at): run
        for number, panel in enumerate(panels)
        for name, line in panel.lines.items()
        for at, run in enumerate(line)
    }
    measured = interleave(runs, rounds)
    charts = []
    for number, panel in enumerate(panels):
        scale, y = panel.unit
        print(f"{panel.title}: {y}, by {panel.x}")
        print(" " * 22 + "".join(f"{place:>10}" for place in panel.places))
        lines = []
        for name, line in panel.lines.items():
            medians = [statistics.median(measured[number, name, at]) * scale for at in range(len(line))]
            print(f"  {name:<20}" + "".join(f"{median:>10.4g}" for median in medians))
            lines.append(Line(name, list(enumerate(medians))))
        charts.append(Chart(title=panel.title, x=panel.x, y=y, places=panel.places, lines=lines, log=True))
    return charts


def _replicas(number: int) -> str:
    return f"{number} replicas" if number > 1 else "1 replica"


def main() -> None:
    """Measure, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--targets", nargs="+", choices=_TARGETS, default=list(_TARGETS), metavar="TARGET")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where to draw the pictures, as SVG")
    asked = parser.parse_args()
    pictures: dict[str, list[Chart]] = {"cost-callers": [], "cost-replicas": [], "cost-sizes": []}
    with bare_socket(max(_CALLERS)) as exchange:
        for target in asked.targets:
            with ExitStack() as stack:
                services = deploy(stack, target, *_REPLICAS)
                panels = [by_callers(target, services, exchange), by_replicas(target, services)]
                for name, chart in zip(pictures, measure(panels, asked.rounds), strict=False):
                    pictures[name].append(chart)
        with ExitStack() as stack:
            services = {target: deploy(stack, target, 1)[0] for target in asked.targets}
            pictures["cost-sizes"] = measure([by_size(services, exchange)], asked.rounds)
    for name, charts in pictures.items() if asked.plots is not None else ():
        file = asked.plots / f"{name}.svg"
        file.write_text(picture(charts, columns=1), encoding="utf-8")
        print(f"wrote {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
