"""
The rules for every monitor, as cases on a monitor alone and on real deployed services.

A monitor's own tests inherit them, and get every case that its capabilities allow:

    from sage_deploy_testing.suites.monitor_conformance import MonitorConformance

    class TestMine(MonitorConformance):
        plugin_id = "mine"
        options = {"file": "calls.log"}
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import pickle
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from sage_deploy_testing.cases import watched_cases
from sage_deploy_testing.suites.conformance import needs
from sage_deploy_testing.suites.monitor_suite import MONITOR_CAPABILITIES
from sage_deploy_testing.tools.reentry import interrupt, with_switches
from sage_plugins.interfaces import MetricsExporter, ServiceWatcher, SnapshotMerger
from sage_plugins.values import Event, Outcome, ReplicaInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sage_plugins.interfaces import Monitor, Recorder

__all__ = ["MONITOR_CAPABILITIES", "MonitorConformance"]

_METHODS: Final = ("get", "put", "delete")
_OUTCOMES: Final = range(len(Outcome.NAMES))
_CALLER: Final = ReplicaInfo("svc", None)


def _replica(index: int) -> ReplicaInfo:
    return ReplicaInfo("svc", f"svc#{index}")


def _event(number: int) -> Event:
    return Event("svc", "told", f"number {number}", "svc#0" if number % 2 else None)


class MonitorConformance(watched_cases.WatchedCases):
    """
    The rules that the core and readers of a status can rely on, whatever a monitor watches.

    Inherit it in a class whose name begins with `Test`, and set `plugin_id`. `MONITOR_CAPABILITIES` lists the
    capabilities that a monitor can declare. Override `outcomes` and `events` if its summary uses other names than
    these. Override `lasting` if its summary has parts that do not remain after replicas leave. The services run on
    target `local`.
    """

    # -- members -----------------------------------------------------------------------------------------------------

    def test_optional_members_are_there_as_declared(self) -> None:
        """A monitor has `merge`, `attach` and `families` exactly if it declares their capabilities."""
        monitor = self.monitor()
        assert isinstance(monitor, SnapshotMerger) == self.declares("merges_counts"), "merge"
        assert isinstance(monitor, ServiceWatcher) == self.declares("watches_service"), "attach"
        assert isinstance(monitor, MetricsExporter) == self.declares("exports_metrics"), "families"

    @needs("exports_metrics")
    def test_metrics_can_be_told(self) -> None:
        """Metric names are unique, exactly the names of counters end in `_total`, and each value has all labels."""
        monitor = self.monitor()
        assert isinstance(monitor, MetricsExporter), "it declares 'exports_metrics' and has no families"
        monitor.event(_event(1))
        snapshots = self._counted(monitor, 3) if self.declares("records_calls") else []
        families = list(monitor.families(snapshots))
        assert len({family.name for family in families}) == len(families), "two families have one name"
        for family in families:
            assert family.kind in {"counter", "gauge", "histogram"}, family
            assert family.name.endswith("_total") == (family.kind == "counter"), family
            assert bool(family.edges) == (family.kind == "histogram"), family
            for values, value in family.values.items():
                assert len(values) == len(family.labels), family
                assert not family.edges or len(value) == len(family.edges) + 2, family

    # -- recorders ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stage(self) -> Iterator[None]:
        """As `ServiceConformance.stage`; then close the recorders that a case made, as the core does."""
        self._recorders: list[Recorder] = []
        with super().stage():
            yield
            # After a deadlock, closing may never end. The leak guard then reports the thread.
            closing = threading.Thread(target=self._close_recorders, name="closing", daemon=True)
            closing.start()
            closing.join(self.patience)

    def _close_recorders(self) -> None:
        for recorder in self._recorders:
            recorder.close()

    def _make_recorder(self, monitor: Monitor, who: ReplicaInfo) -> Recorder | None:
        recorder = monitor.recorder(who, _METHODS)
        if recorder is not None:
            self._recorders.append(recorder)
        return recorder

    def _recorder(self, monitor: Monitor, who: ReplicaInfo) -> Recorder:
        recorder = self._make_recorder(monitor, who)
        assert recorder is not None, f"it declares 'records_calls' and has no recorder for {who}"
        return recorder

    def test_recorders_are_there_as_declared(self) -> None:
        """A monitor has recorders, for replicas and for the calling side, exactly if it declares `records_calls`."""
        for who in (_CALLER, _replica(0)):
            has = self._make_recorder(self.monitor(), who) is not None
            assert has == self.declares("records_calls")

    @needs("records_calls")
    def test_every_outcome_and_duration_is_taken(self) -> None:
        """A recorder accepts every outcome and duration without an exception. After one it would get no more calls."""
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
        """A pickled snapshot, as from another process, gives the same summary."""
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
        """A snapshot never fails while workers record calls, and does not stop them. It may lag by a call."""
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
        """Each call is counted once under its own outcome, both on a replica and on the calling side."""
        for who in (_CALLER, _replica(0)):
            for outcome in _OUTCOMES:
                monitor = self.monitor()
                recorder = self._recorder(monitor, who)
                recorder.writer()(1, outcome, 0.5, 0.0)
                recorder.writer()(2, outcome, 0.0, 0.5)
                assert self.outcomes(monitor.summary([recorder.snapshot()])) == {Outcome.NAMES[outcome]: 2}

    @needs("counts_calls")
    def test_replicas_and_calling_side_add_up(self) -> None:
        """The summary adds up the snapshots of replicas and calling side, in any order."""
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
    def test_replicas_have_monitors_of_their_own(self) -> None:
        """A replica's process makes its own monitor and sends only snapshots. The summary counts their calls."""
        monitor = self.monitor()
        snapshots = [self._recorder(monitor, _CALLER).snapshot()]
        for index in range(2):
            recorder = self._recorder(self.monitor(), _replica(index))
            recorder.writer()(0, Outcome.OK, 0.25, 0.5)
            snapshots.append(pickle.loads(pickle.dumps(recorder.snapshot())))  # noqa: S301 - made here
        assert self.outcomes(monitor.summary(snapshots)) == {"ok": 2}

    @needs("counts_calls")
    def test_no_call_is_lost_among_workers(self) -> None:
        """Each worker has its own writer. Together they count every call."""
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
        """The counts of a worker remain after it ends, because threads of a pool come and go."""
        monitor = self.monitor()
        recorder = self._recorder(monitor, _replica(0))
        for _ in range(50):
            recorder.writer()(0, Outcome.OK, 0.0, 0.5)
        for _ in range(2):
            assert self.outcomes(monitor.summary([recorder.snapshot()])) == {"ok": 50}

    @needs("records_calls")
    def test_closed_recorder_keeps_what_it_counted(self) -> None:
        """A closed recorder keeps its counts, because a stopped replica is asked once more. It can be closed twice."""
        for who in (_CALLER, _replica(0)):
            monitor = self.monitor()
            recorder = self._recorder(monitor, who)
            recorder.writer()(0, Outcome.OK, 0.25, 0.5)
            before = self.lasting(monitor.summary([recorder.snapshot()]))
            recorder.close()
            recorder.close()
            assert self.lasting(monitor.summary([recorder.snapshot()])) == before

    # -- counts of replicas that left ----------------------------------------------------------------------------------

    def _merge(self, monitor: Monitor, *snapshots: Mapping[str, Any]) -> Mapping[str, Any]:
        assert isinstance(monitor, SnapshotMerger), "it declares 'merges_counts' and has no merge"
        return monitor.merge(snapshots)

    def _counted(self, monitor: Monitor, *calls: int) -> list[Mapping[str, Any]]:
        """Return the snapshots of replicas that ran *calls* calls each, with various outcomes and durations."""
        snapshots = []
        for index, number in enumerate(calls):
            recorder = self._recorder(monitor, _replica(index))
            record = recorder.writer()
            for turn in range(number):
                record(turn % 3, (index + turn) % len(_OUTCOMES), 0.125 * index, 0.25 * turn)
            snapshots.append(recorder.snapshot())
        return snapshots

    @needs("records_calls", "merges_counts")
    def test_merge_says_what_its_parts_say(self) -> None:
        """A merged snapshot gives the same summary as its parts, in any grouping and order, also after pickling."""
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
        """A merged snapshot does not grow: a service that restarts daily keeps no more in a year than in a week."""
        monitor = self.monitor()
        (part,) = self._counted(monitor, 9)
        kept, sizes = part, {}
        for turn in range(400):
            kept = self._merge(monitor, kept, part)
            sizes[turn] = len(pickle.dumps(kept))
        assert sizes[399] <= 2 * sizes[9]

    # -- events and refused calls ------------------------------------------------------------------------------------

    def test_events_never_block(self) -> None:
        """`event` never blocks, however many events nobody reads."""
        monitor = self.monitor()

        def tell() -> None:
            for number in range(10_000):
                monitor.event(_event(number))

        self._in_time(tell)

    def test_refused_calls_never_block(self) -> None:
        """`refused` never blocks, because overload refuses thousands of calls."""
        monitor = self.monitor()
        self._make_recorder(monitor, _CALLER)

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
        """A refused call was not accepted, and counts under no outcome."""
        monitor = self.monitor()
        recorder = self._recorder(monitor, _CALLER)
        monitor.refused(0, "overloaded")
        monitor.refused(1, "stopped")
        assert self.outcomes(monitor.summary([recorder.snapshot()])) == {}

    @needs("keeps_events")
    def test_events_are_kept_in_order(self) -> None:
        """A monitor keeps the latest events with their reasons, the oldest first."""
        monitor = self.monitor()
        told = [_event(number) for number in range(20)]
        for event in told:
            monitor.event(event)
        kept = self.events(monitor.summary([]))
        assert kept
        assert list(kept) == [(event.kind, event.reason) for event in told[-len(kept) :]]

    @needs("keeps_events")
    def test_events_of_many_threads_are_kept_once(self) -> None:
        """Events from many threads are kept at most once, and no others appear."""
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
        """The number of kept events is bounded: a year keeps no more than a day."""
        monitor = self.monitor()
        lengths = set()
        for turn in range(2):
            for number in range(20_000):
                monitor.event(_event(turn * 20_000 + number))
            lengths.add(len(self.events(monitor.summary([]))))
        assert len(lengths) == 1

    # -- summaries ---------------------------------------------------------------------------------------------------

    def test_summary_needs_no_snapshot(self) -> None:
        """A monitor has a summary without any snapshot, because a service has a status before it starts."""
        assert isinstance({**self.monitor().summary([])}, dict)

    def test_summary_changes_nothing(self) -> None:
        """A summary changes nothing: the next one is equal."""
        monitor = self.monitor()
        recorder = self._make_recorder(monitor, _replica(0))
        if recorder is not None:
            recorder.writer()(0, Outcome.OK, 0.25, 0.5)
        monitor.event(_event(1))
        snapshots = [] if recorder is None else [recorder.snapshot()]
        first = monitor.summary(snapshots)
        assert monitor.summary(snapshots) == first
        assert recorder is None or monitor.summary([recorder.snapshot()]).keys() == first.keys()

    def test_status_can_be_read_in_the_middle(self) -> None:
        """A signal handler may read the status while the same thread records a call or an event."""
        monitor = self.monitor()
        recorders = [each for each in (self._make_recorder(monitor, who) for who in (_CALLER, _replica(0))) if each]
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
        """Two services' monitors are separate: events and calls of one do not appear in the other's summary."""
        ours, theirs = self.monitor(), self.monitor()
        before = theirs.summary([])
        recorder = self._make_recorder(ours, _replica(0))
        if recorder is not None:
            recorder.writer()(0, Outcome.ERROR, 0.25, 0.5)
        ours.event(_event(1))
        ours.refused(0, "stopped")
        assert theirs.summary([]) == before

    def test_close_is_idempotent_and_keeps_the_summary(self) -> None:
        """`close` can be called twice. The status can still be read, and late events and refused calls are accepted."""
        monitor = self.monitor()
        self._make_recorder(monitor, _CALLER)
        monitor.event(_event(1))
        before = monitor.summary([])
        monitor.close()
        monitor.close()
        assert monitor.summary([]) == before
        monitor.event(_event(2))
        monitor.refused(0, "stopped")
        monitor.summary([])
