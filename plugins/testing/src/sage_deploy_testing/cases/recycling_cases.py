"""The rules for `recycle`: a replica that reaches a limit is replaced by a new one, on every target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.probes import Fragile, Probe
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_plugins import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["RecyclingCases"]

#: Fields of a service in virtual time. Cases let hours pass, so no wait may have a deadline.
_NEVER_LATE: Final[Mapping[str, Any]] = {"startup_timeout": 1e6, "timeout": 1e6, "drain_timeout": 1e6}


class RecyclingCases(ServiceConformance):
    """The field `recycle`."""

    def recycling(self, cls: type = Probe, *args: Any, recycle: Mapping[str, Any], **fields: Any) -> Deployed:
        """Deploy a service in virtual time. `ids_after` advances the time."""
        self.clock = VirtualClock()
        fields = {"recycle": recycle, **_NEVER_LATE, **fields}
        service = self.register(cls, *args, env=self.environment(self.clock), **fields)
        service.env.deploy()
        return service

    def ids_after(self, service: Deployed, seconds: float = 1.0) -> list[str]:
        """Advance the time by *seconds*, and return the IDs of the ready replicas."""
        self.clock.advance(seconds)
        return [replica["id"] for replica in service.status["replicas"] if replica["state"] == "ready"]

    def told(self, service: Deployed) -> list[tuple[str, str | None]]:
        """Return the events about recycling, each with its replica."""
        return [(each.event.kind, each.event.replica) for each in service.env.events() if "recycl" in each.event.kind]

    def reasons(self, service: Deployed, kind: str) -> list[str]:
        """Return the reasons of the events of a kind."""
        return [each.event.reason for each in service.env.events() if each.event.kind == kind]

    def test_replica_is_replaced_after_so_many_calls(self) -> None:
        """After `max_calls`, a new replica starts before the old one stops. The event has the numbers."""
        service = self.recycling(recycle={"max_calls": 5})
        for number in range(5):
            assert self.ids_after(service) == ["svc#0"]
            assert service.handle.echo(number) == number
        self.until(lambda: self.ids_after(service) == ["svc#0.1"])
        self.until(lambda: len(self.told(service)) == 2)
        assert self.told(service) == [("recycling", "svc#0"), ("recycled", "svc#0")]
        assert self.reasons(service, "recycling") == ["calls 5, recycle.max_calls is 5"]
        kinds = [each.event.kind for each in service.env.events()]
        assert kinds.index("replica_ready", kinds.index("recycling")) < kinds.index("replica_draining")
        assert service.handle.echo(1) == 1
        assert service.outcomes == {"ok": 6}
        assert service.status["state"] == "ready"

    def test_calls_are_counted_without_the_monitor_metrics(self) -> None:
        service = self.recycling(recycle={"max_calls": 2}, monitors=("events",))
        assert [service.handle.echo(number) for number in range(2)] == [0, 1]
        self.until(lambda: self.ids_after(service) == ["svc#0.1"])

    def test_replica_is_replaced_at_an_age(self) -> None:
        """After `max_age`, a replica is replaced, even if it was idle. The age of the new one starts at zero."""
        service = self.recycling(recycle={"max_age": 100.0})
        assert self.ids_after(service, 98.0) == ["svc#0"]
        self.until(lambda: self.ids_after(service) == ["svc#0.1"])
        self.until(lambda: len(self.told(service)) == 2)
        (reason,) = self.reasons(service, "recycling")
        age, limit = reason.removeprefix("age ").split(" s, ")  # each look above takes a second of virtual time
        assert float(age) >= 100.0
        assert limit == "recycle.max_age is 100.0 s"
        assert self.ids_after(service, 50.0) == ["svc#0.1"]

    @unless("in_process")
    def test_replica_is_replaced_when_its_process_has_too_much_memory(self) -> None:
        """
        Above `max_memory_mb`, a replica is replaced.

        If its process needs more from the start, the replacements are not repeated every second.
        """
        service = self.recycling(recycle={"max_memory_mb": 1})
        self.until(lambda: self.ids_after(service) == ["svc#0.1"])
        self.until(lambda: len(self.told(service)) >= 2)  # each look takes a second, until the next replacement
        reason = self.reasons(service, "recycling")[0]
        assert reason.startswith("memory ")
        assert reason.endswith(" MiB, recycle.max_memory_mb is 1 MiB")
        assert service.handle.echo(1) == 1

    @needs("in_process")
    def test_memory_that_replicas_share_is_no_limit(self) -> None:
        """If replicas share this process's memory, a limit fails with PlanError: a new replica would not free it."""
        with pytest.raises(errors.PlanError, match=r"E411: recycle\.max_memory_mb: .*share the memory of this process"):
            self.register(recycle={"max_memory_mb": 100}).env.deploy()

    def test_one_replica_is_recycled_at_a_time_and_no_call_is_lost(self) -> None:
        # Each look advances the time by one second, and there may be many. No new replica may reach its age limit by
        # then.
        service = self.recycling(recycle={"max_age": 1000.0}, **self.several(2))
        assert self.ids_after(service, 998.0) == ["svc#0", "svc#1"]
        stop: list[None] = []

        def caller(number: int) -> int:
            calls = 0
            while not stop:
                assert service.handle.echo(number) == number
                calls += 1
            return calls

        calling = [self.in_thread(caller, number) for number in range(2)]
        self.until(lambda: self.ids_after(service) == ["svc#0.1", "svc#1.1"])
        self.until(lambda: len(self.told(service)) == 4)
        stop.append(None)
        assert all(each.result(self.patience) for each in calling)
        kinds = [kind for kind, _ in self.told(service)]
        assert kinds == ["recycling", "recycled", "recycling", "recycled"]
        first, _, second, _ = (replica for _, replica in self.told(service))
        assert {first, second} == {"svc#0", "svc#1"}
        assert set(service.outcomes) == {"ok"}

    def test_replica_goes_on_while_no_fresh_one_can_be_built(self, tmp_path: Path) -> None:
        """
        If no new replica can be built, the old one goes on, and this is no crash loop.

        The event has the error and the time of the next attempt.
        """
        broken = tmp_path / "broken"
        service = self.recycling(Fragile, str(broken), recycle={"max_calls": 1})
        assert service.handle.echo(1) == 1
        broken.touch()
        self.until(lambda: self.ids_after(service) and len(self.reasons(service, "recycling_failed")) > 2)
        assert (
            "calls 1, recycle.max_calls is 1; it keeps running; the next try is in 1 s: "
            in (self.reasons(service, "recycling_failed")[0])
        )
        assert "in 4 s: " in self.reasons(service, "recycling_failed")[2]
        assert service.status["state"] == "ready"
        assert service.handle.echo(2) == 2
        broken.unlink()
        self.until(lambda: [id for id in self.ids_after(service) if id != "svc#0"])
        self.until(lambda: self.told(service)[-1][0] == "recycled")
        assert service.handle.echo(3) == 3

    def test_call_that_runs_is_finished_first(self) -> None:
        """The old replica drains: its running call finishes there while the new replica serves."""
        service = self.recycling(recycle={"max_age": 10.0})
        gate = self.watch()
        running = self.begin(service.handle, "hold", gate.checkpoint)
        gate.wait()
        self.until(lambda: "svc#0.1" in self.ids_after(service))
        assert service.handle.echo(1) == 1
        assert not running.done()
        gate.open()
        assert running.result(self.patience) == 0
        self.until(lambda: self.told(service)[-1] == ("recycled", "svc#0"))
        assert self.ids_after(service, 0.0) == ["svc#0.1"]
