"""A monitor on real deployed services: what it reports of them, and that it does them no harm."""

from __future__ import annotations

import collections
import contextlib
import logging
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from sage_deploy_testing.suites.conformance import needs
from sage_deploy_testing.suites.monitor_suite import MonitorSuite
from sage_deploy_testing.suites.probes import Probe, ProbeError
from sage_plugins import errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sage_deploy_testing.suites.service_conformance import Deployed

__all__ = ["WatchedCases"]


class WatchedCases(MonitorSuite):
    """A service under the monitor."""

    def watched(self, **fields: Any) -> Deployed:
        """Deploy a service that this monitor alone watches."""
        return self.deploy(Probe, monitors=(self.plugin_id,), **fields)

    def summary(self, service: Deployed) -> Mapping[str, Any]:
        """What the monitor reports of a service."""
        if self.plugin_id == "metrics":  # the one whose summary has a type of its own
            return attrs.asdict(service.metrics, recurse=False)
        summary: Mapping[str, Any] = service.status["monitors"][self.plugin_id]
        return summary

    @contextlib.contextmanager
    def complaints(self) -> Iterator[list[str]]:
        """What the core has to say meanwhile, from warnings upwards."""
        said: list[str] = []

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said.append(self.format(record))

        log, listener = logging.getLogger("sage_plugins"), Listener(logging.WARNING)
        log.addHandler(listener)
        try:
            yield said
        finally:
            log.removeHandler(listener)

    @needs("counts_calls")
    def test_outcomes_are_what_callers_saw(self) -> None:
        """Results, errors, timeouts and cancellations are counted as such; a call that was refused is not."""
        service = self.watched(queue_size=2, overload="reject")
        for turn in range(3):
            service.handle.echo(turn)
        passage = self.watch(held=False).checkpoint
        with pytest.raises(ProbeError):
            service.handle.hold_and_fail(passage)
        gate = self.occupy(service)
        cancelled, late = (
            service.handle.submit("echo"),
            service.handle.with_options(timeout=self.while_running).submit("echo"),
        )
        with pytest.raises(errors.OverloadedError):
            service.handle.submit("echo")
        assert cancelled.cancel()
        with pytest.raises(CancelledError):
            cancelled.result(self.patience)
        with pytest.raises(errors.CallTimeoutError):
            late.result(self.patience)
        gate.open()
        service.handle.echo()
        expected = {"ok": 3 + service.slots + 1, "error": 1, "timeout": 1, "cancelled": 1}
        assert self.outcomes(self.summary(service)) == expected
        service.env.close()
        assert self.outcomes(self.summary(service)) == expected

    @needs("counts_calls")
    def test_call_given_up_while_it_runs_counts_once(self) -> None:
        """When its caller is released, and not again when its method ends."""
        service = self.watched()
        gate = self.watch()
        with pytest.raises(errors.CallTimeoutError):
            service.handle.with_options(timeout=self.short).hold(gate.checkpoint)
        assert self.outcomes(self.summary(service)) == {"timeout": 1}
        gate.open()
        service.handle.echo()
        assert self.outcomes(self.summary(service)) == {"timeout": 1, "ok": 1}

    @needs("counts_calls")
    def test_call_is_counted_before_its_caller_is_released(self) -> None:
        """A count that is read after a result includes it."""
        service = self.watched()
        for number in range(1, 101):
            service.handle.echo()
            assert self.outcomes(self.summary(service)) == {"ok": number}

    @needs("counts_calls")
    def test_calls_of_many_threads_count_once_each(self) -> None:
        """200 calls from 8 threads on three replicas."""
        service = self.watched(replicas=3, load_balancing=True)
        self.together(lambda _: [service.handle.echo() for _ in range(25)], 8)
        assert self.outcomes(self.summary(service)) == {"ok": 200}

    @needs("counts_calls", "merges_counts")
    def test_counts_of_replicas_that_left_stay(self) -> None:
        """The counts of a service never fall, whatever becomes of its replicas."""
        service = self.watched()
        for number, change in enumerate(["2", "1", "restart"], 1):
            self.together(lambda _: [service.handle.echo() for _ in range(5)], 2)
            if change == "restart":
                service.env.restart(service.name)
            else:
                service.env.scale(service.name, int(change))
            assert self.outcomes(self.summary(service)) == {"ok": 10 * number}

    @needs("keeps_events")
    def test_life_of_the_replicas_is_told(self) -> None:
        """What became of each replica, to the end."""
        service = self.watched(replicas=2, load_balancing=True)
        service.env.close()
        kinds = collections.Counter(kind for kind, _ in self.events(self.summary(service)))
        assert (kinds["replica_ready"], kinds["replica_stopped"]) == (2, 2)

    @needs("keeps_events")
    def test_changes_are_told_with_their_reasons(self) -> None:
        """More replicas and fewer, and new ones for old."""
        service = self.watched()
        service.env.scale(service.name, 2)
        latest = self.events(self.summary(service))
        assert latest[-1] == ("scaled", "scaled from 1 to 2 replicas")
        assert latest[-2][0] == "balancing_enabled"
        service.env.scale(service.name, 1)
        latest = self.events(self.summary(service))[-3:]
        assert set(latest) >= {(kind, "scaled from 2 to 1 replica") for kind in ("scaled", "replica_draining")}
        service.env.restart(service.name)
        latest = self.events(self.summary(service))[-4:]
        assert ("replica_draining", "replaced by svc#0.1") in latest
        assert latest[-1][0] == "restarted"

    def test_status_is_there_at_any_time(self) -> None:
        """Before the service starts, while it runs and after it stopped the monitor has a summary."""
        service = self.register(Probe, monitors=(self.plugin_id,))
        with self.complaints() as said:
            summaries = [self.summary(service)]
            service.handle.echo()
            summaries.append(self.summary(service))
            service.env.close()
            summaries.append(self.summary(service))
        assert said == []
        assert {frozenset(summary) for summary in summaries} == {frozenset(summaries[-1])}

    def test_core_finds_no_fault_with_it(self) -> None:
        """Calls that end in every way, events and the end: it raises nowhere, and what it does harms no call."""
        with self.complaints() as said:
            service = self.watched(queue_size=0, overload="reject", replicas=2, load_balancing=True)
            gate = self.occupy(service)
            with pytest.raises(errors.OverloadedError):
                service.handle.echo()
            gate.open()
            self.until(lambda: service.inflight == 0)
            passage = self.watch(held=False).checkpoint
            with pytest.raises(ProbeError):
                service.handle.hold_and_fail(passage)
            assert [service.handle.echo(turn) for turn in range(5)] == list(range(5))
            service.env.close()
            with pytest.raises(errors.ServiceStoppedError):
                service.handle.echo()
        assert said == []
