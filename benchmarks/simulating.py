"""The processor time and memory of a simulation: `power_of_two`, 70 % load, replicas of eight slots."""

from __future__ import annotations

import argparse
import resource
import time
from typing import Final

from sage_deploy_testing.simulation import exponential, simulate

_SLOTS: Final = 8
_MEAN_S: Final = 0.1
_LOAD: Final = 0.7


def main() -> None:
    """Simulate once and print the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=10_000_000)
    asked = parser.parse_args()
    config = {"replicas": asked.replicas, "queue_size": 100_000, "load_balancer": "power_of_two", "timeout": 5}
    rate = asked.replicas * _SLOTS * _LOAD / _MEAN_S
    began = time.process_time()
    with simulate(config, seed=7, slots=_SLOTS) as sim:
        sim.time("get", exponential(_MEAN_S))
        sim.load(rate=rate, until=asked.calls / rate)
        report = sim.run()
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{asked.replicas} replicas, {report.calls} calls, {report.ok} answered: digest {report.digest}")
    print(f"{spent:.0f} s of processor time, {1e6 * spent / report.calls:.1f} µs a call, {peak:.0f} MiB at most")


if __name__ == "__main__":
    main()
