"""The rules for a monitor on real deployed services: it reports them correctly and does not disturb them."""

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
    """Cases with a service that the monitor watches."""

    def watched(self, **fields: Any) -> Deployed:
        """Deploy a service with this monitor only."""
        return self.deploy(Probe, monitors=(self.plugin_id,), **fields)

    def summary(self, service: Deployed) -> Mapping[str, Any]:
        """Return what the monitor reports about a service."""
        if self.plugin_id == "metrics":  # the only monitor whose summary has its own type
            return attrs.asdict(service.metrics, recurse=False)
        summary: Mapping[str, Any] = service.status["monitors"][self.plugin_id]
        return summary

    @contextlib.contextmanager
    def complaints(self) -> Iterator[list[str]]:
        """Collect the core's log messages at level WARNING and above."""
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
        """Results, errors, timeouts and cancellations count under their own outcomes. A refused call does not count."""
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
        """A call that is given up while it runs counts when its caller is released, not when its method ends."""
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
        """A call counts before its caller is released: a count that is read after a result includes it."""
        service = self.watched()
        for number in range(1, 101):
            service.handle.echo()
            assert self.outcomes(self.summary(service)) == {"ok": number}

    @needs("counts_calls")
    def test_calls_of_many_threads_count_once_each(self) -> None:
        """Of 200 calls from 8 threads on three replicas, each counts once."""
        service = self.watched(replicas=3, load_balancing=True)
        self.together(lambda _: [service.handle.echo() for _ in range(25)], 8)
        assert self.outcomes(self.summary(service)) == {"ok": 200}

    @needs("counts_calls", "merges_counts")
    def test_counts_of_replicas_that_left_stay(self) -> None:
        """The counts of a service never fall when replicas are added, removed or restarted."""
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
        """The monitor reports for each replica that it became ready and that it stopped."""
        service = self.watched(replicas=2, load_balancing=True)
        service.env.close()
        kinds = collections.Counter(kind for kind, _ in self.events(self.summary(service)))
        assert (kinds["replica_ready"], kinds["replica_stopped"]) == (2, 2)

    @needs("keeps_events")
    def test_changes_are_told_with_their_reasons(self) -> None:
        """The monitor reports each scaling and each restart, with its reason."""
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
        """The monitor has a summary before the service starts, while it runs, and after it stopped."""
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
        """The monitor never raises and disturbs no call, whatever outcomes and events the service has."""
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
