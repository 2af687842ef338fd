"""The rules for failing calls: retries, hedging and circuit breakers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from sage_deploy_testing.suites.conformance import needs, unless
from sage_deploy_testing.suites.probes import Probe, ProbeError
from sage_deploy_testing.suites.service_conformance import VERBS, ServiceConformance
from sage_plugins import batch_of, errors, idempotent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_deploy_testing.suites.service_conformance import Deployed
    from sage_deploy_testing.tools.checkpoints import Checkpoint

__all__ = ["BreakerCases", "HedgeCases", "RetryCases"]

#: Fields of a service whose calls are retried after a ProbeError, with enough budget for every case.
_RETRIES: Final[Mapping[str, Any]] = {"retry": {"on": ["ProbeError"], "budget": 1.0, "min": 100, "backoff": 0.001}}


class Choosy(Probe):
    """Its methods raise in the replica with the given index, and return the index in all others."""

    @idempotent
    def read(self, fails: int) -> int:
        self._done.append("read")
        if self.ctx.replica_index == fails:
            raise ProbeError("read here", fails)
        return self.ctx.replica_index

    @idempotent
    async def aread(self, fails: int) -> int:
        return self.read(fails)

    def write(self, fails: int) -> int:
        return self.read(fails)

    @idempotent
    def get(self, fails: int) -> int:
        return self.read(fails)

    @batch_of("get")
    def get_many(self, fails: list[int]) -> list[Any]:
        return [self.ctx.replica_index if each != self.ctx.replica_index else ProbeError("got", each) for each in fails]

    @idempotent
    def read_never(self, kind: type[BaseException]) -> None:
        self._done.append("read")
        raise kind("never")

    @idempotent
    def hold_and_die(self, checkpoint: Checkpoint) -> None:
        self.die(checkpoint)


class Slow(Probe):
    """Its methods wait for the test in the replica with the given index, and return the index in all others."""

    @idempotent
    def read(self, slow: int, checkpoint: Checkpoint) -> int:
        if self.ctx.replica_index == slow:
            checkpoint.reach()
        return self.ctx.replica_index

    @idempotent
    async def aread(self, slow: int, checkpoint: Checkpoint) -> int:
        if self.ctx.replica_index == slow:
            await asyncio.to_thread(checkpoint.reach)
        return self.ctx.replica_index

    def write(self, slow: int, checkpoint: Checkpoint) -> int:
        return self.read(slow, checkpoint)


class Patient(Probe):
    """Fails until `recover` is called."""

    fails = True

    def recover(self, checkpoint: Checkpoint | None = None) -> None:
        if checkpoint is not None:
            checkpoint.reach()
        self.fails = False

    def read(self) -> str:
        self._done.append("read")
        if self.fails:
            raise ProbeError("it is down")
        return "read"


class RetryCases(ServiceConformance):
    """`retry`: idempotent calls are retried within the call's deadline, and count once."""

    def retries(self, service: Deployed) -> dict[str, int]:
        """Return the number of retries by reason."""
        values = service.env.metrics()[service.name]["sage_retries_total"].values
        return {reason: int(number) for (reason,), number in values.items() if number}

    @VERBS
    @pytest.mark.parametrize("method", ["read", "aread", "get"])
    def test_idempotent_call_is_tried_again_on_another_replica(self, verb: str, method: str) -> None:
        """A call of any kind is retried on another replica. The caller gets that answer, and the call counts once."""
        service = self.deploy(Choosy, batch_size=4, **self.several(2), **_RETRIES)
        assert [self.outcome(service.handle, verb, method, fails) for fails in (0, 1, 0, 1, 0)] == [1, 0, 1, 0, 1]
        assert service.outcomes == {"ok": 5}

    def test_many_callers_at_once_each_get_an_answer(self) -> None:
        """If one replica fails every call, each caller still gets an answer, and every call counts as `ok`."""
        service = self.deploy(Choosy, **self.several(2), **_RETRIES)
        assert self.together(lambda _: [service.handle.read(0) for _ in range(5)], 6) == [[1] * 5] * 6
        assert service.outcomes == {"ok": 30}

    def test_retries_that_are_used_up_raise_the_methods_own_exception(self) -> None:
        """
        After `max_attempts`, the caller gets the method's exception. The attempts count as one failed call.

        The events have the numbers.
        """
        service = self.deploy(Choosy, **_RETRIES)
        with pytest.raises(ProbeError, match="never"):
            service.handle.read_never(ProbeError)
        assert service.handle.done() == ["read"] * 3
        assert service.outcomes == {"ok": 1, "error": 1}
        assert self.retries(service) == {"exception": 2}
        told = [each.event for each in service.env.events() if "retr" in each.event.kind]
        assert [each.kind for each in told] == ["retried", "retry_refused"]
        assert "attempt 2 of 3" in told[0].reason
        assert "attempt 3 of 3" in told[1].reason

    def test_what_is_not_to_be_tried_again_is_not(self) -> None:
        """
        There is no retry for a method that is not idempotent, or for an exception that `retry.on` does not name.

        The caller can declare a call idempotent.
        """
        service = self.deploy(Choosy, **_RETRIES)
        for method, argument, kind in (("write", 0, ProbeError), ("read_never", KeyError, KeyError)):
            with pytest.raises(kind):
                service.handle.call(method, argument)
        assert service.handle.done() == ["read"] * 2
        with pytest.raises(ProbeError):
            service.handle.with_options(idempotent=True).write(0)
        assert service.handle.done() == ["read"] * 5
        assert service.outcomes == {"ok": 2, "error": 3}

    def test_all_attempts_share_one_deadline(self) -> None:
        """No attempt starts without time left: the call ends at once, with its own exception or CallTimeoutError."""
        service = self.deploy(Choosy, retry={"on": ["ProbeError"], "max_attempts": 100, "min": 100, "backoff": 1000})
        with pytest.raises((ProbeError, errors.CallTimeoutError)):
            service.handle.with_options(timeout=0.2).read_never(ProbeError)
        assert len(service.handle.done()) < 20

    def test_budget_bounds_the_attempts_of_all_calls(self) -> None:
        """If every call fails, attempts stay below 1.2 x calls + min."""
        service = self.deploy(Choosy, retry={"on": ["ProbeError"], "backoff": 0.001})
        for _ in range(50):
            with pytest.raises(ProbeError):
                service.handle.read_never(ProbeError)
        attempts = len(service.handle.done())
        assert 50 < attempts <= 1.2 * 50 + 3
        assert service.outcomes == {"ok": 1, "error": 50}

    @needs("can_kill")
    def test_call_that_kills_its_replicas_is_blamed_after_two(self) -> None:
        """A call that kills replicas is not retried after the second. The other replicas go on."""
        service = self.deploy(Choosy, **self.several(4), retry={"max_attempts": 9, "min": 9})
        gate = self.watch(held=False)
        with pytest.raises(errors.ReplicaDiedError, match="2 replicas have died while they ran it") as caught:
            service.handle.hold_and_die(gate.checkpoint)
        assert caught.value.maybe_executed
        assert len(gate.seen()) == 2
        assert service.handle.read(-1) in range(4)


class HedgeCases(ServiceConformance):
    """`hedge`: a slow call gets a second attempt on another replica, and the first answer counts."""

    @unless("in_callers_thread")
    @VERBS
    @pytest.mark.parametrize("method", ["read", "aread"])
    def test_slow_call_is_answered_by_another_replica(self, verb: str, method: str) -> None:
        """The caller gets the other replica's answer while the slow attempt runs. Both count as one call."""
        # By then the slow attempt has started. An attempt that has not would be cancelled, and never reach the gate.
        service = self.deploy(Slow, hedge={"delay": self.while_running}, **self.several(2, "round_robin"))
        gate = self.watch()
        answers = [self.outcome(service.handle, verb, method, 0, gate.checkpoint) for _ in range(2)]
        assert answers == [1, 1]
        gate.wait(1)
        self.until(lambda: service.outcomes == {"ok": 2})
        values = service.env.metrics()[service.name]["sage_retries_total"].values
        assert {reason: int(number) for (reason,), number in values.items() if number} == {"hedge": 1}
        self.until(lambda: [each for each in service.env.events() if each.event.kind == "hedged"])
        gate.open()
        self.until(lambda: service.inflight == 0)
        assert service.outcomes == {"ok": 2}

    @unless("in_callers_thread")
    def test_call_that_may_not_run_twice_waits(self) -> None:
        service = self.deploy(Slow, hedge={"delay": self.short}, **self.several(2, "round_robin"))
        gate = self.watch()
        calls = [service.handle.submit("write", 0, gate.checkpoint) for _ in range(2)]
        gate.wait()
        with pytest.raises(TimeoutError):
            next(call for call in calls if call.running()).result(self.while_running)
        gate.open()
        assert sorted(call.result(self.patience) for call in calls) == [0, 1]


class BreakerCases(ServiceConformance):
    """`circuit_breaker`: a service that keeps failing gets no calls for a while."""

    def breaker(self, **keys: Any) -> Deployed:
        """Deploy a service whose circuit breaker opens after three failures."""
        return self.deploy(Patient, retry={"on": ["ProbeError"]}, circuit_breaker={"failures": 3, **keys})

    def changes(self, service: Deployed) -> list[str]:
        """Return the circuit breaker's changes, in order."""
        return [str(each.event.kind) for each in service.env.events() if "circuit" in each.event.kind]

    @VERBS
    def test_service_that_keeps_failing_is_not_called(self, verb: str) -> None:
        """After so many failures in a row, calls fail with CircuitOpenError at once, never run and count as refused."""
        service = self.breaker(open=1000.0)
        for _ in range(3):
            with pytest.raises(ProbeError):
                self.outcome(service.handle, verb, "read")
        for _ in range(5):
            with pytest.raises(errors.CircuitOpenError) as caught:
                self.outcome(service.handle, verb, "read")
            assert 0 < (caught.value.retry_after or 0) <= 1000
        assert service.outcomes == {"error": 3}
        assert self.changes(service) == ["circuit_opened"]
        (told,) = [each.event.reason for each in service.env.events() if each.event.kind == "circuit_opened"]
        assert "3 calls in a row" in told

    def test_a_call_of_a_service_with_a_breaker_is_no_argument(self) -> None:
        """A `Call` as an argument fails with TypeError, as without a circuit breaker."""
        service = self.breaker()
        with pytest.raises(TypeError, match="was given a Call of 'echo'"):
            service.handle.echo(service.handle.submit("echo", 1))

    def test_success_in_between_keeps_it_closed(self) -> None:
        """
        Only failures in a row open the breaker: a success resets the count. Cancelled and refused calls do not count.
        """
        service = self.breaker(open=1000.0)
        for _ in range(4):
            for _ in range(2):
                with pytest.raises(ProbeError):
                    service.handle.read()
            service.handle.echo()
        assert self.changes(service) == []

    def test_exceptions_that_are_not_named_are_the_callers_own(self) -> None:
        """An exception that `retry.on` does not name is no failure for the breaker."""
        service = self.breaker(open=1000.0)
        for _ in range(10):
            with pytest.raises(KeyError):
                service.handle.fail_as(KeyError)
        assert self.changes(service) == []

    def test_half_open_it_lets_its_probes_through_and_no_other(self) -> None:
        """A half-open breaker admits one probe and refuses other calls. If the probe succeeds, it admits all calls."""
        service = self.breaker(open=0.001)
        gate = self.watch()
        for _ in range(3):
            with pytest.raises(ProbeError):
                service.handle.read()
        probe: list[Any] = []

        def admitted() -> bool:
            try:
                probe.append(self.begin(service.handle, "recover", gate.checkpoint))
            except errors.CircuitOpenError:
                return False
            self.until(lambda: probe[-1].done() or service.inflight)
            return not probe[-1].done()

        self.until(admitted)
        gate.wait()
        for _ in range(3):
            with pytest.raises(errors.CircuitOpenError):
                service.handle.read()
        gate.open()
        probe[-1].result(self.patience)
        assert service.handle.read() == "read"
        assert self.changes(service) == ["circuit_opened", "circuit_half_open", "circuit_closed"]
