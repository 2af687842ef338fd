"""
Each target below breaks one rule, and the conformance case that proves this rule fails for it.

A check that has never failed proves nothing.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_deploy_testing import TargetConformance
from sage_deploy_testing.suites.probes import ProbeError
from sage_plugins import hookimpl
from sage_plugins.call.call import Call
from sage_plugins.errors import DeployError
from sage_plugins.interfaces import ControlOp
from sage_plugins.plugins.registry import Registry
from sage_plugins.routing.slot_recovery.recovery import SlotRecovery
from sage_plugins.service.factory import ServiceContext
from sage_plugins.values import Registration, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Mapping


class Events:
    """Replica events, changed by the target before the core gets them."""

    def __init__(self, events):
        self.freed, self.follow, self.lost, self.service = events.freed, events.follow, events.lost, events.service
        self.changed = events.changed


class Misreports(LocalTarget):
    """A target whose subclasses change the states that it reports."""

    def start(self, spec, at, events, clock):
        heard = Events(events)
        heard.changed = lambda state, cause=None: self.report(events.changed, state, cause)
        return super().start(spec, at, heard, clock)


class ReadyTooEarly(Misreports):
    """Says that replicas are ready as soon as they start."""

    def report(self, changed, state, cause):
        changed(ReplicaState.READY if state is ReplicaState.STARTING else state, cause)


class HidesFailures(Misreports):
    """Does not report that a replica failed."""

    def report(self, changed, state, cause):
        if state is not ReplicaState.FAILED:
            changed(state, cause)


class ForgetsTheCause(Misreports):
    """Reports that a replica failed, without the cause."""

    def report(self, changed, state, cause):
        changed(state, None)


class StartsWhenAsked(LocalTarget):
    """Builds an instance to place a replica."""

    def place(self, specs):
        for spec in specs:
            spec.factory.create_service(ServiceContext(spec.service, spec.index, None))
        return super().place(specs)


class PlacesTooFew(LocalTarget):
    """Gives no answer for one of the replicas."""

    def place(self, specs):
        return super().place(specs)[1:]


class PlacesWithoutAReason(LocalTarget):
    """Refuses to place a replica without a reason."""

    def place(self, specs):
        return [place._replace(reason="") for place in super().place(specs)]


class ClosesOnce(LocalTarget):
    """The second `close` raises."""

    closed = False

    def close(self):
        if self.closed:
            raise RuntimeError("already closed")
        self.closed = True


class NeverStops(LocalTarget):
    """Does not stop its replicas."""

    left: list[Any] = []  # noqa: RUF012 - of all targets of the class

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        self.left.append(replica.stop)
        replica.stop = lambda grace: 0
        replica.begin_stop = lambda: None
        return replica


class AsksInASlot(LocalTarget):
    """Answers control requests only when the replica runs no call."""

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        sent = []
        send, control = replica.send, replica.control

        def remember(work):
            sent.append(work)
            send(work)

        def asked(op, arg=None, *, timeout):
            concurrent.futures.wait([work for work in sent if isinstance(work, Call)], 2.0)
            return control(op, arg, timeout=timeout)

        replica.send, replica.control = remember, asked
        return replica


class AnswersItself(LocalTarget):
    """Reports every replica as healthy without asking it."""

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        control = replica.control
        replica.control = lambda op, arg=None, *, timeout: (
            op is not ControlOp.STATS or control(op, arg, timeout=timeout)
        )
        return replica


class SaysThatItWaits(LocalTarget):
    """Reports that a replica waits for a place while its constructor runs."""

    capabilities = ("reports_progress",)

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        replica.progress = lambda *, timeout: "it waits for a place"
        return replica


class Elsewhere(LocalTarget):
    """Does not declare where its replicas are, so they get a canary."""

    in_process = False


class SwallowsWork(Elsewhere):
    """Starts replicas correctly, but sends no work to them."""

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        replica.send = lambda work: None
        return replica


class NeverAnswers(Elsewhere):
    """Starts replicas whose workers end after they have built the instance."""

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)
        replica.send = lambda work, send=replica.send: send(None)  # None ends a worker
        return replica


class CannotSend(Elsewhere):
    """Has no connection to its replicas."""

    def start(self, spec, at, events, clock):
        replica = super().start(spec, at, events, clock)

        def send(work):
            raise ConnectionError("no route")

        replica.send = send
        return replica


class OneForAll(LocalTarget):
    """Starts one replica that answers for all."""

    first = None

    def start(self, spec, at, events, clock):
        if self.first is None:
            self.first = super().start(spec, at, events, clock)
        else:
            events.changed(ReplicaState.READY)
        return self.first


# -- slots and turns ---------------------------------------------------------------------------------------------------


class FreesTooEarly(LocalTarget):
    """Reports a call as ended as soon as it is sent."""

    def start(self, spec, at, events, clock):
        heard = Events(events)
        heard.follow = lambda ended: None
        replica = super().start(spec, at, heard, clock)
        send = replica.send

        def hurry(work):
            send(work)
            events.freed(work)

        replica.send = hurry
        return replica


class ForgetsWhatEnded(LocalTarget):
    """Reports a free slot without the call that has ended."""

    def start(self, spec, at, events, clock):
        heard = Events(events)
        heard.follow = lambda _ended: events.follow(None)
        return super().start(spec, at, heard, clock)


# -- what travels ------------------------------------------------------------------------------------------------------


class Relay(LocalTarget):
    """A target whose subclasses change the results of methods on their way."""

    relayed: tuple[str, ...]

    def start(self, spec, at, events, clock):
        return super().start(spec._replace(factory=RelayFactory(spec.factory, self)), at, events, clock)


class RelayFactory:
    def __init__(self, factory, relay):
        self.factory, self.relay = factory, relay

    def create_service(self, ctx):
        instance = self.factory.create_service(ctx)
        for name in self.relay.relayed:
            if hasattr(instance, name):
                setattr(instance, name, partial(self.relay.through, getattr(instance, name)))
        return instance


class StreamRelay(Relay):
    relayed = ("produce", "produce_and_report", "produce_and_fail")

    def through(self, method, *args):
        yield from method(*args)


class RunsAhead(StreamRelay):
    """Makes the producer yield a hundred items before anybody asks for the second."""

    def through(self, method, *args):
        items = method(*args)
        while some := list(itertools.islice(items, 100)):
            yield from some


class DropsItems(StreamRelay):
    """Loses every tenth item."""

    def through(self, method, *args):
        return (item for number, item in enumerate(method(*args), 1) if number % 10)


class SwapsItems(StreamRelay):
    """Swaps each pair of items."""

    def through(self, method, *args):
        items = method(*args)
        while pair := list(itertools.islice(items, 2)):
            yield from reversed(pair)


class NeverEndsProducers(StreamRelay):
    """Never tells the producer to stop when the caller wants no more items."""

    left: list[Any] = []  # noqa: RUF012 - of all targets of the class

    def through(self, method, *args):
        items = method(*args)
        self.left.append(items)
        return (item for item in items)


class LosesTheLastError(StreamRelay):
    """Ends a stream normally although its producer failed."""

    def through(self, method, *args):
        with contextlib.suppress(ProbeError):
            yield from method(*args)


class BatchRelay(Relay):
    relayed = ("get_many",)


class MixesUpResults(BatchRelay):
    """Gives each caller of a batch the result of another caller."""

    def through(self, method, keys):
        return list(reversed(method(keys)))


class OneFailsAll(BatchRelay):
    """Fails the whole batch when one of its calls fails."""

    def through(self, method, keys):
        results = method(keys)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results


class Fault(NamedTuple):
    target: type[LocalTarget]
    case: str
    arguments: Mapping[str, Any] = MappingProxyType({})
    strategy: str = "single"

    def arguments_in(self, folder):
        """Return the arguments of the case. A case that takes a folder gets *folder*."""
        return {name: folder if value is Path else value for name, value in self.arguments.items()}


FAULTS = [
    Fault(ReadyTooEarly, "test_replica_is_ready_when_its_start_hooks_have_ended"),
    Fault(HidesFailures, "test_start_that_raises_fails_the_deployment", {"step": "setup"}),
    Fault(ForgetsTheCause, "test_start_that_raises_fails_the_deployment", {"step": "init"}),
    Fault(StartsWhenAsked, "test_every_replica_is_placed_or_refused_with_a_reason"),
    Fault(PlacesTooFew, "test_every_replica_is_placed_or_refused_with_a_reason"),
    Fault(PlacesWithoutAReason, "test_every_replica_is_placed_or_refused_with_a_reason"),
    Fault(ClosesOnce, "test_every_replica_is_placed_or_refused_with_a_reason"),
    Fault(NeverStops, "test_hooks_run_once_each_in_order"),
    Fault(NeverStops, "test_no_thread_is_left_after_close"),
    Fault(AsksInASlot, "test_status_is_answered_while_every_slot_is_taken"),
    Fault(AsksInASlot, "test_checks_are_answered_while_every_slot_is_taken"),
    Fault(AnswersItself, "test_replica_that_says_it_is_ill_is_unhealthy_until_it_is_well", {"tmp_path": Path}),
    Fault(SwallowsWork, "test_canary_is_no_request"),
    Fault(NeverAnswers, "test_canary_is_no_request"),
    Fault(CannotSend, "test_canary_is_no_request"),
    Fault(ReadyTooEarly, "test_newcomers_get_no_call_before_their_constructor_has_ended"),
    Fault(HidesFailures, "test_scaling_whose_constructor_fails_leaves_the_service_as_it_was"),
    Fault(SaysThatItWaits, "test_scaling_whose_constructor_hangs_leaves_the_service_as_it_was"),
    Fault(NeverStops, "test_last_replicas_leave_and_run_their_hooks"),
    Fault(NeverStops, "test_restart_starts_each_before_it_stops_one"),
    Fault(OneForAll, "test_new_replicas_get_calls"),
    Fault(OneForAll, "test_each_replica_has_its_own_instance", {"balancer": "round_robin"}),
    Fault(OneForAll, "test_hooks_run_once_for_each_replica", {"balancer": "round_robin"}),
    Fault(FreesTooEarly, "test_never_more_calls_of_a_method_at_once_than_its_limit", {"most": 1}, "multi"),
    Fault(FreesTooEarly, "test_abandoned_method_keeps_its_turn", {}, "multi"),
    Fault(ForgetsWhatEnded, "test_cancelled_calls_of_a_limited_method_leave"),
    Fault(ForgetsWhatEnded, "test_as_many_calls_of_a_method_run_at_once_as_its_limit_allows", {}, "multi"),
    Fault(RunsAhead, "test_producer_is_not_far_ahead_of_its_consumer"),
    Fault(DropsItems, "test_items_come_in_order", {"method": "produce", "verb": "stream"}),
    Fault(SwapsItems, "test_items_come_in_order", {"method": "produce", "verb": "stream"}),
    Fault(
        NeverEndsProducers,
        "test_stream_that_nobody_wants_ends_its_producer",
        {"method": "produce", "how": "close"},
    ),
    Fault(LosesTheLastError, "test_error_comes_after_the_items", {"verb": "stream"}),
    Fault(MixesUpResults, "test_calls_that_wait_are_answered_together"),
    Fault(OneFailsAll, "test_bad_item_fails_alone", {"method": "get"}),
]


class Suite(TargetConformance):
    """Runs the suite on a target that is not installed."""

    plugin_id = "under_test"

    def __init__(self, target, strategy, patience):
        self.strategy = strategy
        self.patience = patience

        class Plugin:
            @hookimpl
            def sage_register_targets(self):
                here = ("in_process",) if getattr(target, "in_process", True) else ()
                capabilities = frozenset({*here, *getattr(target, "capabilities", ())})
                return [Registration("under_test", lambda _: target(), "Under test", capabilities=capabilities)]

        self.plugins = Registry.of(sage_deploy_threading, sage_deploy_monitors, sage_deploy_balancers, Plugin())

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
    while NeverStops.left:
        NeverStops.left.pop()(20.0)
    while NeverEndsProducers.left:
        with contextlib.suppress(OSError):  # nobody reads the reports of its end any more
            NeverEndsProducers.left.pop().close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.target.__name__}-{fault.case[5:]}")
def test_fault_is_caught(fault, tmp_path, monkeypatch):
    """
    The case that proves a rule fails for the target that breaks it.

    The router's slot recovery is off: it would repair what the target loses.
    """
    monkeypatch.setattr(SlotRecovery, "look", lambda _: None)
    suite = Suite(fault.target, fault.strategy, patience=1.0)
    suite.config = {"startup_timeout": 1.0, "timeout": 60.0}
    with pytest.raises((Exception, pytest.fail.Exception)):
        suite.run(fault.case, fault.arguments_in(tmp_path))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.case)
def test_sound_target_passes(fault, tmp_path):
    """The same case passes for the correct target from which the faulty ones are derived."""
    sound = LocalTarget if getattr(fault.target, "in_process", True) else Elsewhere
    Suite(sound, fault.strategy, patience=20.0).run(fault.case, fault.arguments_in(tmp_path))


@pytest.mark.parametrize("strategy", ["single", "pool", "async"])
@pytest.mark.parametrize(
    ("target", "said"),
    [
        (SwallowsWork, r"svc#0 not ready after 0\.5 s; it has started, but its canary was not answered"),
        (NeverAnswers, r"svc#0 not ready after 0\.5 s; it has started, but its canary was not answered"),
        (CannotSend, r"svc#0 has started, but its canary, .* failed: ConnectionError: no route"),
    ],
)
def test_replica_that_never_takes_work_fails_the_deployment(target, said, strategy):
    """`deploy` fails if a replica never takes work. The error names the replica and its unanswered canary."""
    suite = Suite(target, strategy, patience=20.0)
    suite.config = {"startup_timeout": 0.5}
    with suite.stage():
        service = suite.register()
        with pytest.raises(DeployError, match=said) as caught:
            service.env.deploy()
        assert caught.value.replica == "svc#0"


def test_replacement_whose_canary_is_not_answered_is_a_failed_start():
    """A replacement with an unanswered canary counts as a failed start: `restart` raises, the old replica goes on."""

    class SwallowsLater(Elsewhere):
        def start(self, spec, at, events, clock):
            replica = super().start(spec, at, events, clock)
            if spec.generation:
                replica.send = lambda work: None
            return replica

    suite = Suite(SwallowsLater, "single", patience=20.0)
    suite.config = {"startup_timeout": 0.5}
    with suite.stage():
        service = suite.deploy()
        with pytest.raises(DeployError, match=r"svc#0\.1 .*canary was not answered"):
            service.env.restart("svc")
        assert [replica["id"] for replica in service.status["replicas"]] == ["svc#0"]
        assert service.handle.echo(1) == 1
