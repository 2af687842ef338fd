"""
Each strategy below breaks one rule, and the conformance case that proves this rule fails for it.

A check that has never failed proves nothing.
"""

from __future__ import annotations

import contextvars
import threading
from queue import Empty
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pytest

import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
from sage_deploy_testing import StrategyConformance
from sage_deploy_testing.suites.probes import Living, ProbeError
from sage_plugins import hookimpl
from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE = frozenset({"ordered", "one_at_a_time", "releases_at_deadline"})
MANY = frozenset({"concurrent", "releases_at_deadline"})


class Workers:
    """A correct runner: as many threads as configured, one slot for each."""

    run_here = None

    def __init__(self, seat):
        self.seat = seat
        self.slots = self.size()
        self.stopped = False
        self.threads = [seat.spawn(self.work, f"worker-{number}") for number in range(self.slots)]

    def size(self):
        return self.seat.limits.threads

    def work(self):
        get, execute = self.seat.get, self.seat.worker()
        while self.do(execute, get()):
            pass

    def do(self, execute, work):
        return execute(work)

    def stats(self):
        return RunnerStats(threads=sum(thread.is_alive() for thread in self.threads))

    def stop(self, grace):
        if not self.stopped:
            self.stopped = True
            for _ in self.threads:
                self.seat.end_worker()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(grace / len(self.threads))
        return sum(thread.is_alive() for thread in self.threads)


class Drops(Workers):
    """Loses every 20th call."""

    calls = 0

    def do(self, execute, work):
        self.calls += isinstance(work, Call)
        return True if isinstance(work, Call) and self.calls % 20 == 0 else execute(work)


class RunsTwice(Workers):
    """Runs every call a second time."""

    def do(self, execute, work):
        if isinstance(work, Call):
            context = work.context
            twice = Around(context, lambda run: (run(), run())[1])
            work.context = twice
        return execute(work)


class RunsTwoAtOnce(Workers):
    """Declares that it runs one call at a time, but runs two."""

    def size(self):
        return 2


class TakesTurns(Workers):
    """Runs one call at a time, but each on a new thread."""

    def do(self, execute, work):
        self.seat.spawn(lambda: execute(work), "turn").join()
        return work is not None


class IgnoresDeadlines(Workers):
    """Runs the method in the caller's thread, so the caller waits past its deadline."""

    def __init__(self, seat):
        self.run_here = seat.worker()
        self.threads = []
        self.slots = 1
        self.stopped = True


class NewestFirst(Workers):
    """Takes more calls than it can run, and runs the newest first."""

    def __init__(self, seat):
        super().__init__(seat)
        self.slots = 8

    def work(self):
        get, execute = self.seat.get, self.seat.worker()
        taken: list[Any] = [get()]
        while execute(taken.pop()):
            while not taken or self.seat.waiting():
                taken.append(get())


class HooksElsewhere(Workers):
    """Has another thread build the instance."""

    built = False

    def do(self, execute, work):
        if self.built:
            return execute(work)
        self.built = True
        self.seat.spawn(lambda: execute(work), "builder").join()
        return True


class DiesOfErrors(Workers):
    """Loses its thread and the slot when a method raises something that is not an `Exception`."""

    def do(self, execute, work):
        died = []

        def mark(run):
            try:
                return run()
            except Exception:
                raise
            except BaseException:
                died.append(True)
                raise

        if isinstance(work, Call):
            work.context = Around(work.context, mark)
        return execute(work) and not died


class LeavesItsThread(Workers):
    """Does not end its threads."""

    left: ClassVar[list[Workers]] = []

    def stop(self, grace):
        self.left.append(self)
        return 0


class StopsOnce(Workers):
    """Cannot be stopped twice."""

    def stop(self, grace):
        if self.stopped:
            raise RuntimeError("already stopped")
        return super().stop(grace)


class WaitsForEver(Workers):
    """Waits for stuck threads without a useful limit."""

    def stop(self, grace):
        return super().stop(1000)


class RunsCancelledCalls(Workers):
    """Takes more calls than it can run, and also runs the calls that were cancelled meanwhile."""

    def __init__(self, seat):
        super().__init__(seat)
        self.slots = 20

    def do(self, execute, work):
        if isinstance(work, Call) and work.cancelled():
            work._unstarted = True
        return execute(work)


class RunsCancelledItems(Workers):
    """Runs calls of a batch that were cancelled before the batch was full."""

    def do(self, execute, work):
        if isinstance(work, Batch):
            for call in work.calls:
                if call.cancelled():
                    call._unstarted = True
        return execute(work)


class MergesBatches(Workers):
    """Takes two batches at a time and merges them into one."""

    def __init__(self, seat):
        super().__init__(seat)
        self.slots = 2

    def do(self, execute, work):
        if not isinstance(work, Batch):
            return execute(work)
        try:
            other = self.seat.get_within(0.2)
        except Empty:
            return execute(work)
        if isinstance(other, Batch):
            work.calls, other.calls = work.calls + other.calls, []
        return execute(work) and execute(other)


class SwallowsErrors(Workers):
    """Returns a result where the method raised an error."""

    def do(self, execute, work):
        def swallow(run):
            try:
                return run()
            except ProbeError:
                return None

        if isinstance(work, Call):
            work.context = Around(work.context, swallow)
        return execute(work)


class ForgetsTheContext(Workers):
    """Runs methods without their callers' context variables."""

    def do(self, execute, work):
        if isinstance(work, Call):
            work.context = contextvars.Context()
        return execute(work)


class SharesItsContext(Workers):
    """Runs all methods in the same context."""

    def __init__(self, seat):
        self.context = contextvars.Context()
        super().__init__(seat)

    def do(self, execute, work):
        if isinstance(work, Call):
            work.context = self.context
        return execute(work)


class TooMany(Workers):
    """Runs more calls at once than configured."""

    def size(self):
        return self.seat.limits.threads + 1


class TooFew(Workers):
    """Has fewer threads than slots."""

    def __init__(self, seat):
        super().__init__(seat)
        self.slots += 1


class IdleThreads(Workers):
    """Has many more threads than slots."""

    def __init__(self, seat):
        super().__init__(seat)
        self.slots -= 2


class CountsWrong(Workers):
    """Reports that it has no threads."""

    def stats(self):
        return RunnerStats(threads=0)


class Around:
    """A context that wraps the call that runs in it."""

    def __init__(self, context, around):
        self.context = context
        self.around = around

    def run(self, function, *args):
        return self.around(lambda: self.context.run(function, *args))


class Fault(NamedTuple):
    runner: type[Workers]
    case: str
    arguments: Mapping[str, Any] = MappingProxyType({})
    capabilities: frozenset[str] = ONE


FAULTS = [
    Fault(Drops, "test_calls_of_many_threads_each_run_once"),
    Fault(Drops, "test_calls_of_many_threads_each_run_on_one_replica", {"balancer": "round_robin"}),
    Fault(RunsTwice, "test_calls_of_many_threads_each_run_once"),
    Fault(RunsTwoAtOnce, "test_one_call_at_a_time"),
    Fault(TakesTurns, "test_everything_runs_on_one_thread"),
    Fault(IgnoresDeadlines, "test_deadline_while_the_method_runs", {"verb": "call"}, ONE | {"in_callers_thread"}),
    Fault(NewestFirst, "test_calls_of_one_caller_run_in_order"),
    Fault(HooksElsewhere, "test_hooks_run_where_calls_run", {"service_class": Living}),
    Fault(
        DiesOfErrors,
        "test_exit_becomes_remote_error_and_the_worker_lives",
        {"verb": "submit", "method": "fail_as", "kind": SystemExit},
    ),
    Fault(LeavesItsThread, "test_no_thread_is_left_after_close"),
    Fault(StopsOnce, "test_hooks_run_once_each_in_order"),
    Fault(WaitsForEver, "test_close_does_not_wait_for_abandoned_calls"),
    Fault(RunsCancelledCalls, "test_call_is_started_or_cancelled_never_both"),
    Fault(SwallowsErrors, "test_exception_keeps_type_and_content", {"verb": "call", "method": "fail"}),
    Fault(SwallowsErrors, "test_error_comes_after_the_items", {"verb": "stream"}),
    Fault(RunsTwice, "test_items_come_in_order", {"method": "produce", "verb": "stream"}),
    Fault(RunsCancelledItems, "test_cancelled_call_is_left_out_of_its_open_batch", {"method": "get"}),
    Fault(MergesBatches, "test_no_batch_is_larger_than_batch_size", {"method": "get"}),
    Fault(ForgetsTheContext, "test_method_sees_the_callers_context_variables", {"verb": "call"}),
    Fault(SharesItsContext, "test_methods_changes_of_context_variables_stay_with_its_call", {"verb": "call"}),
    Fault(TooMany, "test_as_many_calls_run_at_once_as_configured", {"at_once": 2}, MANY),
    Fault(TooMany, "test_never_more_calls_at_once_than_slots", {}, MANY),
    Fault(TooFew, "test_as_many_calls_run_at_once_as_configured", {"at_once": 2}, MANY),
    Fault(TooFew, "test_calls_from_within_get_as_far_as_there_are_slots"),
    Fault(IdleThreads, "test_threads_are_bounded_by_slots", {}, MANY),
    Fault(CountsWrong, "test_threads_are_bounded_by_slots", {}, MANY),
    Fault(Workers, "test_coroutines_meet_on_the_event_loop", {}, MANY | {"event_loop"}),
    Fault(Workers, "test_declared_capabilities", {}, ONE | {"telepathy"}),
]


class Starts:
    def __init__(self, runner):
        self.start = runner


class Suite(StrategyConformance):
    """Runs the suite on a strategy that is not installed."""

    plugin_id = "under_test"

    def __init__(self, runner, capabilities, patience):
        self.patience = patience

        class Plugin:
            @hookimpl
            def sage_register_threading_strategies(self):
                create = lambda _: Starts(runner)  # noqa: E731 - it never leaves this process
                return [Registration("under_test", create, "Under test", capabilities=capabilities)]

        self.plugins = Registry.of(sage_deploy_local, sage_deploy_monitors, sage_deploy_balancers, Plugin())

    def registry(self):
        return self.plugins

    def run(self, case, arguments):
        method = getattr(self, case)
        assert self.unsupported(method) is None
        with self.stage():
            method(**arguments)


@pytest.fixture(autouse=True)
def _end_what_faults_leave():
    yield
    while LeavesItsThread.left:
        Workers.stop(LeavesItsThread.left.pop(), 20.0)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.runner.__name__}-{fault.case[5:]}")
def test_fault_is_caught(fault):
    """The case that proves a rule fails for the strategy that breaks it."""
    suite = Suite(fault.runner, fault.capabilities, patience=1.0)
    with pytest.raises((Exception, pytest.fail.Exception)):
        suite.run(fault.case, fault.arguments)


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.runner is not Workers], ids=lambda fault: fault.case
)
def test_sound_strategy_passes(fault):
    """The same case passes for the correct strategy from which the faulty ones are derived."""
    suite = Suite(Workers, fault.capabilities - {"in_callers_thread"}, patience=20.0)
    suite.run(fault.case, fault.arguments)
