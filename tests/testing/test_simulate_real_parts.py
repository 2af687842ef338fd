"""A simulation runs the real balancers, autoscalers, supervisors and limits."""

from __future__ import annotations

import pytest

from sage_deploy_testing.simulation import (
    Phase,
    exponential,
    recorded,
    simulate,
    zipf,
)
from simulated_service import play, registry


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
