"""The rules for `timeout_strength: kill`: a call that runs past its deadline has its replica killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.suites.conformance import needs
from sage_deploy_testing.suites.probes import Calling
from sage_deploy_testing.suites.service_conformance import Deployed, ServiceConformance
from sage_plugins import errors

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["KillingCases"]


class KillingCases(ServiceConformance):
    """Calls that run past their deadline."""

    def killing(self, **fields: Any) -> Deployed:
        """Deploy a service with `timeout_strength: kill`."""
        return self.deploy(timeout_strength="kill", monitors=("metrics", "events"), **fields)

    def hung(self, service: Deployed) -> Future[Any]:
        """Make a call whose method runs past its deadline."""
        gate = self.watch()
        call = service.handle.with_options(timeout=self.while_running).submit("hold", gate.checkpoint)
        gate.wait()
        return call

    def until_replaced(self, service: Deployed) -> None:
        """Wait until the second replica serves."""
        self.until(
            lambda: [(each["id"], each["state"]) for each in service.status["replicas"]] == [("svc#0.1", "ready")]
        )

    @needs("can_kill", "releases_at_deadline")
    @pytest.mark.parametrize("waits", [True, False])
    def test_call_that_runs_on_has_its_replica_killed(self, waits: bool) -> None:  # noqa: FBT001 - a parameter of cases
        """The replica is killed at the call's deadline, even if no caller waits. Another one takes its place."""
        service = self.killing()
        call = self.hung(service)
        if waits:
            with pytest.raises(errors.CallTimeoutError) as caught:
                call.result(self.patience)
            assert caught.value.stage == "run"
        self.until_replaced(service)
        assert isinstance(call.exception(0), errors.CallTimeoutError)
        assert service.handle.echo(1) == 1
        self.until(lambda: any(each.event.kind == "replica_killed" for each in service.env.events()))
        (event,) = [each.event for each in service.env.events() if each.event.kind == "replica_killed"]
        assert event.replica == "svc#0"
        assert event.reason.startswith("svc.hold ran on after its deadline")

    @needs("can_kill", "releases_at_deadline", "concurrent")
    def test_other_calls_of_a_killed_replica_end_as_after_any_death(self) -> None:
        """The replica's other started calls fail or are retried. The rest run on the next replica."""
        service = self.killing(at_once=3, failover_enabled=True, replicas=1)
        gate = self.watch()
        lost = service.handle.submit("hold", gate.checkpoint)
        retried = service.handle.with_options(idempotent=True).submit("hold", gate.checkpoint)
        gate.wait(2)
        hung = self.hung(service)
        waiting = self.queued(service, "echo", 1)
        assert isinstance(hung.exception(self.patience), errors.CallTimeoutError)
        error = lost.exception(self.patience)
        assert isinstance(error, errors.ReplicaDiedError)
        assert error.maybe_executed
        assert "svc.hold ran on after its deadline, and timeout_strength is kill" in str(error)
        assert waiting.result(self.patience) == 1
        gate.wait()
        gate.open()
        assert retried.result(self.patience) == 0

    @needs("can_kill", "reachable", "releases_at_deadline")
    def test_call_of_another_process_that_runs_on_ends_its_replica(self) -> None:
        """A caller in another process cannot kill the replica, so the replica ends itself."""
        service = self.killing()
        other = self.register(Calling, name="other", env=service.env)
        gate = self.watch()
        limit = self.while_running
        asking = self.in_thread(other.handle.call, "ask", "svc", "hold", gate.checkpoint, timeout=limit)
        gate.wait()
        with pytest.raises(errors.CallTimeoutError):
            asking.result(self.patience)
        self.until_replaced(service)
        assert service.handle.echo(1) == 1

    @needs("can_kill", "releases_at_deadline")
    def test_call_that_ends_in_time_keeps_its_replica(self) -> None:
        """A call that ends in time keeps its replica, also after another call timed out in the queue."""
        service = self.killing()
        occupied = self.occupy(service)
        late = service.handle.with_options(timeout=self.short).submit("echo", 1)
        assert late.exception(self.patience).stage == "queue"  # type: ignore[union-attr] # a CallTimeoutError
        occupied.open()
        assert service.handle.echo(2) == 2
        assert [each["id"] for each in service.status["replicas"]] == ["svc#0"]
        assert not [each for each in service.env.events() if each.event.kind == "replica_killed"]
