"""A simulation in virtual time gives the same result every time, loses no call, and agrees with queueing theory."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import threading

import pytest

from sage_deploy_testing.load_simulation.results.tally import Durations
from sage_deploy_testing.simulation import (
    Phase,
    constant,
    simulate,
    uniform,
)
from simulated_service import ended, play

BALANCERS = ("round_robin", "random", "least_loaded", "power_of_two", "consistent_hash")
EVERYTHING = """
from sage_deploy_testing.simulation import lognormal, simulate, zipf
config = {
    "threading_strategy": "single", "timeout": 0.5, "queue_size": 20, "overload": "reject", "retry": {},
    "circuit_breaker": {"failures": 3}, "outlier": {}, "load_balancer": BALANCER,
    "methods": {"get": {"idempotent": True}},
    "autoscale": {"min": 2, "max": 8, "look_back": 2, "upscale_delay": 1, "downscale_delay": 2},
}
with simulate(config, seed=5, nodes=2, trace=True) as sim:
    sim.time("get", lognormal(0.02, 1))
    sim.load(rate=50, to=300, until=20, keys=zipf(100))
    sim.fault("crash", at=5)
    sim.fault("slow", at=6, seconds=3)
    sim.fault("hang", at=8, seconds=2)
    sim.fault("node", at=10, seconds=2, node=1)
    sim.fault("drop", at=12, seconds=2, share=0.2)
    report = sim.run()
print(report.trace, end="")
print(report)
"""


class TestSameSeed:
    @pytest.mark.parametrize("balancer", ["power_of_two", "consistent_hash"])
    def test_two_processes_write_the_same_bytes(self, balancer: str) -> None:
        """
        Two processes with the same seed write the same bytes, even if their string hashes differ.

        All faults, all guards and the autoscaler are at work.
        """
        code = EVERYTHING.replace("BALANCER", repr(balancer))
        traces = [
            subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                capture_output=True,
                env={**os.environ, "PYTHONHASHSEED": seed},
            ).stdout
            for seed in ("1", "2")
        ]
        assert traces[0] == traces[1]
        for what in (
            b" start ",
            b" ok\n",
            b"event scaled",
            b"event fault - node 1",
            b"event replica_failed",
            b"timeout\n",
        ):
            assert what in traces[0]

    def test_another_seed_has_another_course(self) -> None:
        """The same seed gives the same run, and another seed gives another one."""
        assert play({}, seed=1).digest == play({}, seed=1).digest != play({}, seed=2).digest

    def test_the_trace_changes_nothing(self) -> None:
        """Tracing a run does not change it."""
        assert play({}, trace=True).digest == play({}).digest

    def test_what_plugins_draw_from_the_module_random_is_seeded_and_left_as_it_was(self) -> None:
        """The simulation restores the state of the module `random` after a run."""
        random.seed(3)
        expected = random.random()  # noqa: S311 - no secret
        random.seed(3)
        play({})
        assert random.random() == expected  # noqa: S311 - no secret

    def test_it_starts_no_thread(self) -> None:
        """The simulation starts no thread."""
        before = threading.active_count()
        play({"replicas": 3, "autoscale": None})
        assert threading.active_count() == before


class TestNothingIsLost:
    @pytest.mark.parametrize("overload", ["block", "reject", "shed_oldest", "priority"])
    @pytest.mark.parametrize("balancer", BALANCERS)
    def test_every_call_ends_once(self, balancer: str, overload: str) -> None:
        """The outcomes add up to the calls, under overload and with every kind of fault."""
        report = play(
            {
                "replicas": 4,
                "load_balancer": balancer,
                "overload": overload,
                "queue_size": 30,
                "timeout": 0.4,
                "retry": {},
            },
            rate=250,
            faults="crash at 3s; slow x10 at 5s for 3s; hang replica 1 at 9s for 2s; node 0 at 12s for 2s; "
            "drop 10% at 15s for 2s",
            nodes=2,
            keys=uniform(50),
        )
        assert report.calls == ended(report)
        assert report.unfinished == 0
        assert report.ok > 1000
        assert report.timeouts > 0
        assert (report.rejected > 0) is (overload != "block")
        assert sum(report.refusals.values()) == report.rejected

    def test_a_crash_ends_only_what_ran_and_may_not_run_twice(self) -> None:
        """A crash ends only the calls that ran and are not idempotent. All other calls are answered."""
        report = play({"replicas": 2, "methods": {}}, rate=90, faults="crash at 5s; crash at 10s")
        assert 0 < report.died <= 2
        assert report.ok == report.calls - report.died

    def test_what_may_run_twice_survives_a_crash(self) -> None:
        """Idempotent calls survive a crash: they are retried."""
        report = play({"replicas": 2, "failover_enabled": True}, rate=90, faults="crash at 5s; crash at 10s")
        assert report.ok == report.calls
        assert report.retries["idempotent"] == report.attempts - report.calls > 0

    def test_a_call_without_a_deadline_that_hangs_is_unfinished(self) -> None:
        """A call without a deadline on a replica that hangs is reported as unfinished."""
        report = play({"timeout": None}, rate=10, faults="hang replica 0 at 1s", settle=1)
        assert report.unfinished > 0
        assert report.calls == report.ok + report.unfinished

    def test_an_answer_that_gets_lost_ends_at_the_deadline_and_frees_the_slot(self) -> None:
        """If a reply is lost, the call times out at its deadline, and its slot becomes free."""
        report = play({"timeout": 0.2}, rate=5, until=10, mean=0.01, faults="drop 100% at 2s for 1s")
        assert report.timeouts > 0
        assert report.ok == report.calls - report.timeouts

    def test_a_caller_is_released_at_its_deadline_wherever_its_call_is(self) -> None:
        """A caller is released at its deadline, both while its call waits and while it runs on a replica that hangs."""
        report = play({"timeout": 0.5}, rate=20, until=5, faults="hang replica 0 at 1s for 3s", trace=True)
        came, spent = {}, []
        for line in report.trace.splitlines():
            at, what, number, *rest = line.split()
            if what == "call":
                came[number] = float(at)
            elif rest == ["timeout"]:
                spent.append(float(at) - came[number])
        assert len(spent) == report.timeouts > 30
        assert spent == [pytest.approx(0.5, abs=1e-8)] * len(spent)

    def test_a_lost_node_takes_no_replica_until_it_is_back(self) -> None:
        """A lost node gets no replica until it is back. Then its replicas are replaced."""
        report = play({"replicas": 2, "retry": {}}, rate=20, until=30, faults="node 0 at 5s for 10s")
        refused = [event.at for event in report.events if event.kind == "replacement_refused"]
        ready = [event.at for event in report.events if event.kind == "replica_ready"]
        assert min(refused) == 5
        assert min(ready) > 15
        assert len(ready) == 2
        assert report.replicas == (2, 2, 2)


class TestTheory:
    """The simulation agrees with queueing theory where theory has a formula."""

    def test_one_server(self) -> None:
        """M/M/1: the time in the service is exponentially distributed, with mean 1 / (mu - lambda)."""
        report = play({"timeout": None}, rate=70, until=3000, mean=0.01)
        assert report.latency.mean == pytest.approx(1 / (100 - 70), rel=0.05)
        assert report.latency.p50 == pytest.approx(math.log(2) / 30, rel=0.05)
        assert report.latency.p99 == pytest.approx(math.log(100) / 30, rel=0.08)
        assert report.throughput == pytest.approx(70, rel=0.02)

    @pytest.mark.parametrize(("replicas", "slots"), [(8, 1), (1, 8), (2, 4)])
    def test_several_servers(self, replicas: int, slots: int) -> None:
        """M/M/c (Erlang's formula C): only the total number of slots matters, not how replicas share them."""
        report = play({"replicas": replicas, "timeout": None}, rate=640, until=300, mean=0.01, slots=slots)
        offered = 6.4
        queue = offered**8 / math.factorial(8) * 8 / (8 - offered)
        waits = queue / (sum(offered**k / math.factorial(k) for k in range(8)) + queue)
        assert report.wait.mean == pytest.approx(waits / (800 - 640), rel=0.08)

    def test_a_full_queue(self) -> None:
        """M/M/1/K: with one running call and at most four waiting calls, theory gives the share of refused calls."""
        report = play({"timeout": None, "queue_size": 4, "overload": "reject"}, rate=100, until=300, mean=0.01)
        assert report.rejected / report.calls == pytest.approx(1 / 6, rel=0.05)

    def test_constant_times(self) -> None:
        """M/D/1: the mean wait is half of M/M/1."""
        with simulate({"threading_strategy": "single", "timeout": None}) as sim:
            sim.time("get", constant(0.01))
            sim.load(rate=70, until=1000)
            report = sim.run()
        assert report.wait.mean == pytest.approx(0.7 / (2 * (100 - 70)), rel=0.05)

    def test_a_ramp_has_the_calls_of_its_mean_rate(self) -> None:
        """A load ramp makes as many calls as its mean rate says, in each part of it too."""
        with simulate({"threading_strategy": "single"}) as sim:
            sim.time("get", 0.0001)
            sim.load(phases=[Phase(0, 200, 50), Phase(100, 100, 50)], method="get")
            report = sim.run()
        calls = [moment.calls for moment in report.series.moments]
        assert report.calls == pytest.approx(10_000, rel=0.05)
        assert sum(calls[:30]) == pytest.approx(1250, rel=0.1)
        assert sum(calls[30:60]) == pytest.approx(3750, rel=0.1)

    def test_shares_of_a_histogram_are_within_1_1_percent(self) -> None:
        """Percentiles from a histogram differ by at most 1.15 % from the exact ones."""
        draw = random.Random(1)  # noqa: S311 - no secret
        values = sorted(draw.lognormvariate(-3, 1) for _ in range(10_000))
        durations = Durations()
        for value in values:
            durations.add(value)
        for share in (0.5, 0.9, 0.99, 0.999):
            assert durations.share(share) == pytest.approx(values[int(share * len(values)) - 1], rel=0.0115)
