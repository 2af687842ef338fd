"""
The effects of timeouts, queues, retries and the scaling delay, in virtual time.

    python benchmarks/choices.py --plots docs/images

This prints tables and draws two pictures. Results do not depend on the machine; only the running time does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_deploy_testing.load_simulation.results.charts import Chart, Line, picture
from sage_deploy_testing.simulation import exponential, lognormal, simulate

if TYPE_CHECKING:
    from sage_deploy_testing.simulation import Report

_MEDIAN_S, _SIGMA = 0.010, 0.8
#: Calls a second that four replicas with one slot each can answer. The mean of a lognormal time is above its median.
_CAPACITY = 4 / (_MEDIAN_S * 2.718281828 ** (_SIGMA**2 / 2))
_LOADS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5)
_TIMEOUTS_S = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
_QUEUES = (4, 20, 100, 1000)
_DELAYS_S = (5, 60, 300)
_SECONDS = 120


def run(load: float, seconds: float = _SECONDS, deaths: tuple[float, ...] = (), **config: Any) -> Report:
    """Simulate four replicas for some time. One of them dies at each of *deaths*."""
    settings = {"replicas": 4, "queue_size": 1000, "overload": "reject", "timeout": 1, "failover_enabled": True}
    methods = {"methods": {"get": {"idempotent": True}}}
    with simulate({**settings, **methods, **config}, seed=1) as sim:
        sim.time("get", lognormal(_MEDIAN_S, _SIGMA))
        sim.load(rate=load * _CAPACITY, until=seconds)
        for at in deaths:
            sim.fault("crash", at=at)
        return sim.run()


def timeouts() -> Chart:
    """Chart the share of calls that time out, at three loads."""
    lines = []
    for load in (0.5, 0.8, 0.9):
        reports = [(each, run(load, timeout=each, overload="block")) for each in _TIMEOUTS_S]
        points = [(each * 1000, 100 * (report.calls - report.ok) / report.calls) for each, report in reports]
        lines.append(Line(f"load {load:.0%}", points))
        print(f"timeouts, load {load:.0%}: " + ", ".join(f"{x:g} ms {y:.2f} %" for x, y in points))
    return Chart(title="Calls that a timeout ends", x="timeout, ms", y="of all calls, %", lines=lines, log=True)


def queues() -> Chart:
    """Chart the p99 of answered calls against load, by queue length."""
    lines = []
    for size in _QUEUES:
        reports = [(load, run(load, queue_size=size)) for load in _LOADS]
        lines.append(Line(f"queue_size {size}", [(load, report.latency.p99 * 1000) for load, report in reports]))
        answered = [f"{load:.0%} {report.ok / report.calls:.1%}" for load, report in reports]
        print(f"queue_size {size}: answered " + ", ".join(answered))
        print("  p99, ms: " + ", ".join(f"{load:.0%} {ms:.0f}" for load, ms in lines[-1].points))
    return Chart(title="Slowest answers by the length of the queue", x="load", y="p99, ms", lines=lines, log=True)


def retries() -> None:
    """Print how dying replicas affect calls: one dies every half minute, for an hour."""
    deaths = tuple(float(at) for at in range(30, 3600, 30))
    for name, config in {
        "no retry": {"failover_enabled": False},
        "retry": {"retry": {}},
        "retry without a budget": {"retry": {"budget": 0, "min": 0}},
    }.items():
        report = run(0.7, 3600, deaths, **config)
        more = report.attempts - report.calls
        print(
            f"{name}: {len(deaths)} deaths, {report.calls} calls, {report.died} ended with them, {more} attempts more"
        )


def delays() -> Chart:
    """Chart the replicas over an hour of steady load that keeps five busy, by the delay before scaling down."""
    lines = []
    for delay in _DELAYS_S:
        with simulate({"timeout": "1m", "autoscale": {"min": 1, "max": 30, "downscale_delay": delay}}, seed=2) as sim:
            sim.time("get", exponential(1.0))
            sim.load(rate=5, until=3600)
            report = sim.run()
        changes = sum(event.kind == "scaled" for event in report.events)
        print(f"downscale_delay {delay} s: {changes} changes, p99 of the wait {report.wait.p99:.2f} s")
        points = [(n * report.series.step / 60, each.ready) for n, each in enumerate(report.series.moments[:-1])]
        lines.append(Line(f"downscale_delay {delay} s", points))
    return Chart(title="Replicas under a steady load that keeps five busy", x="minutes", y="replicas", lines=lines)


def main() -> None:
    """Simulate, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--plots", type=Path, help="folder for the pictures")
    folder = parser.parse_args().plots
    if folder is not None:  # first, because the simulations take minutes
        folder.mkdir(parents=True, exist_ok=True)
    charts = {"choices-limits": [timeouts(), queues()], "choices-scaling": [delays()]}
    retries()
    for name, of_file in charts.items() if folder is not None else ():
        file = folder / f"{name}.svg"
        file.write_text(picture(of_file, columns=1), encoding="utf-8")
        print(f"wrote {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
