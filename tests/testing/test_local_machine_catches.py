"""
Each patch below breaks one promise of the local runtime, and the state machine fails because of it.

A check that has never failed proves nothing.
"""

from __future__ import annotations

import re
from collections import deque
from math import inf

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from local_machine.machine import LocalMachine
from sage_plugins.call.call import Call
from sage_plugins.deployment.replicas.member import Member
from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor
from sage_plugins.routing.router import Router

#: The first failure is enough: it is not shrunk and not explained.
FIRST = settings(
    max_examples=400,
    stateful_step_count=60,
    phases=[Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def frees_twice(patch):
    """A slot that becomes free is given away twice."""
    compose = Router._compose_follow

    def faulty(router, lane):
        follow = compose(router, lane)

        def twice(ended):
            following = follow(ended)
            if following is None:
                lane.free.append(None)
            return following

        return twice

    patch.setattr(Router, "_compose_follow", faulty)


def frees_too_early(patch):
    """The slot of an abandoned call becomes free while its method still runs."""
    gave_up = Router.gave_up

    def faulty(router, call, outcome, *, started):
        gave_up(router, call, outcome, started=started)
        if started:
            call.lane.freed(call)

    patch.setattr(Router, "gave_up", faulty)


def accepts_too_many(patch):
    """The queue accepts one call more than `queue_size`."""
    init = Router.__init__

    def faulty(router, *args, queue_size, **settings):
        init(router, *args, queue_size=queue_size + 1, **settings)

    patch.setattr(Router, "__init__", faulty)


def serves_the_newest(patch):
    """The newest call starts first."""

    class Newest(deque):
        def popleft(self):
            return self.pop()

    lane = Router.lane

    def faulty(router, id, index, seniority=0):
        if type(router._queue.shared) is deque:
            router._queue.shared = Newest()
            router._rebind()
        return lane(router, id, index, seniority)

    patch.setattr(Router, "lane", faulty)


def publishes_twice(patch):
    """The result of an abandoned call replaces the outcome that its caller has already got."""
    ended = Router.abandoned_ended

    def faulty(router, call):
        ended(router, call)
        call.publish("late")

    patch.setattr(Router, "abandoned_ended", faulty)


def starts_late(patch):
    """A call starts although its time to start is over."""
    init = Call.__init__

    def faulty(call, *fields):
        init(call, *fields)
        call.expires = inf

    patch.setattr(Call, "__init__", faulty)


def counts_nothing(patch):
    """An abandoned call is not counted."""
    gave_up = Router.gave_up

    def faulty(router, call, outcome, *, started):
        told, router._losses._count = router._losses._count, lambda *_: None
        try:
            gave_up(router, call, outcome, started=started)
        finally:
            router._losses._count = told

    patch.setattr(Router, "gave_up", faulty)


def wakes_nobody(patch):
    """When a call ends, nobody wakes its callers."""
    patch.setattr(Call, "release", lambda call: None)


def ends_what_it_accepted(patch):
    """Waiting calls are ended when the service begins to drain."""
    drain = Router.drain

    def faulty(router, why, on_idle):
        drain(router, why, on_idle)
        router.end()

    patch.setattr(Router, "drain", faulty)


def forgets_who_leaves(patch):
    """The counts of a replica disappear when it leaves."""
    patch.setattr(Member, "counts", lambda member: {})


def waits_for_nobody(patch):
    """A leaving replica is stopped while its calls still run."""
    retire = Router.retire

    def faulty(router, lanes):
        retire(router, dict.fromkeys(lanes, lambda: None))
        for on_idle in lanes.values():
            on_idle()

    patch.setattr(Router, "retire", faulty)


def keeps_slots_closed(patch):
    """Added replicas get no calls."""
    patch.setattr(ReplicaSupervisor, "admit", lambda supervisor, added: None)


#: Each fault with what the machine must report. Faults that show only by the absence of an event take its whole wait.
FAULTS = {
    # The last alternative: a leaving replica counts as idle while its call runs.
    frees_twice: "more calls than it has slots|slots are taken|that it does not|ended as 'stopped'",
    frees_too_early: "more calls than it has slots|slots are taken|that it does not|ended as 'stopped'",
    accepts_too_many: "model says 'overloaded'|calls wait; the model|places in the queue",
    serves_the_newest: "runs; the model says that it does not|; the model says None|the model says 'ok'|counted ok",
    publishes_twice: "ended twice|the model says",
    starts_late: "was started when its time to start was over|the model says 'timeout in the ",
    counts_nothing: "calls are counted (cancelled|timeout|stopped)",
    wakes_nobody: "goes on for its caller|called back 0 times|never released",
    forgets_who_leaves: "went back|calls are counted",
    waits_for_nobody: "ended as 'stopped'|calls are counted stopped|change of the replicas goes on",
    keeps_slots_closed: "does not run; the model says|slots of the replicas|goes on for its caller|never released",
    ends_what_it_accepted: "ended as 'stopped'; the model says|calls are counted stopped",
}

#: These show only in long queues, which grow sooner when replicas do not change.
FAULTS_OF_QUEUES = (serves_the_newest, starts_late)


@pytest.mark.parametrize(("fault", "story"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_a_runtime_that_breaks_a_promise_is_found_out(fault, story):
    """The state machine finds each fault, and one of its failures names the broken promise."""
    made = {"strategy": "pool", "patience": 1.0, "fault": staticmethod(fault), "failures": []}
    if fault in FAULTS_OF_QUEUES:
        made["change_replicas"] = None
    machine = type("Machine", (LocalMachine,), made)
    with pytest.raises((AssertionError, Flaky)):  # Flaky if the repeated run ended in another way
        run_state_machine_as_test(machine, settings=FIRST)
    # In a burst, thread timing decides which consequence shows first, so the match may be a later failure.
    assert any(re.search(story, failure) for failure in machine.failures), machine.failures
