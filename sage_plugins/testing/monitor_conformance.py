"""
What every monitor keeps, as cases that tell one what a service would and as cases on real deployed services.

A monitor's own tests inherit them, and get every case that its capabilities allow:

    from sage_plugins.testing.monitor_conformance import MonitorConformance

    class TestMine(MonitorConformance):
        plugin_id = "mine"
        options = {"file": "calls.log"}
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import logging
import pickle
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs
import pytest

from sage_plugins import errors
from sage_plugins.testing.conformance import needs
from sage_plugins.testing.probes import Probe, ProbeError
from sage_plugins.testing.recipe import make
from sage_plugins.testing.reentry import interrupt, with_switches
from sage_plugins.testing.service_conformance import ServiceConformance
from sage_plugins.values import Event, Outcome, ReplicaInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sage_plugins.interfaces import Monitor, Recorder
    from sage_plugins.testing.service_conformance import Deployed

__all__ = ["MONITOR_CAPABILITIES", "MonitorConformance"]

#: What monitors can declare, and what each promises.
MONITOR_CAPABILITIES: Final[Mapping[str, str]] = {
    "records_calls": "it has a recorder for each replica and for the calling side",
    "counts_calls": "its summary has `outcomes`: each accepted call that ended, once, by the name of its outcome",
    "merges_counts": "it has `merge`: what the replicas have counted stays when they leave",
    "keeps_events": "its summary has `latest`: the latest events, the oldest first, each with `kind` and `reason`",
    "checks_health": "it asks replicas `check_health()` and `check_ready()`, and marks them by their answers",
}

_METHODS: Final = ("get", "put", "delete")
_OUTCOMES: Final = range(len(Outcome.NAMES))
_CALLER: Final = ReplicaInfo("svc", None)


def _replica(index: int) -> ReplicaInfo:
    return ReplicaInfo("svc", f"svc#{index}")


def _event(number: int) -> Event:
    return Event("svc", "told", f"number {number}", "svc#0" if number % 2 else None)


class MonitorConformance(ServiceConformance):
    """
    What the core, and who reads a status, may rely on, whatever a monitor watches.

    Inherit it in a class whose name begins with `Test`, and set `plugin_id`. What the monitor can declare stands in
    `MONITOR_CAPABILITIES`. If its summary has other names than said there, override `outcomes` and `events`. The
    services run on target `local`.
    """

    kind: ClassVar[str] = "monitor"
    known: ClassVar[Mapping[str, str]] = {**ServiceConformance.known, **MONITOR_CAPABILITIES}
    target = "local"
    strategy = "single"

    def declared(self) -> Mapping[str, str]:
        """What the monitor declares, and the target and strategy of its services."""
        registration = self.registry().find(self.kind, self.plugin_id).registration
        return {**super().declared(), **dict.fromkeys(registration.capabilities, self.plugin_id)}

    def plugin_for(self, capability: str) -> str:
        """The monitor, or else the target or the strategy."""
        return self.plugin_id if capability in MONITOR_CAPABILITIES else super().plugin_for(capability)

    def monitor(self) -> Monitor:
        """A new monitor, as a service gets it."""
        made: Monitor = make(self)
        return made

    def outcomes(self, summary: Mapping[str, Any]) -> Mapping[str, int]:
        """Of a summary: the calls by outcome, those left out that there were none of."""
        return {name: number for name, number in summary["outcomes"].items() if number}

    def events(self, summary: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Of a summary: kind and reason of each event, the oldest first."""
        return [(event["kind"], event["reason"]) for event in summary["latest"]]

    def lasting(self, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of a summary: what stays of replicas that left, all but what is measured of the present."""
        return {name: value for name, value in summary.items() if name not in {"cpu_usage", "memory_usage"}}

    # -- recorders ---------------------------------------------------------------------------------------------------

    def _recorder(self, monitor: Monitor, who: ReplicaInfo) -> Recorder:
        recorder = monitor.recorder(who, _METHODS)
        assert recorder is not None, f"it declares 'records_calls' and has no recorder for {who}"
        return recorder

    def test_recorders_are_there_as_declared(self) -> None:
        """A monitor that records calls says so, for the replicas and for the calling side; any other has none."""
        for who in (_CALLER, _replica(0)):
            has = self.monitor().recorder(who, _METHODS) is not None
            assert has == self.declares("records_calls")

    @needs("records_calls")
    def test_every_outcome_and_duration_is_taken(self) -> None:
        """Nothing that a call can be makes a recorder raise: it would be told no more."""
        for who in (_CALLER, _replica(0)):
            monitor = self.monitor()
            recorder = self._recorder(monitor, who)
            record = recorder.writer()
            durations = (0.0, 1e-9, 0.5, 3600.0, 1e9)
            for method, outcome, wait, run in itertools.product(range(3), _OUTCOMES, durations, durations):
                record(method, outcome, wait, run)
            monitor.summary([recorder.snapshot()])

    @needs("records_calls")
    def test_snapshot_travels(self) -> None:
        """A snapshot that was pickled, as from another process, says the same."""
        monitor = self.monitor()
        recorder = self._recorder(monitor, _replica(0))
        record = recorder.writer()
        for outcome in _OUTCOMES:
            record(0, outcome, 0.25, 0.5)
        snapshot = recorder.snapshot()
        travelled = pickle.loads(pickle.dumps(snapshot))  # noqa: S301 - made here
        assert monitor.summary([travelled]) == monitor.summary([snapshot])

    @needs("records_calls")
    def test_snapshot_is_taken_while_calls_are_recorded(self) -> None:
        """Workers do not stop for a status: it may lag by a call, and never fails."""
        monitor = self.monitor()
        recorder = self._recorder(monitor, _replica(0))

        def work(number: int) -> None:
            if number == 0:
                for _ in range(10):
                    monitor.summary([with_switches(recorder.snapshot)])
                return
            record = recorder.writer()

            def some() -> None:
                for turn in range(100):
                    record(turn % 3, turn % len(_OUTCOMES), 1e-6 * turn, 1e-5 * turn)

            with_switches(some)

        self.together(work, 4)

    @needs("counts_calls")
    def test_each_outcome_counts_once(self) -> None:
        """Where calls run and where they are given up: each is counted under its own outcome, and no other."""
        for who in (_CALLER, _replica(0)):
            for outcome in _OUTCOMES:
                monitor = self.monitor()
                recorder = self._recorder(monitor, who)
                recorder.writer()(1, outcome, 0.5, 0.0)
                recorder.writer()(2, outcome, 0.0, 0.5)
                assert self.outcomes(monitor.summary([recorder.snapshot()])) == {Outcome.NAMES[outcome]: 2}

    @needs("counts_calls")
    def test_replicas_and_calling_side_add_up(self) -> None:
        """Their snapshots are merged, in whatever order they come."""
        monitor = self.monitor()
        snapshots = []
        for turn, who in enumerate((_replica(0), _replica(1), _replica(2), _CALLER)):
            recorder = self._recorder(monitor, who)
            record = recorder.writer()
            for _ in range(turn + 1):
                record(turn % 3, turn, 0.5, 0.25)
            snapshots.append(recorder.snapshot())
        expected = {name: turn + 1 for turn, name in enumerate(Outcome.NAMES[:4])}
        for order in itertools.permutations(snapshots):
            assert self.outcomes(monitor.summary(order)) == expected

    @needs("counts_calls")
    def test_no_call_is_lost_among_workers(self) -> None:
        """Each worker has a writer of its own; together they count every call."""
        monitor = self.monitor()
        recorder = self._recorder(monitor, _replica(0))

        def work(_number: int) -> None:
            def some() -> None:
                record = recorder.writer()
                for turn in range(50):
                    record(turn % 3, turn % 2, 1e-6, 1e-5)

            some()
            with_switches(some)

        self.together(work, 8)
        assert self.outcomes(monitor.summary([recorder.snapshot()])) == {"ok": 400, "error": 400}

    @needs("counts_calls")
    def test_what_a_worker_counted_outlives_it(self) -> None:
        """Threads of a pool come and go; their counts stay."""
        monitor = self.monitor()
        recorder = self._recorder(monitor, _replica(0))
        for _ in range(50):
            recorder.writer()(0, Outcome.OK, 0.0, 0.5)
        for _ in range(2):
            assert self.outcomes(monitor.summary([recorder.snapshot()])) == {"ok": 50}

    # -- what replicas leave behind ----------------------------------------------------------------------------------

    def _merge(self, monitor: Monitor, *snapshots: Mapping[str, Any]) -> Mapping[str, Any]:
        merged: Mapping[str, Any] = monitor.merge(snapshots)  # type: ignore[attr-defined] # declared; it is optional
        return merged

    def _counted(self, monitor: Monitor, *calls: int) -> list[Mapping[str, Any]]:
        """The snapshots of replicas that have run so many *calls* each, in other ways and with other durations."""
        snapshots = []
        for index, number in enumerate(calls):
            recorder = self._recorder(monitor, _replica(index))
            record = recorder.writer()
            for turn in range(number):
                record(turn % 3, (index + turn) % len(_OUTCOMES), 0.125 * index, 0.25 * turn)
            snapshots.append(recorder.snapshot())
        return snapshots

    def test_merge_is_there_as_declared(self) -> None:
        """A monitor that keeps the counts of replicas that left says so, and any other has no `merge`."""
        assert callable(getattr(self.monitor(), "merge", None)) == self.declares("merges_counts")

    @needs("records_calls", "merges_counts")
    def test_merge_says_what_its_parts_say(self) -> None:
        """In whatever groups and order replicas leave, and also if it travels."""
        monitor = self.monitor()
        first, second, third = parts = self._counted(monitor, 5, 0, 11)
        expected = self.lasting(monitor.summary(parts))
        groups = [
            [self._merge(monitor, *parts)],
            [self._merge(monitor, first), second, third],
            [third, self._merge(monitor, self._merge(monitor, first), second)],
            [self._merge(monitor, third, self._merge(monitor, second, first))],
        ]
        for group in groups:
            travelled = pickle.loads(pickle.dumps(group))  # noqa: S301 - made here
            assert self.lasting(monitor.summary(travelled)) == expected
        assert self.lasting(monitor.summary(parts)) == expected, "a part was changed"

    @needs("records_calls", "merges_counts")
    def test_merge_needs_bounded_memory(self) -> None:
        """A service that is restarted every day keeps no more in a year than in a week."""
        monitor = self.monitor()
        (part,) = self._counted(monitor, 9)
        kept, sizes = part, {}
        for turn in range(400):
            kept = self._merge(monitor, kept, part)
            sizes[turn] = len(pickle.dumps(kept))
        assert sizes[399] <= 2 * sizes[9]

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

    # -- events and refused calls ------------------------------------------------------------------------------------

    def test_events_never_block(self) -> None:
        """Who decides does not wait for who watches, however many events nobody reads."""
        monitor = self.monitor()

        def tell() -> None:
            for number in range(10_000):
                monitor.event(_event(number))

        self._in_time(tell)

    def test_refused_calls_never_block(self) -> None:
        """They come by the thousands, for that is why they are refused."""
        monitor = self.monitor()
        monitor.recorder(_CALLER, _METHODS)

        def refuse() -> None:
            for turn in range(10_000):
                monitor.refused(turn % 3, "overloaded" if turn % 2 else "stopped")

        self._in_time(refuse)

    def _in_time(self, function: Callable[[], Any]) -> None:
        try:
            self.in_thread(function).result(self.patience)
        except TimeoutError:
            pytest.fail(f"it blocks: not done after {self.patience:g} s")

    @needs("counts_calls")
    def test_refused_calls_are_no_calls(self) -> None:
        """A call that was not accepted has no outcome."""
        monitor = self.monitor()
        recorder = self._recorder(monitor, _CALLER)
        monitor.refused(0, "overloaded")
        monitor.refused(1, "stopped")
        assert self.outcomes(monitor.summary([recorder.snapshot()])) == {}

    @needs("keeps_events")
    def test_events_are_kept_in_order(self) -> None:
        """The latest ones, the oldest of them first, with the reasons that were given."""
        monitor = self.monitor()
        told = [_event(number) for number in range(20)]
        for event in told:
            monitor.event(event)
        kept = self.events(monitor.summary([]))
        assert kept
        assert list(kept) == [(event.kind, event.reason) for event in told[-len(kept) :]]

    @needs("keeps_events")
    def test_events_of_many_threads_are_kept_once(self) -> None:
        """None twice and none that was not told."""
        monitor = self.monitor()

        def tell(number: int) -> None:
            for turn in range(25):
                monitor.event(_event(number * 25 + turn))

        self.together(tell, 8)
        kept = self.events(monitor.summary([]))
        assert len(set(kept)) == len(kept) > 0
        assert set(kept) <= {("told", f"number {number}") for number in range(200)}

    @needs("keeps_events")
    def test_events_need_bounded_memory(self) -> None:
        """A service that runs for a year keeps no more of them than one that runs for a day."""
        monitor = self.monitor()
        lengths = set()
        for turn in range(2):
            for number in range(20_000):
                monitor.event(_event(turn * 20_000 + number))
            lengths.add(len(self.events(monitor.summary([]))))
        assert len(lengths) == 1

    # -- summaries ---------------------------------------------------------------------------------------------------

    def test_summary_needs_no_snapshot(self) -> None:
        """A service that has not started has a status too."""
        assert isinstance({**self.monitor().summary([])}, dict)

    def test_summary_changes_nothing(self) -> None:
        """Two who look see the same."""
        monitor = self.monitor()
        recorder = monitor.recorder(_replica(0), _METHODS)
        if recorder is not None:
            recorder.writer()(0, Outcome.OK, 0.25, 0.5)
        monitor.event(_event(1))
        snapshots = [] if recorder is None else [recorder.snapshot()]
        first = monitor.summary(snapshots)
        assert monitor.summary(snapshots) == first
        assert recorder is None or monitor.summary([recorder.snapshot()]).keys() == first.keys()

    def test_status_can_be_read_in_the_middle(self) -> None:
        """A signal handler may look at a service while the same thread records a call or tells an event."""
        monitor = self.monitor()
        recorders = [each for each in (monitor.recorder(who, _METHODS) for who in (_CALLER, _replica(0))) if each]
        writers = [recorder.writer() for recorder in recorders]

        def look() -> None:
            monitor.summary([recorder.snapshot() for recorder in recorders])

        middles: list[Callable[[], Any]] = [
            functools.partial(monitor.event, _event(1)),
            functools.partial(monitor.refused, 0, "overloaded"),
            look,
            *(functools.partial(record, 0, Outcome.OK, 0.25, 0.5) for record in writers),
            *(recorder.writer for recorder in recorders),
        ]
        for middle in middles:
            interrupt(middle, look, patience=self.patience)

    def test_monitors_of_two_services_are_apart(self) -> None:
        """What happens to one service is not in the summary of the other."""
        ours, theirs = self.monitor(), self.monitor()
        before = theirs.summary([])
        recorder = ours.recorder(_replica(0), _METHODS)
        if recorder is not None:
            recorder.writer()(0, Outcome.ERROR, 0.25, 0.5)
        ours.event(_event(1))
        ours.refused(0, "stopped")
        assert theirs.summary([]) == before

    def test_close_is_idempotent_and_keeps_the_summary(self) -> None:
        """After the end a status can be read, and what comes late does no harm."""
        monitor = self.monitor()
        monitor.recorder(_CALLER, _METHODS)
        monitor.event(_event(1))
        before = monitor.summary([])
        monitor.close()
        monitor.close()
        assert monitor.summary([]) == before
        monitor.event(_event(2))
        monitor.refused(0, "stopped")
        monitor.summary([])

    # -- deployed ----------------------------------------------------------------------------------------------------

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
        """Results, errors, time-outs and cancellations are counted as such; a call that was refused is not."""
        service = self.watched(queue_size=2, overload="reject")
        for turn in range(3):
            service.handle.echo(turn)
        passage = self.watch(held=False).checkpoint
        with pytest.raises(ProbeError):
            service.handle.hold_and_fail(passage)
        gate = self.occupy(service)
        cancelled, late = service.handle.submit("echo"), service.handle.with_options(timeout=self.short).submit("echo")
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
        assert set(latest) >= {(kind, "scaled from 2 to 1 replicas") for kind in ("scaled", "replica_draining")}
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
