"""Each faulty monitor fails the conformance case that proves the rule it breaks."""

from __future__ import annotations

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_threading
from misbehaving_monitors import (
    Absent,
    Blocking,
    BlockingRefusals,
    Boasting,
    ClosesForGood,
    ClosesOnce,
    DeafToChanges,
    DeafToReplicas,
    Draining,
    Hoarding,
    Late,
    Locking,
    Narrow,
    NeedsCalls,
    OneForAll,
    Repeating,
    Reversed,
    Rude,
    Stationary,
    Torn,
)
from miscounting_monitors import (
    CannotAttach,
    CannotExport,
    CannotMerge,
    CountsLate,
    CountsRefused,
    CountsTheGivenUpTwice,
    CountsTwice,
    FirstOnly,
    ForgetsWhenClosed,
    KeepsParts,
    LosesTimeouts,
    MergesTheLatest,
    Mislabels,
    Mortal,
    OneCell,
    SumsItsOwn,
)
from sage_deploy_testing.suites.monitor_conformance import MONITOR_CAPABILITIES, MonitorConformance
from sage_deploy_testing.suites.service_conformance import ServiceConformance
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration
from sound_monitor import Sound, SoundRecorder

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
