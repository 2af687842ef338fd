"""Each faulty monitor below fails the conformance case that proves the rule it breaks."""

from __future__ import annotations

import collections
import queue
import threading
import time
import weakref

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_threading
from sage_deploy_testing.suites.monitor_conformance import MONITOR_CAPABILITIES, MonitorConformance
from sage_deploy_testing.suites.service_conformance import ServiceConformance
from sage_plugins.hookspecs import hookimpl
from sage_plugins.interfaces import Family, QuietMonitor
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Outcome, Registration


class SoundRecorder:
    """One counter for each worker."""

    def __init__(self, who):
        self.who = who
        self.counters = []

    def writer(self):
        counter = collections.Counter()
        self.counters.append(counter)

        def record(_method, outcome, _wait_s, _run_s):
            counter[outcome] += 1

        return record

    def snapshot(self):
        return dict(sum(map(collections.Counter.copy, tuple(self.counters)), collections.Counter()))

    def close(self):
        pass


class Sound(QuietMonitor):
    """A correct monitor: it counts calls and keeps events."""

    Recorder = SoundRecorder

    def __init__(self, _options=None):
        self.latest = collections.deque(maxlen=100)
        self.refusals = collections.Counter()

    def recorder(self, who, _methods):
        return self.Recorder(who)

    def refused(self, _method, reason):
        self.refusals[reason] += 1

    def event(self, event):
        self.latest.append({"kind": event.kind, "reason": event.reason, "replica": event.replica})

    def summary(self, snapshots):
        total = sum(map(collections.Counter, snapshots), collections.Counter())
        return {
            "outcomes": {Outcome.NAMES[outcome]: number for outcome, number in total.items()},
            "latest": tuple(self.latest),
        }

    def merge(self, snapshots):
        return dict(sum(map(collections.Counter, snapshots), collections.Counter()))

    def attach(self, _service):
        pass

    def families(self, snapshots):
        values = {(name,): number for name, number in self.summary(snapshots)["outcomes"].items()}
        return [Family("sound_calls_total", "counter", "Calls.", ("outcome",), values)]


# -- optional members --------------------------------------------------------------------------------------------------


class CannotMerge(Sound):
    """It declares `merge` but does not have it."""

    merge = None


class CannotAttach(Sound):
    """It declares `attach` but does not have it."""

    attach = None


class CannotExport(Sound):
    """It declares `families` but does not have it."""

    families = None


class Mislabels(Sound):
    """The label values of its metrics do not match the declared labels."""

    def families(self, snapshots):
        return [family._replace(labels=()) for family in super().families(snapshots)]


# -- what is counted ---------------------------------------------------------------------------------------------------


class CountsTwice(Sound):
    """It counts each call twice."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()
            return lambda *call: [record(*call), record(*call)]


class LosesTimeouts(Sound):
    """It does not count calls that timed out."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()
            return lambda method, outcome, *times: outcome == Outcome.TIMEOUT or record(method, outcome, *times)


class CountsLate(Sound):
    """It counts a call only when the next one ends."""

    class Recorder(SoundRecorder):
        def writer(self):
            record, before = super().writer(), []

            def late(*call):
                if before:
                    record(*before.pop())
                before.append(call)

            return late


class CountsTheGivenUpTwice(Sound):
    """It counts a call that was given up while it ran as a waiting call too."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()
            twice = self.who.replica is None
            return lambda *call: [record(*call) for _ in range(2 if twice and call[3] else 1)]


class ForgetsWhenClosed(Sound):
    """When its recorder is closed, the counts are lost."""

    class Recorder(SoundRecorder):
        def close(self):
            self.counters.clear()


class FirstOnly(Sound):
    """It reports the counts of the first replica as those of all replicas."""

    def summary(self, snapshots):
        return super().summary(snapshots[:1])


class SumsItsOwn(Sound):
    """It ignores the snapshots of the replicas and sums up only what its own recorders counted."""

    def __init__(self, _options=None):
        super().__init__()
        self.recorders = []

    def recorder(self, who, methods):
        self.recorders.append(super().recorder(who, methods))
        return self.recorders[-1]

    def summary(self, _snapshots):
        return super().summary([each.snapshot() for each in self.recorders])


class OneCell(Sound):
    """All workers share one counter without a lock, so updates get lost."""

    class Recorder(SoundRecorder):
        def writer(self):
            self.counters = self.counters or [collections.Counter()]
            (counter,) = self.counters

            def record(_method, outcome, _wait_s, _run_s):
                before = counter[outcome]
                for _ in range(20):
                    pass
                counter[outcome] = before + 1

            return record


class CountsRefused(Sound):
    """It counts a refused call as an error."""

    def summary(self, snapshots):
        return super().summary([*snapshots, {Outcome.ERROR: self.refusals.total()}])


class Mortal(Sound):
    """When a worker ends, its counts are lost."""

    class Recorder(SoundRecorder):
        def __init__(self, who):
            super().__init__(who)
            self.alive = []

        def writer(self):
            record = super().writer()
            self.alive.append((weakref.ref(record), self.counters[-1]))
            return record

        def snapshot(self):
            self.counters = [counter for worker, counter in self.alive if worker() is not None]
            return super().snapshot()


# -- counts of replicas that left --------------------------------------------------------------------------------------


class MergesTheLatest(Sound):
    """Merging keeps only the last snapshot."""

    def merge(self, snapshots):
        return snapshots[-1]


class KeepsParts(Sound):
    """Each merge adds an entry, so its memory grows without bound."""

    def merge(self, snapshots):
        merges = sum(len(snapshot) for snapshot in snapshots)
        return {Outcome.OK: 0} | dict.fromkeys(range(-merges, 0), 0) | super().merge(snapshots)


# -- recorders ---------------------------------------------------------------------------------------------------------


class Absent(Sound):
    """It declares that it records calls but has no recorder."""

    def recorder(self, _who, _methods):
        return None


class Narrow(Sound):
    """Its histogram ends at one hour."""

    class Recorder(SoundRecorder):
        def writer(self):
            record = super().writer()

            def narrow(method, outcome, wait_s, run_s):
                range(60)[int((wait_s + run_s) / 60)]
                record(method, outcome, wait_s, run_s)

            return narrow


class Stationary(Sound):
    """Its snapshot cannot be pickled."""

    class Recorder(SoundRecorder):
        def snapshot(self):
            return collections.defaultdict(lambda: 0, super().snapshot())


class Torn(Sound):
    """It takes its snapshot while workers change the data."""

    class Recorder(SoundRecorder):
        def writer(self):
            super().writer()
            durations = self.counters[-1]

            def record(_method, outcome, wait_s, run_s):
                durations[wait_s + run_s + outcome] = outcome

            return record

        def snapshot(self):
            found = collections.Counter()
            for counter in self.counters:
                for duration in counter:
                    found[counter[duration]] += 1
            return found


# -- events and refused calls ------------------------------------------------------------------------------------------


class Blocking(Sound):
    """It puts events into a bounded queue, which gets full."""

    def __init__(self, _options=None):
        super().__init__()
        self.queue = queue.Queue(maxsize=100)

    def event(self, event):
        # The timeout lets the test's thread end.
        self.queue.put(event, timeout=1.0)


class BlockingRefusals(Sound):
    """It writes each refused call down, which takes time."""

    def refused(self, method, reason):
        super().refused(method, reason)
        time.sleep(0.001)


class Reversed(Sound):
    """It keeps the latest event first."""

    def event(self, event):
        self.latest.appendleft({"kind": event.kind, "reason": event.reason})


class Repeating(Sound):
    """It keeps each event twice."""

    def event(self, event):
        super().event(event)
        super().event(event)


class Hoarding(Sound):
    """It keeps all events, without a bound."""

    def __init__(self, _options=None):
        super().__init__()
        self.latest = collections.deque()


class DeafToReplicas(Sound):
    """It ignores the events of replicas."""

    def event(self, event):
        if not event.kind.startswith("replica_"):
            super().event(event)


class DeafToChanges(Sound):
    """It ignores the events of the service."""

    def event(self, event):
        if event.kind.startswith("replica_"):
            super().event(event)


# -- summaries and the end ---------------------------------------------------------------------------------------------


class NeedsCalls(Sound):
    """Its summary needs at least one snapshot."""

    def summary(self, snapshots):
        first, *others = snapshots
        return super().summary([first, *others])


class Draining(Sound):
    """Reading the summary removes the events."""

    def summary(self, snapshots):
        summary = super().summary(snapshots)
        self.latest.clear()
        return summary


class Locking(Sound):
    """A lock that is not reentrant guards the events. The monitor waits for it for longer than the suite does."""

    def __init__(self, _options=None):
        super().__init__()
        self.lock = threading.Lock()
        self.tired = False

    def event(self, event):
        with self.lock:
            super().event(event)

    def summary(self, snapshots):
        if not self.tired and self.lock.acquire(timeout=0.6):
            self.lock.release()
        else:
            self.tired = True
        return super().summary(snapshots)


SHARED = collections.deque(maxlen=100)


class OneForAll(Sound):
    """All services share one list of events."""

    def __init__(self, _options=None):
        super().__init__()
        self.latest = SHARED


class ClosesOnce(Sound):
    """The second `close` raises."""

    def close(self):
        del self.latest_file

    latest_file = property(lambda self: None)


class ClosesForGood(Sound):
    """Closing deletes its events."""

    def close(self):
        self.latest.clear()


class Rude(Sound):
    """It raises at each event."""

    def event(self, event):
        super().event(event)
        raise RuntimeError("not now")


class Late(Sound):
    """Its summary lacks the events before the first call."""

    def summary(self, snapshots):
        summary = super().summary(snapshots)
        return summary if summary["outcomes"] else {"outcomes": {}}


class Boasting(Sound):
    """It declares an unknown capability."""


ALL = frozenset(MONITOR_CAPABILITIES)
CALLS = {"records_calls", "counts_calls"}
COUNTS = {*CALLS, "merges_counts"}
EVENTS = {"records_calls", "keeps_events"}
FAULTS = [
    (ForgetsWhenClosed, "test_closed_recorder_keeps_what_it_counted", CALLS),
    (CountsTwice, "test_each_outcome_counts_once", CALLS),
    (CountsTwice, "test_calls_of_many_threads_count_once_each", CALLS),
    (LosesTimeouts, "test_each_outcome_counts_once", CALLS),
    (LosesTimeouts, "test_outcomes_are_what_callers_saw", CALLS),
    (CountsLate, "test_call_is_counted_before_its_caller_is_released", CALLS),
    (CountsTheGivenUpTwice, "test_call_given_up_while_it_runs_counts_once", CALLS),
    (FirstOnly, "test_replicas_and_calling_side_add_up", CALLS),
    (OneCell, "test_no_call_is_lost_among_workers", CALLS),
    (CountsRefused, "test_refused_calls_are_no_calls", CALLS),
    (Mortal, "test_what_a_worker_counted_outlives_it", CALLS),
    (Absent, "test_recorders_are_there_as_declared", CALLS),
    (Narrow, "test_every_outcome_and_duration_is_taken", CALLS),
    (Stationary, "test_snapshot_travels", CALLS),
    (Torn, "test_snapshot_is_taken_while_calls_are_recorded", CALLS),
    (SumsItsOwn, "test_replicas_have_monitors_of_their_own", CALLS),
    (CannotMerge, "test_optional_members_are_there_as_declared", COUNTS),
    (CannotExport, "test_optional_members_are_there_as_declared", ALL),
    (Mislabels, "test_metrics_can_be_told", ALL),
    (CannotAttach, "test_optional_members_are_there_as_declared", ALL),
    (Sound, "test_optional_members_are_there_as_declared", COUNTS),  # undeclared `attach`
    (Sound, "test_optional_members_are_there_as_declared", {*CALLS, "watches_service"}),  # undeclared `merge`
    (MergesTheLatest, "test_merge_says_what_its_parts_say", COUNTS),
    (MergesTheLatest, "test_counts_of_replicas_that_left_stay", COUNTS),
    (KeepsParts, "test_merge_needs_bounded_memory", COUNTS),
    (Blocking, "test_events_never_block", EVENTS),
    (BlockingRefusals, "test_refused_calls_never_block", EVENTS),
    (Reversed, "test_events_are_kept_in_order", EVENTS),
    (Repeating, "test_events_of_many_threads_are_kept_once", EVENTS),
    (Hoarding, "test_events_need_bounded_memory", EVENTS),
    (DeafToReplicas, "test_life_of_the_replicas_is_told", EVENTS),
    (DeafToChanges, "test_changes_are_told_with_their_reasons", EVENTS),
    (NeedsCalls, "test_summary_needs_no_snapshot", CALLS),
    (Draining, "test_summary_changes_nothing", EVENTS),
    (Locking, "test_status_can_be_read_in_the_middle", EVENTS),
    (OneForAll, "test_monitors_of_two_services_are_apart", EVENTS),
    (ClosesOnce, "test_close_is_idempotent_and_keeps_the_summary", EVENTS),
    (ClosesForGood, "test_close_is_idempotent_and_keeps_the_summary", EVENTS),
    (Rude, "test_core_finds_no_fault_with_it", EVENTS),
    (Late, "test_status_is_there_at_any_time", EVENTS),
    (Boasting, "test_declared_capabilities", {"reads_minds"}),
]

#: The ways in which a case fails. A skipped case has found nothing.
FAILURES = (Exception, pytest.fail.Exception)


def suite_of(monitor, capabilities):
    """Return the suite for a monitor that is not installed."""

    class Plugin:
        @hookimpl
        def sage_register_monitors(self):
            return [Registration("faulty", monitor, "Of the tests", capabilities=frozenset(capabilities))]

    registry = Registry.of(Plugin(), sage_deploy_balancers, sage_deploy_local, sage_deploy_threading)

    class Suite(MonitorConformance):
        plugin_id = "faulty"
        patience = 0.3 if monitor in (Locking, Blocking, BlockingRefusals) else MonitorConformance.patience

        def registry(self):
            return registry

    return Suite()


def run(suite, case):
    """Run one case in the way that pytest does."""
    function = getattr(suite, case)
    assert suite.unsupported(function) is None
    arguments = {"record_property": lambda *_: None}
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    with suite.stage():
        function(**{name: value for name, value in arguments.items() if name in wanted})


@pytest.mark.leaves_threads("of calls that block", prefix="caller-")
@pytest.mark.parametrize(("fault", "case", "capabilities"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_fault_is_found(fault, case, capabilities):
    """The case that proves a rule fails for the monitor that breaks it."""
    with pytest.raises(FAILURES):
        run(suite_of(fault, capabilities), case)


CASES = [name for name in dir(MonitorConformance) if name.startswith("test_") and not hasattr(ServiceConformance, name)]


@pytest.mark.parametrize("case", [*CASES, "test_declared_capabilities"])
def test_sound_one_passes(case):
    """All cases pass for the correct monitor."""
    run(suite_of(Sound, ALL), case)


@pytest.mark.parametrize(
    "case",
    [
        "test_recorders_are_there_as_declared",
        "test_merge_says_what_its_parts_say",
        "test_status_can_be_read_in_the_middle",
    ],
)
def test_recorders_of_a_case_are_closed(case):
    """A case closes each recorder that it made, so recorders may hold files."""
    made = []

    class Holding(Sound):
        class Recorder(SoundRecorder):
            def __init__(self, who):
                super().__init__(who)
                self.closed = False
                made.append(self)

            def close(self):
                self.closed = True

    run(suite_of(Holding, ALL), case)
    assert made
    assert all(recorder.closed for recorder in made)


def test_every_case_finds_something():
    """Each case for monitors fails for at least one of the faulty monitors."""
    assert {case for _, case, _ in FAULTS} >= set(CASES)


def test_what_is_not_declared_is_reported():
    """A case that needs an undeclared capability is skipped, and the reason names the capability."""
    suite = suite_of(Sound, {"records_calls"})
    reason = suite.unsupported(suite.test_events_are_kept_in_order)
    assert reason == "declared unsupported: 'faulty' does not declare 'keeps_events'"
