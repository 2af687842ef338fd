"""
The rules for the death of a replica, on targets whose replicas have their own processes.

The suite of a target that declares `can_kill` overrides `SupervisionCases.kill`.
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

#: Fields of a service in virtual time: no start may time out while the clock moves to the next one.
_NEVER_LATE: Final[Mapping[str, Any]] = {"startup_timeout": 100 * LONGEST_WAIT_S}


class Witnessed:
    """Writes a line to a file for each call before anything else, even in a process that ends then."""

    def note(self, path: str, number: int, last: bool) -> int:  # noqa: FBT001 - as a service has it
        """Append *number* to the file and return it. If it is the *last*, end the process instead."""
        with open(path, "a", encoding="ascii") as file:  # noqa: PTH123 - a plain text travels quickly
            file.write(f"{number}\n")
        if last:
            os._exit(1)
        return number


class SupervisionCases(ServiceConformance):
    """The effects of a replica's death on its calls and on its place."""

    def kill(self, service: Deployed, replica_id: str) -> None:
        """
        End the process of a replica at once, without cleanup. Override it in the suite of a target that can.

        Args:
            service: The service.
            replica_id: The ID of one of its replicas that has started, for example `"svc#0"`.
        """
        msg = f"{type(self).__name__} declares 'can_kill' and has no kill(service, replica_id): override it"
        raise NotImplementedError(msg)

    def ids(self, service: Deployed) -> dict[str, str]:
        """Return the states of the service's replicas by ID."""
        return {replica["id"]: replica["state"] for replica in service.status["replicas"]}

    def until_ready(self, service: Deployed, *ids: str) -> None:
        """Wait until the service has exactly these replicas, and all are ready."""
        self.until(lambda: self.ids(service) == dict.fromkeys(ids, "ready"))

    def standby(self, service: Deployed) -> list[str]:
        """Return the IDs of the standby replicas."""
        return [replica["id"] for replica in service.status["replicas"] if replica["standby"]]

    def test_first_replica_serves_and_the_other_stands_by(self, tmp_path: Path) -> None:
        """
        Without a load balancer, the first replica serves. While it is unhealthy, the standby serves.

        This holds on every target, also if no replica can be killed.
        """
        ill = tmp_path / "ill"
        often: dict[str, Any] = dict.fromkeys(("health_check_interval", "health_check_timeout"), self.while_running)
        thresholds = {"failure_threshold": 1, "success_threshold": 1}
        checked = {"monitors": ("health",), **often, **thresholds}
        fields = {"replicas": 2, "load_balancing": False, **_FAILOVER, **checked}
        service = self.deploy(IllFirst, self.watch(held=False).checkpoint, str(ill), **fields)
        assert self.standby(service) == ["svc#1"]
        # On a busy machine this takes a while, because a check that takes too long fails.
        self.until(lambda: [service.handle.do(number) for number in range(4)] == [0] * 4)
        ill.touch()
        self.until(lambda: service.handle.do(1) == 1)
        assert "svc#1" not in self.standby(service)

    @needs("can_kill")
    def test_replica_that_dies_is_replaced(self) -> None:
        """A dead replica is replaced in its place, even if it was idle. The others go on."""
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
        """
        An update goes on when a replica dies.

        If the replica's successor is already starting, that one takes its place. If its turn comes later, a replica of
        the old version takes its place until then.
        """
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
        """A dead replica's `ctx.metrics` lose counts since the last read, and gauges. No counter falls."""
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
        """Replacements that die are replaced too, after waits that grow."""
        clock = VirtualClock()
        service = self.register(env=self.environment(clock), **_NEVER_LATE)
        service.env.deploy()
        for generation in range(4):
            self.kill(service, f"svc#0.{generation}" if generation else "svc#0")
            self.until(lambda: self.ids(service) != {"svc#0": "ready"})
            self.until(lambda: self.after_waits(service, clock) == {f"svc#0.{generation + 1}": "ready"})  # noqa: B023
        assert service.handle.echo(1) == 1

    def after_waits(self, service: Deployed, clock: VirtualClock) -> dict[str, str]:
        """Return `ids`. If a start is due after a wait, move the clock to it first."""
        states = self.ids(service)
        if "failed" in states.values() and clock.next_at() <= clock.monotonic() + LONGEST_WAIT_S:
            clock.run_until(clock.next_at())
        return states

    @needs("can_kill")
    def test_started_call_that_may_not_run_twice_ends_with_its_replica(self) -> None:
        """A started call that may not run twice is not retried. Its error says that it may have had its effect."""
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
        """A caller that learns of a replica's death never finds it ready in the status, not even in a callback."""
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
        """A started idempotent call runs once more, on another replica, within its deadline."""
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
        """Other calls run once, even if they were on their way to the dead process or waited in it."""
        service = self.deploy(Witnessed, at_once=1)
        (replica,) = service.status["replicas"]
        path, last, failed = tmp_path / "witness", 130, dict[int, BaseException | None]()
        for numbers in (range(100), range(100, 200)):  # the first hundred show how quick the calls are
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
        """Waiting calls run on the replacement. Running calls fail with ReplicaDiedError."""
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
        """Calls that come while there is no replica wait, within `queue_size` and until their deadlines."""
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
        """After repeated failures nothing is started. The status has the constructor's traceback. `restart` ends it."""
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
        """Return whether the service refuses a call because there is no replica."""
        try:
            service.handle.with_options(timeout=self.short).echo()
        except errors.NoReplicaError:
            return True
        except errors.CallTimeoutError:
            pass
        return False

    @needs("can_kill")
    def test_scaling_down_gives_up_the_replica_that_is_about_to_come_back(self, tmp_path: Path) -> None:
        """Scaling down keeps the replica that serves, whatever its index, and starts no other."""
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
        """Scaling up takes no place twice."""
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
        """A service that closes while a replica is being replaced starts nothing more, and stops."""
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
        """Without a load balancer, the second replica serves after the first dies, and the replacement stands by."""
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
        """The new replica starts first. If no other is healthy, the old one gets calls until then."""
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
        """After `failure_threshold` checks, even if the class has no check: nothing else ends the hanging methods."""
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
        """Idempotent calls move to the standby replica, which serves from then on."""
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
