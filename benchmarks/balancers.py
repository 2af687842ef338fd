"""
The five load balancers in virtual time: tail latency against load, at 10 to 10,000 replicas.

    python benchmarks/balancers.py --plots docs/images

This prints a table and draws a picture for each number of replicas. Results do not depend on the machine; only the
running time does.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sage_deploy_testing.load_simulation.results.charts import Chart, Line, picture
from sage_deploy_testing.simulation import exponential, lognormal, simulate, uniform, zipf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_deploy_testing.simulation import Report

BALANCERS = ("round_robin", "random", "least_loaded", "power_of_two", "consistent_hash")
WORKLOADS = ("uniform", "skewed", "slow replicas")

_SLOTS = 4
_MEAN_S = 0.01
#: Share of the first calls that is ignored, because they find the service empty.
_WARM_UP = 1 / 4
#: Keys for each replica.
_KEYS = 100


class Size(NamedTuple):
    """
    The amount of simulation for one number of replicas.

    Attributes:
        loads: Shares of all slots that are busy if no replica is slow.
        calls: Number of calls for each point.
        balancers: The simulated balancers.
    """

    loads: tuple[float, ...]
    calls: int
    balancers: tuple[str, ...] = BALANCERS


SIZES: Mapping[int, Size] = {
    10: Size((0.3, 0.5, 0.7, 0.8, 0.9), 20_000),
    100: Size((0.3, 0.5, 0.7, 0.8, 0.9), 20_000),
    1_000: Size((0.5, 0.7, 0.9), 40_000),
    10_000: Size((0.7,), 100_000),
}


def point(replicas: int, balancer: str, workload: str, load: float, calls: int) -> Report:
    """Run one simulation."""
    config = {"replicas": replicas, "load_balancer": balancer, "queue_size": 100_000, "timeout": 30}
    rate = replicas * _SLOTS * load / _MEAN_S
    with simulate(config, seed=1, slots=_SLOTS) as sim:
        # With sigma 1.5, one call in a hundred takes ten times the mean or more.
        heavy = lognormal(_MEAN_S / 2.718281828 ** (1.5**2 / 2), 1.5)
        sim.time("get", heavy if workload == "skewed" else exponential(_MEAN_S))
        keys = zipf(_KEYS * replicas, 0.9) if workload == "skewed" else uniform(_KEYS * replicas)
        sim.load(rate=rate, until=calls / rate, keys=keys if balancer == "consistent_hash" else None)
        if workload == "slow replicas":
            for index in range(0, replicas, 10):
                sim.fault("slow", at=0, replica=index, factor=5)
        return sim.run()


def main() -> None:
    """Simulate, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--replicas", type=int, nargs="*", default=list(SIZES), choices=list(SIZES), metavar="N")
    parser.add_argument("--balancers", nargs="*", default=BALANCERS, choices=BALANCERS, metavar="ID")
    parser.add_argument("--plots", type=Path, help="folder for the pictures")
    asked = parser.parse_args()
    if asked.plots is not None:  # first, because the simulations take minutes
        asked.plots.mkdir(parents=True, exist_ok=True)
    print(f"p99 in ms; {_SLOTS} calls at once in a replica, {_MEAN_S * 1000:g} ms on average")
    for replicas in asked.replicas:
        size = SIZES[replicas]
        chosen = [balancer for balancer in size.balancers if balancer in asked.balancers]
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for workload in WORKLOADS:
            print(f"\n{replicas} replicas, {workload}: load  " + "".join(f"{load:>9.0%}" for load in size.loads))
            for balancer in chosen:
                began = time.process_time()
                line = found[workload, balancer] = []
                for load in size.loads:
                    report = point(replicas, balancer, workload, load, size.calls)
                    line.append((load, report.latency_between(_WARM_UP * report.seconds, report.seconds).p99 * 1000))
                spent = time.process_time() - began
                figures = "".join(f"{p99:>9.1f}" for _, p99 in line)
                print(f"  {balancer:<20}        {figures}   ({spent:.0f} s of CPU)", flush=True)
        if asked.plots is not None and len(size.loads) > 1:
            charts = [
                Chart(
                    title=f"{replicas} replicas, {workload}",
                    x="share of all slots that calls need",
                    y="p99, ms",
                    lines=[Line(balancer, found[workload, balancer]) for balancer in chosen],
                    log=True,
                )
                for workload in WORKLOADS
            ]
            file = asked.plots / f"balancers-{replicas}.svg"
            file.write_text(picture(charts, columns=1), encoding="utf-8")
            print(f"wrote {file}", file=sys.stderr)


if __name__ == "__main__":
    main()
