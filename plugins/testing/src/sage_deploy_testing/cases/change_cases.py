"""The rules for changes to a running service: scaling, restarts, another balancer, draining and health checks."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.cases.loaded_cases import LoadedCases
from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.probes import (
    Batching,
    Checked,
    Failing,
    Fragile,
    LateNewcomer,
    Living,
    ProbeError,
)
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_deploy_testing.tools.counting import Counting
from sage_plugins import errors

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ChangeCases", "CheckCases", "DrainCases"]

_START = ("init", "setup", "start_running", "warmup")
_STOP = ("stop", "cleanup")


def _ids(service: Deployed) -> list[str]:
    return [replica["id"] for replica in service.status["replicas"]]


def _states(service: Deployed) -> list[str]:
    return [replica["state"] for replica in service.status["replicas"]]


class ChangeCases(LoadedCases):
    """`scale`, `restart` and `set_load_balancer` leave the service running, or unchanged if they fail."""

    def reached(self, service: Deployed) -> collections.Counter[int]:
        """Fill all slots at once, and return how many each replica index has."""
        gate = self.watch()
        calls = [self.begin(service.handle, "hold", gate.checkpoint) for _ in range(service.slots)]
        indices = collections.Counter(gate.wait(service.slots))
        gate.open()
        for call in calls:
            call.result(self.patience)
        self.until(lambda: service.inflight == 0)
        return indices

    # -- under load --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("balanced", [False, True])
    def test_no_call_fails_while_replicas_come_and_go(self, balanced: bool) -> None:  # noqa: FBT001 - a parameter of pytest's
        """While the service scales and restarts under load, every call is answered, and each counts once."""
        service = self.deploy(**(self.several(1) if balanced else {}))
        counts = []
        with self.load(service) as wait:
            for change in ("3", "1", "restart", "4", "2", "restart", "1"):
                self.change(service, change)
                wait(20)
                counts.append(service.metrics.request_count)
        assert counts == sorted(counts), "the count of calls went backwards"
        assert len(_ids(service)) == 1

    def change(self, service: Deployed, change: str) -> None:
        """Scale to a number, restart all replicas, or set the balancer with that ID."""
        if change == "restart":
            service.env.restart(service.name)
        elif change.isdigit():
            service.env.scale(service.name, int(change))
        else:
            service.env.set_load_balancer(service.name, change)

    def test_no_call_fails_where_methods_have_limits(self) -> None:
        """Calls that wait for their method's limit, and open batches, move and end like all other calls."""
        methods = {"echo": {"max_concurrency": 1}, "get": {"batch": {"size": 4, "wait": 0}}}
        service = self.deploy(Batching, methods=methods)
        with self.load(service) as wait, self.load(service, "get", "{}!") as wait_for_batches:
            for change in ("2", "restart", self.balancers()[0], self.balancers()[-1], "1"):
                self.change(service, change)
                wait(10)
                wait_for_batches(10)

    def test_no_call_fails_while_the_balancer_changes(self) -> None:
        """No call fails while the balancer changes under load, from each installed balancer to each."""
        service = self.deploy(**self.several(2))
        with self.load(service) as wait:
            for first in self.balancers():
                for second in self.balancers():
                    self.change(service, first)
                    self.change(service, second)
                    wait(5)

    def test_changes_from_many_threads_take_turns(self) -> None:
        """Changes from many threads run in turn: none is refused, and the last one decides."""
        service = self.deploy()
        changes = ["1", "2", "3", "restart", *self.balancers()[:2]]

        def changing(number: int) -> None:
            for turn in range(2):
                self.change(service, changes[(number + turn) % len(changes)])

        with self.load(service):
            self.together(changing, 6)
        service.env.scale(service.name, 2)
        assert len(_ids(service)) == 2

    # -- scaling -------------------------------------------------------------------------------------------------------

    def test_new_replicas_get_calls(self) -> None:
        """Calls reach every slot of each new replica, also if the service had no balancer before."""
        service = self.deploy()
        slots = service.slots
        service.env.scale(service.name, 3)
        assert self.reached(service) == dict.fromkeys(range(3), slots)

    def test_what_a_class_measures_outlives_its_replicas(self) -> None:
        """`ctx.metrics` adds up over all replicas. When a replica leaves, only its gauges go."""
        service = self.deploy(Counting, **self.several(2))
        gate, number = self.watch(), service.slots
        calls = [self.begin(service.handle, "count", gate.checkpoint, "a") for _ in range(number)]
        gate.wait(number)
        told = service.env.metrics()["svc"]
        assert told["counted_total"].values == {("a",): number}
        assert told["size"].values == {(): (1.5 * number, 0, number, 0)}
        assert told["there"].labels == ("replica",)
        assert told["there"].values == {("svc#0",): 1, ("svc#1",): 1}
        gate.open()
        for call in calls:
            call.result(self.patience)
        service.env.scale("svc", 1)
        service.env.restart("svc")
        told = service.env.metrics()["svc"]
        assert told["counted_total"].values == {("a",): number}
        assert told["size"].values == {(): (1.5 * number, 0, number, 0)}
        assert "there" not in told

    def test_newcomers_get_no_call_before_their_constructor_has_ended(self) -> None:
        """A new replica gets no call before its constructor has ended. The others serve, and `scale` waits."""
        gate = self.watch()
        service = self.deploy(LateNewcomer, gate.checkpoint)
        scaling = self.in_thread(service.env.scale, service.name, 2)
        gate.wait()
        assert [service.handle.do(number) for number in range(6)] == [0] * 6
        assert not scaling.done()
        gate.open()
        scaling.result(self.patience)
        assert self.reached(service).keys() == {0, 1}

    def test_scaling_whose_constructor_fails_leaves_the_service_as_it_was(self) -> None:
        """If a new replica's constructor raises, no new replica stays, and the error has the exception as its cause."""
        diary = self.watch(held=False)
        service = self.deploy(Failing, diary.checkpoint, "init", 2)
        with pytest.raises(errors.DeployError, match="replica 2: ") as caught:
            service.env.scale(service.name, 3)
        assert isinstance(caught.value.__cause__, ProbeError)
        seen = collections.Counter(step for step, index, *_ in diary.seen() if index == 1)
        assert seen["init"] == seen["cleanup"]
        assert _ids(service) == ["svc#0"]
        assert service.status["health"] == {"healthy": True, "ready": 1, "replicas": 1}
        service.handle.method()
        service.env.scale(service.name, 2)
        assert len(_ids(service)) == 2

    def test_scaling_whose_constructor_hangs_leaves_the_service_as_it_was(self) -> None:
        """A new replica that hangs is given up after `startup_timeout`, and the error names the constructor."""
        gate = self.watch()
        # The first replica starts within `startup_timeout`.
        service = self.deploy(LateNewcomer, gate.checkpoint, startup_timeout=self.starting)
        with pytest.raises(errors.DeployError, match=r"svc#1 not ready after .*; the constructor"):
            service.env.scale(service.name, 2)
        assert _ids(service) == ["svc#0"]
        assert service.handle.do(1) == 0
        gate.open()

    def test_last_replicas_leave_and_run_their_hooks(self) -> None:
        """Scaling down removes the last replicas, which run their stop hooks. The others stay."""
        diary = self.watch(held=False)
        service = self.deploy(Living, diary.checkpoint, **self.several(3))
        diary.seen()
        service.env.scale(service.name, 1)
        assert sorted(tuple(report[:2]) for report in diary.seen()) == sorted(
            (step, index) for step in _STOP for index in (1, 2)
        )
        assert _ids(service) == ["svc#0"]

    def test_leaving_replica_finishes_what_it_runs_and_gets_no_more(self) -> None:
        service = self.deploy(**self.several(2))
        held: dict[int, list[Any]] = {0: [], 1: []}
        for _ in range(service.slots):
            gate = self.watch()
            call = self.begin(service.handle, "hold", gate.checkpoint)
            (index,) = gate.wait()
            held[index].append((gate, call))
        scaling = self.in_thread(service.env.scale, service.name, 1)
        self.until(lambda: "draining" in _states(service))
        assert service.status["health"] == {"healthy": True, "ready": 1, "replicas": 1}
        for gate, call in held[0]:
            gate.open()
            assert call.result(self.patience) == 0
        assert [service.handle.do(number) for number in range(6)] == [0] * 6
        assert not scaling.done()
        for gate, call in held[1]:
            gate.open()
            assert call.result(self.patience) == 1
        scaling.result(self.patience)

    @unless("in_callers_thread")
    def test_leaving_takes_no_longer_than_drain_timeout(self) -> None:
        """A call that runs longer than `drain_timeout` ends with an error that says so. Its method goes on."""
        service = self.deploy(drain_timeout=self.short, **self.several(2))
        gate = self.watch()
        calls = [service.handle.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(service.slots)
        service.env.scale(service.name, 1)
        ended = [call for call in calls if call.done()]
        assert len(ended) == len(calls) / 2
        for call in ended:
            with pytest.raises(errors.ServiceStoppedError, match=r"svc#1.*still running"):
                call.result(0)
        gate.open()
        assert [call.result(self.patience) for call in calls if call not in ended] == [0] * len(ended)

    def test_close_in_the_middle_of_a_change(self) -> None:
        """If the environment closes during a change, the change raises an error, and nothing stays behind."""
        gate = self.watch()
        service = self.deploy(LateNewcomer, gate.checkpoint)
        scaling = self.in_thread(service.env.scale, service.name, 2)
        gate.wait()
        service.env.close(drain_timeout=0)
        with pytest.raises(errors.DeployError, match="was stopped before it was ready"):
            scaling.result(self.patience)
        gate.open()

    @unless("in_callers_thread")
    def test_close_while_replicas_leave(self) -> None:
        """Close and scaling down both wait for the same calls, and end when the calls end."""
        service = self.deploy(**self.several(2))
        gate = self.watch()
        calls = [service.handle.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(service.slots)
        scaling = self.in_thread(service.env.scale, service.name, 1)
        self.until(lambda: "draining" in _states(service))
        closing = self.in_thread(service.env.close)
        self.until(lambda: service.status["state"] == "draining")
        gate.open()
        for call in calls:
            call.result(self.patience)
        scaling.result(self.patience)
        closing.result(self.patience)

    # -- restarts ------------------------------------------------------------------------------------------------------

    def test_restart_starts_each_before_it_stops_one(self) -> None:
        """A restart replaces one replica after the other, and starts each new one before it stops the old one."""
        diary = self.watch(held=False)
        service = self.deploy(Living, diary.checkpoint, **self.several(2))
        diary.seen()
        service.env.restart(service.name)
        seen = [tuple(report[:2]) for report in diary.seen()]
        assert seen == [(step, index) for index in (0, 1) for step in (*_START, *_STOP)]
        assert _ids(service) == ["svc#0.1", "svc#1.1"]

    def test_restart_of_one_replica_leaves_the_others(self) -> None:
        """A restart of one replica leaves the others. An unknown one is refused by name, and nothing changes."""
        service = self.deploy(**self.several(2))
        with pytest.raises(errors.DeployError, match=r"no replica 'svc#7': it has svc#0, svc#1"):
            service.env.restart(service.name, "svc#7")
        assert _ids(service) == ["svc#0", "svc#1"]
        service.env.restart(service.name, "svc#1")
        assert _ids(service) == ["svc#0", "svc#1.1"]

    def test_restart_whose_constructor_fails_keeps_the_old_replica(self, tmp_path: Path) -> None:
        """If the new constructor fails, the old replica goes on serving. A later restart replaces it."""
        broken = tmp_path / "broken"
        service = self.deploy(Fragile, str(broken))
        broken.touch()
        with pytest.raises(errors.DeployError, match="replica 0: "):
            service.env.restart(service.name)
        assert _ids(service) == ["svc#0"]
        assert service.handle.do(1) == 0
        broken.unlink()
        service.env.restart(service.name)
        assert _ids(service) != ["svc#0"]
        assert service.handle.done() == []


class DrainCases(ServiceConformance):
    """`drain` answers accepted calls, then stops the service."""

    def test_drain_finishes_what_was_accepted_and_stops(self) -> None:
        """
        `drain` finishes running and waiting calls, then stops the service.

        Other services go on, and the service can be deployed again.
        """
        service = self.deploy()
        other = self.register(name="other", env=service.env)
        service.env.deploy()
        occupied = self.occupy(service)
        waiting = self.queued(service, "echo", "waited")
        draining = self.in_thread(service.env.drain, service.name)
        self.until(lambda: service.status["state"] == "draining")
        with pytest.raises(errors.ServiceStoppedError):
            service.handle.echo()
        occupied.open()
        assert waiting.result(self.patience) == "waited"
        draining.result(self.patience)
        assert service.status["state"] == "stopped"
        assert other.handle.echo(1) == 1
        service.env.deploy()
        assert service.env.service(service.name).echo(2) == 2

    def test_no_accepted_call_fails_while_draining(self) -> None:
        """During a drain under load, each call is either answered or refused before it runs, and each answer counts."""
        service = self.deploy()
        begun = self.watch(held=False)

        def caller(number: int) -> int:
            begun.checkpoint.reach()
            for turn in range(10**6):
                try:
                    call = service.handle.submit("echo", [number, turn])
                except errors.ServiceStoppedError:
                    return turn
                assert call.result(self.patience) == [number, turn]
            raise AssertionError

        callers = [self.in_thread(caller, number) for number in range(4)]
        begun.wait(4)
        self.until(lambda: service.metrics.request_count > 20)
        service.env.drain(service.name)
        assert service.outcomes == {"ok": sum(each.result(self.patience) for each in callers)}


class CheckCases(ServiceConformance):
    """`check_health` and `check_ready` run in parallel with the calls."""

    def checked(self, *args: Any) -> Deployed:
        """Deploy a service with frequent health checks."""
        often = {"health_check_interval": self.while_running, "health_check_timeout": self.while_running}
        thresholds = {"failure_threshold": 1, "success_threshold": 1}
        return self.deploy(Checked, *args, monitors=("health",), **often, **thresholds)

    def test_checks_are_answered_while_every_slot_is_taken(self) -> None:
        """Checks need no slot: they are answered while every slot is taken."""
        diary = self.watch(held=False)
        service = self.checked(diary.checkpoint)
        occupied = self.occupy(service)
        waiting = self.queued(service, "echo", 1)
        diary.seen()
        assert set(diary.wait(4)) == {"check_health", "check_ready"}
        assert service.inflight == service.slots
        assert not waiting.done()
        occupied.open()
        assert waiting.result(self.patience) == 1

    @unless("replaces_unhealthy")
    def test_replica_that_says_it_is_ill_is_unhealthy_until_it_is_well(self, tmp_path: Path) -> None:
        """A replica whose check returns False is unhealthy until a check succeeds. It gets calls if none is healthy."""
        ill = tmp_path / "ill"
        service = self.checked(self.watch(held=False).checkpoint, str(ill))
        ill.touch()
        self.until(lambda: "returned False" in str(service.status["replicas"][0]["error"]))
        assert _states(service) == ["unhealthy"]
        assert service.handle.echo(1) == 1
        ill.unlink()
        self.until(lambda: _states(service) == ["ready"])

    @needs("releases_at_deadline")
    @unless("replaces_unhealthy")
    def test_replica_whose_slots_are_all_abandoned_is_unhealthy_until_a_method_ends(self) -> None:
        """A replica whose slots are all abandoned is unhealthy until a method ends, even without a check method."""
        often: dict[str, Any] = {
            "health_check_interval": self.while_running,
            "health_check_timeout": self.while_running,
        }
        service = self.deploy(monitors=("health",), failure_threshold=1, success_threshold=1, **often)
        gate = self.watch()
        hasty = service.handle.with_options(timeout=self.while_running)
        calls = [hasty.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        for call in calls:
            with pytest.raises(errors.CallTimeoutError):
                call.result(self.patience)
        self.until(lambda: _states(service) == ["unhealthy"])
        gate.open()
        self.until(lambda: _states(service) == ["ready"])
