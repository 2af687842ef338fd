"""
What holds when a replica dies, on targets whose replicas have processes of their own.

A target that declares `can_kill` overrides `SupervisionCases.kill` in its suite.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_testing.suites.conformance import needs
from sage_deploy_testing.suites.probes import Checked, Fragile, IllFirst, LateHeir
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_deploy_testing.tools.counting import Counting
from sage_plugins import errors
from sage_plugins.resilience.restarts import LONGEST_WAIT_S, MOST_STARTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["SupervisionCases"]

#: Fields of a service whose calls move to another replica.
_FAILOVER: Final[Mapping[str, Any]] = {"failover_enabled": True}

#: Fields of a service in virtual time: no start takes longer than what lies between two of them.
_NEVER_LATE: Final[Mapping[str, Any]] = {"startup_timeout": 100 * LONGEST_WAIT_S}


class Witnessed:
    """Leaves a line in a file for each call before it does anything else, also in a process that ends then."""

    def note(self, path: str, number: int, last: bool) -> int:  # noqa: FBT001 - as a service has it
        """Write *number* to the file, and give it back; end the process instead if it is the *last*."""
        with open(path, "a", encoding="ascii") as file:  # noqa: PTH123 - a plain text travels quickly
            file.write(f"{number}\n")
        if last:
            os._exit(1)
        return number


class SupervisionCases(ServiceConformance):
    """Replicas that are killed: what becomes of their calls, and of their places."""

    def kill(self, service: Deployed, replica_id: str) -> None:
        """
        End the process of a replica at once, without letting it clean up; a suite whose target can, overrides it.

        Args:
            service: The service.
            replica_id: Of one of its replicas that has started, such as `"svc#0"`.
        """
        msg = f"{type(self).__name__} declares 'can_kill' and has no kill(service, replica_id): override it"
        raise NotImplementedError(msg)

    def ids(self, service: Deployed) -> dict[str, str]:
        """The states of the service's replicas by their ids."""
        return {replica["id"]: replica["state"] for replica in service.status["replicas"]}

    def until_ready(self, service: Deployed, *ids: str) -> None:
        """Wait until the service has these replicas, and all are ready."""
        self.until(lambda: self.ids(service) == dict.fromkeys(ids, "ready"))

    def standby(self, service: Deployed) -> list[str]:
        """The ids of the replicas that stand by."""
        return [replica["id"] for replica in service.status["replicas"] if replica["standby"]]

    def test_first_replica_serves_and_the_other_stands_by(self, tmp_path: Path) -> None:
        """Also where none can be killed: when the first one is ill, the other one serves, until that is well again."""
        ill = tmp_path / "ill"
        often: dict[str, Any] = dict.fromkeys(("health_check_interval", "health_check_timeout"), self.while_running)
        thresholds = {"failure_threshold": 1, "success_threshold": 1}
        checked = {"monitors": ("health",), **often, **thresholds}
        fields = {"replicas": 2, "load_balancing": False, **_FAILOVER, **checked}
        service = self.deploy(IllFirst, self.watch(held=False).checkpoint, str(ill), **fields)
        assert self.standby(service) == ["svc#1"]
        # Not at once on a machine that stands still: a check that takes too long is one that fails.
        self.until(lambda: [service.handle.do(number) for number in range(4)] == [0] * 4)
        ill.touch()
        self.until(lambda: service.handle.do(1) == 1)
        assert "svc#1" not in self.standby(service)

    @needs("can_kill")
    def test_replica_that_dies_is_replaced(self) -> None:
        """Also if it runs nothing; the new one has its place, and the others go on."""
        service = self.deploy(**self.several(2))
        self.kill(service, "svc#1")
        self.until_ready(service, "svc#0", "svc#1.1")
        assert service.status["health"] == {"healthy": True, "ready": 2, "replicas": 2}
        gate = self.watch()
        calls = [self.begin(service.handle, "hold", gate.checkpoint) for _ in range(service.slots)]
        assert set(gate.wait(len(calls))) == {0, 1}
        gate.open()
        assert {call.result(self.patience) for call in calls} == {0, 1}

    @needs("can_kill")
    @pytest.mark.parametrize("killed", [0, 1])
    def test_replica_that_dies_during_an_update_does_not_stop_it(self, killed: int, tmp_path: Path) -> None:
        """Whether its successor is being started already, or its turn comes later: then it is as it was until that."""
        several = self.several(2)
        gate, path = self.watch(), tmp_path / "there"
        service = self.deploy(LateHeir, gate.checkpoint, str(tmp_path / "not"), **several)
        path.touch()
        config = self.configuration(**several)
        service.env.register_service_with_config("svc", LateHeir, gate.checkpoint, str(path), deployment_config=config)
        updating = self.in_thread(service.env.apply)
        gate.wait()
        self.kill(service, f"svc#{killed}")
        self.until(lambda: self.ids(service).get(f"svc#{killed}") != "ready")
        assert service.handle.echo(1) == 1
        if killed:
            self.until(lambda: self.ids(service).get("svc#1.1") == "ready")
        path.unlink()
        gate.open()
        updating.result(self.patience)
        self.until_ready(service, "svc#0.1", f"svc#1.{1 + killed}")

    @needs("can_kill")
    def test_what_was_told_of_a_replica_is_kept_when_it_dies(self) -> None:
        """Of `ctx.metrics`, what it counted since somebody looked last is lost; no counter falls, and gauges go."""
        service = self.deploy(Counting)
        service.handle.count(self.watch(held=False).checkpoint, "a")
        told = service.env.metrics()["svc"]
        assert told["counted_total"].values == {("a",): 1}
        assert told["there"].values == {("svc#0",): 1}
        self.kill(service, "svc#0")
        self.until_ready(service, "svc#0.1")
        told = service.env.metrics()["svc"]
        assert told["counted_total"].values == {("a",): 1}
        assert "there" not in told

    @needs("can_kill")
    def test_replacements_that_die_are_replaced_as_well(self) -> None:
        """The more die, the longer it takes until the next one is started; but it is."""
        clock = VirtualClock()
        service = self.register(env=self.environment(clock), **_NEVER_LATE)
        service.env.deploy()
        for generation in range(4):
            self.kill(service, f"svc#0.{generation}" if generation else "svc#0")
            self.until(lambda: self.ids(service) != {"svc#0": "ready"})
            self.until(lambda: self.after_waits(service, clock) == {f"svc#0.{generation + 1}": "ready"})  # noqa: B023
        assert service.handle.echo(1) == 1

    def after_waits(self, service: Deployed, clock: VirtualClock) -> dict[str, str]:
        """What `ids` gives; if a start is due after a while, that has passed then."""
        states = self.ids(service)
        if "failed" in states.values() and clock.next_at() <= clock.monotonic() + LONGEST_WAIT_S:
            clock.run_until(clock.next_at())
        return states

    @needs("can_kill")
    def test_started_call_that_may_not_run_twice_ends_with_its_replica(self) -> None:
        """It has been started once and never again, and its caller is told that it may have had its effect."""
        service = self.deploy(**self.several(2), **_FAILOVER)
        gate = self.watch()
        call = self.begin(service.handle, "hold", gate.checkpoint)
        (index,) = gate.wait()
        self.kill(service, f"svc#{index}")
        with pytest.raises(errors.ReplicaDiedError) as caught:
            call.result(self.patience)
        assert caught.value.maybe_executed
        assert caught.value.replica == f"svc#{index}"
        self.until_ready(service, *(f"svc#{each}.1" if each == index else f"svc#{each}" for each in range(2)))
        gate.open()
        assert [service.handle.echo(number) for number in range(4)] == list(range(4))
        assert gate.seen() == []

    @needs("can_kill")
    def test_who_learns_that_a_replica_died_finds_it_gone(self) -> None:
        """In the status, and also in a callback: it is not said to be ready any more."""
        service = self.deploy()
        gate = self.watch()
        states: Future[dict[str, str]] = Future()
        call = service.handle.submit("hold", gate.checkpoint)
        call.add_done_callback(lambda _: states.set_result(self.ids(service)))
        gate.wait()
        self.kill(service, "svc#0")
        assert states.result(self.patience).get("svc#0") != "ready"

    @needs("can_kill")
    def test_started_idempotent_call_moves_to_another_replica(self) -> None:
        """It is started once more, there, within its deadline."""
        service = self.deploy(**self.several(2), **_FAILOVER)
        gate = self.watch()
        call = self.begin(service.handle.with_options(idempotent=True), "hold", gate.checkpoint)
        (first,) = gate.wait()
        self.kill(service, f"svc#{first}")
        gate.wait()
        gate.open()
        assert call.result(self.patience) in {0, 1}
        assert service.env.metrics()["svc"]["sage_retries_total"].values["idempotent",] == 1
        assert gate.seen() == []

    @needs("can_kill")
    def test_no_more_calls_than_slots_are_lost_with_a_process(self, tmp_path: Path) -> None:
        """The others run once, also if they were on their way to it or waited in it."""
        service = self.deploy(Witnessed, at_once=1)
        (replica,) = service.status["replicas"]
        path, last, failed = tmp_path / "witness", 130, dict[int, BaseException | None]()
        for numbers in (range(100), range(100, 200)):  # after the first hundred it is known how quick they are
            calls = {number: service.handle.submit("note", str(path), number, number == last) for number in numbers}
            failed |= {number: error for number, call in calls.items() if (error := call.exception(self.patience))}
        assert isinstance(failed[last], errors.ReplicaDiedError)
        assert len(failed) <= replica["slots"]
        ran = list(map(int, path.read_text(encoding="ascii").split()))
        assert len(ran) == len(set(ran))
        assert set(range(200)).difference(ran) <= set(failed)

    @needs("can_kill")
    def test_without_failover_an_idempotent_call_ends_with_its_replica(self) -> None:
        service = self.deploy()
        gate = self.watch()
        call = self.begin(service.handle.with_options(idempotent=True), "hold", gate.checkpoint)
        gate.wait()
        self.kill(service, "svc#0")
        with pytest.raises(errors.ReplicaDiedError, match="failover_enabled"):
            call.result(self.patience)

    @needs("can_kill")
    def test_calls_that_wait_survive_the_only_replica(self) -> None:
        """They wait for the one that takes its place; those that were running end."""
        service = self.deploy()
        gate = self.watch()
        running = [self.begin(service.handle, "hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(len(running))
        waiting = [self.queued(service, "echo", number) for number in range(5)]
        self.kill(service, "svc#0")
        assert [call.result(self.patience) for call in waiting] == list(range(5))
        for call in running:
            with pytest.raises(errors.ReplicaDiedError):
                call.result(self.patience)
        self.until_ready(service, "svc#0.1")

    @needs("can_kill")
    def test_calls_that_come_while_there_is_no_replica_wait(self, tmp_path: Path) -> None:
        """Within the bound of the queue, and until their deadlines."""
        late, gate = tmp_path / "late", self.watch()
        service = self.deploy(LateHeir, gate.checkpoint, str(late), queue_size=1, overload="reject")
        late.touch()
        self.kill(service, "svc#0")
        gate.wait()
        assert service.status["health"] == {"healthy": False, "ready": 0, "replicas": 1}
        waiting = self.queued(service, "echo", 1)
        with pytest.raises(errors.OverloadedError):
            service.handle.echo(2)
        gate.open()
        assert waiting.result(self.patience) == 1

    @needs("can_kill")
    @pytest.mark.parametrize(("idempotent", "deaths"), [(False, 1), (True, 2)])
    def test_poison_call_takes_no_more_replicas_with_it_than_it_may_start_on(
        self,
        idempotent: bool,  # noqa: FBT001 - a parameter of the case
        deaths: int,
    ) -> None:
        service = self.deploy(**self.several(3), **_FAILOVER)
        diary = self.watch(held=False)
        call = self.begin(service.handle.with_options(idempotent=idempotent), "die", diary.checkpoint)
        with pytest.raises(errors.ReplicaDiedError):
            call.result(self.patience)
        assert len(diary.seen()) == deaths
        self.until(lambda: sum(state == "ready" for state in self.ids(service).values()) == 3)
        assert [service.handle.echo(number) for number in range(6)] == list(range(6))
        assert diary.seen() == []

    @needs("can_kill")
    def test_starts_that_fail_again_and_again_are_a_crash_loop(self, tmp_path: Path) -> None:
        """Nothing is started any more, the status has the constructor's traceback, and `restart` ends it."""
        broken, clock = tmp_path / "broken", VirtualClock()
        service = self.register(Fragile, str(broken), env=self.environment(clock), **_NEVER_LATE)
        service.env.deploy()
        broken.touch()
        self.kill(service, "svc#0")
        self.until(lambda: "crash_loop" in self.after_waits(service, clock).values())
        assert service.status["state"] == "crash_loop"
        (replica,) = service.status["replicas"]
        assert (replica["id"], replica["state"]) == (f"svc#0.{MOST_STARTS}", "crash_loop")
        assert "probes.py" in replica["error"]
        assert "ProbeError" in replica["error"]
        assert "broken" in service.status["health"]["missing"][replica["id"]]
        self.until(lambda: self.refuses_for_want_of_a_replica(service))
        with pytest.raises(errors.NoReplicaError, match=r"crash loop.*broken.*restart"):
            service.handle.echo(1)
        broken.unlink()
        service.env.restart(service.name)
        assert service.handle.echo(1) == 1
        assert service.status["state"] == "ready"

    def refuses_for_want_of_a_replica(self, service: Deployed) -> bool:
        """Whether the service refuses a call because there is no replica."""
        try:
            service.handle.with_options(timeout=self.short).echo()
        except errors.NoReplicaError:
            return True
        except errors.CallTimeoutError:
            pass
        return False

    @needs("can_kill")
    def test_scaling_down_gives_up_the_replica_that_is_about_to_come_back(self, tmp_path: Path) -> None:
        """The one that serves stays, whichever it is, and nothing is started any more."""
        late, gate = tmp_path / "late", self.watch()
        service = self.deploy(LateHeir, gate.checkpoint, str(late), **self.several(2))
        late.touch()
        self.kill(service, "svc#0")
        assert gate.wait() == [0]
        scaling = self.in_thread(service.env.scale, service.name, 1)
        self.until(lambda: self.ids(service).get("svc#0.1") in {None, "draining"})
        gate.open()
        scaling.result(self.patience)
        assert self.ids(service) == {"svc#1": "ready"}
        assert service.handle.do(1) == 1

    @needs("can_kill")
    def test_scaling_up_counts_a_replica_that_is_about_to_come_back(self, tmp_path: Path) -> None:
        """No place is taken twice."""
        late, gate = tmp_path / "late", self.watch()
        service = self.deploy(LateHeir, gate.checkpoint, str(late), **self.several(2))
        late.touch()
        self.kill(service, "svc#1")
        gate.wait()
        late.unlink()
        service.env.scale(service.name, 3)
        assert self.ids(service) == {"svc#0": "ready", "svc#1.1": "starting", "svc#2": "ready"}
        gate.open()
        self.until_ready(service, "svc#0", "svc#1.1", "svc#2")

    @needs("can_kill")
    def test_nothing_is_started_after_the_end(self, tmp_path: Path) -> None:
        """A service that is closed while a replica is being replaced has stopped when that is done."""
        late, gate = tmp_path / "late", self.watch()
        service = self.deploy(LateHeir, gate.checkpoint, str(late))
        late.touch()
        self.kill(service, "svc#0")
        gate.wait()
        waiting = self.queued(service, "echo", 1)
        service.env.close(drain_timeout=0)
        with pytest.raises(errors.ServiceStoppedError):
            waiting.result(self.patience)
        assert set(self.ids(service).values()) == {"stopped"}
        assert gate.seen() == []

    @needs("can_kill")
    def test_standby_takes_over_and_stays(self) -> None:
        """Without a load balancer the first replica serves; when it dies the second does, and its heir stands by."""
        service = self.deploy(replicas=2, load_balancing=False, **_FAILOVER)
        assert service.handle.do(1) == 0
        assert self.standby(service) == ["svc#1"]
        self.kill(service, "svc#0")
        self.until_ready(service, "svc#0.1", "svc#1")
        assert [service.handle.do(number) for number in range(4)] == [1] * 4
        assert self.standby(service) == ["svc#0.1"]
        self.kill(service, "svc#1")
        self.until(lambda: self.ids(service).get("svc#1.1") == "ready")
        assert [service.handle.do(number) for number in range(4)] == [0] * 4

    @needs("replaces_unhealthy")
    def test_replica_that_says_it_is_ill_is_replaced(self, tmp_path: Path) -> None:
        """The new one is started first; with none that is well, the old one's calls go on until then."""
        ill = tmp_path / "ill"
        often: dict[str, Any] = dict.fromkeys(("health_check_interval", "health_check_timeout"), self.while_running)
        service = self.deploy(
            Checked, self.watch(held=False).checkpoint, str(ill), monitors=("health",), failure_threshold=1, **often
        )
        ill.touch()
        self.until(lambda: "svc#0" not in self.ids(service))
        ill.unlink()
        self.until(lambda: list(self.ids(service).values()) == ["ready"])
        assert service.handle.echo(1) == 1

    @needs("replaces_unhealthy", "releases_at_deadline")
    def test_replica_whose_slots_are_all_abandoned_is_replaced(self) -> None:
        """After `failure_threshold` checks, also if its class has no check: nothing else ends what hangs there."""
        often: dict[str, Any] = dict.fromkeys(("health_check_interval", "health_check_timeout"), self.while_running)
        service = self.deploy(monitors=("health", "events"), failure_threshold=2, **often)
        gate = self.watch()
        hasty = service.handle.with_options(timeout=self.while_running)
        calls = [hasty.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        for call in calls:
            with pytest.raises(errors.CallTimeoutError):
                call.result(self.patience)
        self.until_ready(service, "svc#0.1")
        assert service.handle.echo(1) == 1
        (event,) = [each.event for each in service.env.events() if each.event.kind == "replica_unhealthy"]
        assert event.reason.startswith("2 health checks in a row failed, the last one because all its ")

    @needs("can_kill")
    def test_no_idempotent_call_is_lost_when_the_primary_dies(self) -> None:
        """They go to the replica that stands by, which serves from then on."""
        service = self.deploy(replicas=2, load_balancing=False, **_FAILOVER)
        handle = service.handle.with_options(idempotent=True)
        serving: list[int] = []

        def caller(_: int) -> int:
            calls = 0
            while 1 not in serving or calls < 50:
                serving.append(handle.do(calls))
                calls += 1
            return calls

        calling = [self.in_thread(caller, number) for number in range(2)]
        self.until(lambda: len(serving) > 10)
        assert set(serving) == {0}
        self.kill(service, "svc#0")
        assert sum(each.result(self.patience) for each in calling) == len(serving)
        assert serving[-1] == 1
        assert set(service.outcomes) == {"ok"}
