"""A simulation in virtual time gives the same result every time, loses no call, and agrees with queueing theory."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import threading
from html.parser import HTMLParser
from typing import Any

import pytest
from click.testing import CliRunner

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from chromium import Watched, chromium
from sage_deploy_testing.commands.simulate import command
from sage_deploy_testing.load_simulation.results.tally import Durations
from sage_deploy_testing.load_simulation.scenario.spelling import faults_of, load_of, time_of_method
from sage_deploy_testing.simulation import (
    Phase,
    Report,
    constant,
    exponential,
    recorded,
    simulate,
    uniform,
    zipf,
)
from sage_plugins import hookimpl, idempotent
from sage_plugins.errors import ConfigError
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

BALANCERS = ("round_robin", "random", "least_loaded", "power_of_two", "consistent_hash")
HOSTILE = "<img src=x onerror=alert(1)>"
GET = {"get": {"idempotent": True}}


class KV:
    """The service named in the tests' file. Its methods never run."""

    @idempotent
    def get(self, key: str) -> None:
        raise AssertionError

    def put(self, key: str, value: str) -> None:
        raise AssertionError


class Strangers:
    """A third-party balancer and autoscaler. Both draw random numbers."""

    binding = False

    @hookimpl
    def sage_register_load_balancers(self) -> list[Registration]:
        return [Registration("last", lambda _options, _where: self, "The last replica")]

    @hookimpl
    def sage_register_autoscalers(self) -> list[Registration]:
        return [Registration("dice", lambda _options: self, "Any number")]

    @hookimpl
    def sage_register_targets(self) -> list[Registration]:
        return [Registration("far", lambda _options: self, "Far away", capabilities=frozenset({"replaces_unhealthy"}))]

    def picker(self, candidates: Any) -> Any:
        """as third-party code does"""
        return lambda _key, _method: random.choice(candidates[-2:])  # noqa: S311 - as strangers do

    def decide(self, _load: Any) -> float:
        return random.randint(1, 5)  # noqa: S311


def registry() -> Registry:
    """Return the first-party plugins and the third-party ones."""
    ours = (sage_deploy_local, sage_deploy_threading, sage_deploy_monitors, sage_deploy_balancers)
    return Registry.of(*ours, Strangers())


class Page(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in {"src", "href"}]


def play(config: dict[str, Any], rate: float = 100, until: float = 20, mean: float = 0.02, **more: Any) -> Report:
    """Simulate a service with one method under a constant load. *faults* is written as on the command line."""
    faults = more.pop("faults", "")
    keys = more.pop("keys", None)
    with simulate({"threading_strategy": "single", "methods": GET, **config}, **more) as sim:
        sim.time("get", exponential(mean))
        sim.load(rate=rate, until=until, method="get", keys=keys)
        for fault in faults_of(faults):
            sim.fault(fault)
        return sim.run()


def ended(report: Report) -> int:
    """Count the calls whose outcome is known."""
    return report.ok + report.errors + report.timeouts + report.died + report.rejected + report.stopped


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


class TestTheRealParts:
    def test_an_autoscaler_grows_and_shrinks_the_service(self) -> None:
        """The autoscaler adds replicas under load and removes them afterwards, and no call is lost."""
        config = {"autoscale": {"min": 1, "max": 10, "look_back": 2, "upscale_delay": 1, "downscale_delay": 3}}
        with simulate({"threading_strategy": "single", **config}, startup=0.5) as sim:
            sim.time("get", exponential(0.05))
            sim.load(phases=[Phase(10, 10, 20), Phase(120, 120, 40), Phase(5, 5, 60)], method="get")
            report = sim.run()
        first, most, last = report.replicas
        assert (first, last) == (1, 1)
        assert 4 <= most <= 10
        grown = next(event for event in report.events if event.kind == "scaled")
        assert 20 < grown.at < 30
        assert "target_ongoing wants" in grown.reason
        assert report.ok == report.calls

    @pytest.mark.parametrize("strategy", ["single", "pool", "async"])
    def test_a_steady_load_leaves_the_number_of_replicas_alone(self, strategy: str) -> None:
        """An hour of random calls at a constant rate, with default settings: once it has settled, no replica starts."""
        slots = {"single": 1, "pool": 4, "async": 20}[strategy]
        threads = {"pool": {"thread_count": 4, "thread_pool_size": 4}, "async": {"max_concurrency": 20}}.get(
            strategy, {}
        )
        config = {"threading_strategy": strategy, "timeout": "1m", "autoscale": {"min": 1, "max": 40}} | threads
        with simulate(config, seed=3) as sim:
            sim.time("get", exponential(1.0))
            sim.load(rate=5 * slots, until=3600, method="get")
            report = sim.run()
        numbers = [int(event.reason.split(" to ")[1].split()[0]) for event in report.events if event.kind == "scaled"]
        assert len(numbers) <= 5
        assert numbers[1:] == sorted(numbers[1:], reverse=True), "after the first step up it only shrinks to fit"
        assert 6 <= numbers[-1] <= 14, "5 replicas' worth of calls, with room for chance"

    def test_a_service_at_zero_wakes_for_a_call(self) -> None:
        """A service that was scaled to zero starts a replica for the next call, which waits for it."""
        config = {"autoscale": {"min": 0, "max": 2, "scale_to_zero_delay": 5}}
        with simulate({"threading_strategy": "single", **config}, startup=2) as sim:
            sim.time("get", 0.01)
            sim.load(phases=[Phase(2, 2, 3), Phase(0, 0, 27), Phase(2, 2, 3)])
            report = sim.run()
        assert report.ok == report.calls > 0
        assert min(moment.ready for moment in report.series.moments[:-1]) == 0
        assert report.latency.longest == pytest.approx(2, abs=0.2)
        assert report.event_counts["scaled"] >= 2

    def test_a_slow_replica_is_ejected(self) -> None:
        """Outlier detection ejects a slow replica."""
        config = {"replicas": 4, "outlier": {"interval": 2}, "load_balancer": "round_robin"}
        report = play(config, rate=100, until=30, mean=0.005, faults="slow x20 replica 2 at 5s for 15s")
        assert next(event.replica for event in report.events if event.kind == "replica_ejected") == "service#2"

    def test_a_replica_that_hangs_is_replaced_where_the_target_does_that(self) -> None:
        """The replica is replaced after as many failed health checks as configured."""
        checks = {"monitors": ["health"], "health_check_interval": 1, "failure_threshold": 2}
        config = {"target": "far", "replicas": 2, "timeout": 0.5, "retry": {}, **checks}
        report = play(config, rate=20, until=30, registry=registry(), faults="hang replica 0 at 5s")
        unhealthy = next(event for event in report.events if event.kind == "replica_unhealthy")
        assert (unhealthy.at, unhealthy.replica) == (7, "service#0")
        assert [event.at for event in report.events if event.kind == "replica_ready"] == [8]
        assert report.unfinished == 0

    def test_a_breaker_opens_and_closes(self) -> None:
        """The circuit breaker opens when a replica hangs, refuses calls meanwhile, and closes again."""
        config = {"timeout": 0.2, "circuit_breaker": {"failures": 3, "open": 2}}
        report = play(config, rate=20, until=30, slots=8, faults="hang replica 0 at 5s for 5s")
        assert report.event_counts["circuit_opened"] >= 1
        assert report.event_counts["circuit_closed"] == 1
        assert report.refusals["circuit_open"] == report.rejected > 0

    def test_a_crash_loop_of_deaths_is_slowed_down(self) -> None:
        """Replacements of a replica that dies again and again are delayed."""
        report = play(
            {"replicas": 2}, rate=10, until=60, faults="; ".join(f"crash replica 0 at {at}s" for at in range(2, 30, 2))
        )
        assert report.event_counts["replacement_delayed"] >= 3

    def test_keys_are_bound_by_consistent_hash(self) -> None:
        """With `consistent_hash`, all calls with equal keys run on the same replica."""
        config = {
            "replicas": 4,
            "load_balancer": "consistent_hash",
            "options": {"consistent_hash": {"load_bound": None}},
        }
        report = play(config, rate=50, keys=zipf(20), trace=True)
        placed: dict[str, set[str]] = {}
        keys = {}
        for line in report.trace.splitlines():
            words = line.split()
            if words[1] == "call":
                keys[words[2]] = words[5]
            elif words[1] == "start":
                placed.setdefault(keys[words[2]], set()).add(words[3])
        assert len(placed) > 10
        assert all(len(replicas) == 1 for replicas in placed.values())

    def test_strangers_plugins_run_and_are_seeded(self) -> None:
        """Third-party plugins run in the simulation, and their random numbers are seeded too."""
        config = {
            "load_balancer": "last",
            "autoscale": {
                "policy": "dice",
                "min": 2,
                "max": 5,
                "upscale_delay": 0,
                "downscale_delay": 0,
                "tolerance": 0,
            },
        }
        first, again = (play(config, rate=20, registry=registry(), trace=True) for _ in range(2))
        assert (first.balancer, first.autoscaler) == ("last", "dice")
        assert first.trace == again.trace
        assert first.event_counts["scaled"] > 3
        assert any("dice wants" in event.reason for event in first.events)
        assert first.ok == first.calls

    def test_calls_of_a_batched_method_share_a_run(self) -> None:
        """Calls of a batched method run together, so the service keeps up with the load."""
        from sage_plugins import batch_of

        class Embedder:
            def embed(self, text: str) -> None: ...

            @batch_of("embed")
            def embed_many(self, texts: list[str]) -> None: ...

        config = {"threading_strategy": "single", "methods": {"embed": {"batch": {"size": 8}}}}
        with simulate(config, service_class=Embedder) as sim:
            sim.time("embed", 0.1)
            sim.load(rate=60, until=20)
            report = sim.run()
        assert report.ok == report.calls  # ten single runs a second would not be enough
        assert report.latency.p99 < 1

    def test_only_calls_with_a_low_priority_are_refused(self) -> None:
        """With `overload: priority`, a full queue refuses only calls with a lower priority."""
        with simulate({"threading_strategy": "single", "overload": "priority", "queue_size": 20}, trace=True) as sim:
            sim.time("get", exponential(0.01))
            sim.time("put", exponential(0.01))
            sim.load(rate=120, until=20, method="get")
            sim.load(rate=20, until=20, method="put", priority=1)
            report = sim.run()
        put = {line.split()[2] for line in report.trace.splitlines() if line.split()[1:4:2] == ["call", "put"]}
        refused = {line.split()[2] for line in report.trace.splitlines() if line.endswith(" refused")}
        assert len(refused) > 100
        assert not put & refused

    def test_a_recorded_sample_gives_its_own_durations(self) -> None:
        """Recorded durations are used as they are."""
        with simulate({"threading_strategy": "single"}) as sim:
            sim.time("get", recorded([0.1, 0.3]))
            sim.load(rate=0.2, until=300)
            report = sim.run()
        assert report.latency.p50 in (pytest.approx(0.1, rel=0.02), pytest.approx(0.3, rel=0.02))
        assert report.latency.longest < 1


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("200", "is no load. Loads look so"),
            ("get 200/s", "is no load"),
            ("200/s for ever", "is no duration"),
            ("-5/s for 10s", "is no load"),
        ],
    )
    def test_of_loads(self, text: str, says: str) -> None:
        """A load that is spelled wrong is refused with the right form."""
        with pytest.raises(ValueError, match=says):
            load_of(text)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("get=quick", "is no time of a method"),
            ("get=lognormal(10ms)", "has 2 values"),
            ("get=exponential(0)", "must be above 0"),
            ("get=recorded(/no/such/file)", "cannot be read"),
        ],
    )
    def test_of_times(self, text: str, says: str) -> None:
        """A duration of a method that is spelled wrong is refused with the reason."""
        with pytest.raises(ValueError, match=says):
            time_of_method(text)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("flood at 3s", "is no fault"),
            ("crash", "is no fault"),
            ("crash at 3s for 5s", "no duration"),
            ("crash x3 at 3s", "is no fault"),
            ("node at 3s", "is no fault"),
            ("drop 120% at 3s", "share"),
        ],
    )
    def test_of_faults(self, text: str, says: str) -> None:
        """A fault that is spelled wrong is refused with the reason."""
        with pytest.raises(ValueError, match=says):
            faults_of(text)

    @pytest.mark.parametrize(
        "text",
        [
            "crash replica 2 at 20s",
            "slow x10 replica 3 at 10s for 20s",
            "hang node 1 at 1s",
            "node 1 at 3s",
            "drop 5% at 1s",
        ],
    )
    def test_faults_are_spelt_as_they_are_read(self, text: str) -> None:
        """A parsed fault prints as it was written."""
        assert [str(fault) for fault in faults_of(text)] == [text]

    def test_of_the_scenario(self) -> None:
        """An incomplete or impossible scenario is refused with what is missing."""
        with simulate({}) as sim:
            with pytest.raises(ValueError, match="no call comes"):
                sim.run()
            with pytest.raises(ValueError, match="say which method"):
                sim.load(rate=1, until=1)
            with pytest.raises(ValueError, match="there is no fault 'flood'; there are crash, slow"):
                sim.fault("flood", at=1)
            sim.load(rate=1, until=1, method="get")
            with pytest.raises(ValueError, match="say how long 'get' takes"):
                sim.run()
            sim.time("get", 0.1)
            sim.fault("node", at=1, node=3)
            with pytest.raises(ValueError, match="there are 1 nodes"):
                sim.run()

    def test_a_method_that_is_not_served_is_named(self) -> None:
        """An unknown method is refused with the nearest name."""
        with simulate({}, service_class=KV) as sim:
            sim.time("gte", 0.1)
            sim.load(rate=1, until=1)
            with pytest.raises(ValueError, match="did you mean 'get'"):
                sim.run()

    def test_a_wrong_configuration_is_refused_as_ever(self) -> None:
        """A wrong configuration raises `ConfigError`, as for a deployed service."""
        with simulate({"queue_size": -1}) as sim:
            sim.time("get", 0.1)
            sim.load(rate=1, until=1)
            with pytest.raises(ConfigError, match="queue_size"):
                sim.run()

    def test_it_runs_once(self) -> None:
        """A simulation runs only once."""
        with simulate({}) as sim:
            sim.time("get", 0.1)
            sim.load(rate=1, until=1)
            sim.run()
            with pytest.raises(RuntimeError, match="runs once"):
                sim.run()

    def test_a_trace_has_to_be_asked_for(self) -> None:
        """Reading the trace of a run without `trace=True` raises."""
        with pytest.raises(ValueError, match="trace=True"):
            _ = play({}).trace


@pytest.fixture
def file(tmp_path: Any) -> Any:
    made = tmp_path / "service_deployment.yaml"
    made.write_text(
        f"services:\n  kv:\n    class: {__name__}:KV\n    replicas: 3\n    threading_strategy: single\n    timeout: 1\n"
        f"  other:\n    class: {__name__}:KV\n"
    )
    return made


class TestCommand:
    def run(self, *arguments: Any, code: int = 0) -> Any:
        result = CliRunner().invoke(command, list(map(str, arguments)))
        assert result.exit_code == code, result.output
        return result

    def test_from_the_file_to_a_page(self, file: Any, tmp_path: Any) -> None:
        """
        The command simulates a service of a file, and writes JSON, text, an HTML page and a trace.

        The page has charts, but no scripts and no links to other hosts.
        """
        page, trace = tmp_path / "out.html", tmp_path / "trace.txt"
        options = ["--service", "kv", "--load", "get 50/s..150/s for 10s", "--time", "lognormal(10ms, 0.8)"]
        more = [
            "--faults",
            "crash at 2s; slow x10 replica 1 at 4s for 2s",
            "--seed",
            7,
            "--report",
            page,
            "--trace",
            trace,
        ]
        found = json.loads(self.run(file, *options, *more, "-o", "json").stdout)
        assert found["version"] == 1
        assert found["service"] == "kv"
        assert found["calls"] == found["ok"] + found["died"] + found["timeouts"] + found["rejected"]
        assert found["replicas"] == {"first": 3, "most": 3, "last": 3}
        assert trace.read_text().count("\n") > 3 * found["ok"]
        text = self.run(file, *options, *more).stdout
        assert f"calls       {found['calls']:,}: {found['ok']:,} answered" in text
        assert found["digest"] in text
        parser = Page()
        parser.feed(page.read_text())
        assert parser.tags.count("svg") == 4
        assert "script" not in parser.tags
        assert parser.links == ["data:,"]

    def test_a_file_with_several_services_needs_the_name_of_one(self, file: Any) -> None:
        """For a file with several services, `--service` is required, and the error lists them."""
        result = self.run(file, "--load", "get 1/s for 1s", "--time", "constant(1ms)", code=2)
        assert "--service" in result.output
        assert "kv, other" in result.output

    def test_mistakes_are_said_with_what_is_allowed(self, file: Any) -> None:
        """Bad options exit with 2 and show the right form."""
        options = [file, "--service", "kv", "--time", "constant(1ms)", "--load"]
        assert "Loads look so: '200/s for 60s'" in self.run(*options, "lots", code=2).output
        wrong = self.run(*options, "get 1/s for 1s", "--faults", "flood at 1s", code=2)
        assert "Faults look so: 'crash at 20s'" in wrong.output
        assert "say which method" in self.run(*options, "1/s for 1s", code=2).output


class TestPage:
    def test_the_same_report_gives_the_same_page(self) -> None:
        assert play({}).to_html() == play({}).to_html()

    def test_it_opens_without_a_complaint_in_light_and_dark(self, tmp_path: Any) -> None:
        """The page opens in a browser without errors, in light and dark mode."""
        file = tmp_path / "out.html"
        file.write_text(play({"replicas": 2}, faults="crash at 3s").to_html())
        with chromium() as browser:
            for scheme in ("light", "dark"):
                watched = Watched(browser, "file://", color_scheme=scheme)
                watched.page.goto(file.as_uri())
                assert watched.page.locator("svg.chart").count() == 4
                assert watched.page.get_by_text("Simulation of service").count() >= 1
                assert watched.faults() == []
