"""Slot recovery takes back no slot that is in use. The simulation and the suites test what happens to lost slots."""

import sys
import threading

import pytest

from sage_deploy_testing.doubles.fake_replica import open_replica
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.routing.router import Router

CALLERS = 6
LOOKS = 25


class Crowd:
    """Counts how many of its calls run at once."""

    def __init__(self, seen):
        self.inside = []
        self.seen = seen

    def meet(self):
        self.inside.append(None)
        self.seen.add(len(self.inside))
        self.inside.pop()


@pytest.fixture
def threads_that_stop_anywhere():
    """The interpreter switches threads after every few steps."""
    every = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(every)


@pytest.mark.usefixtures("threads_that_stop_anywhere")
@pytest.mark.parametrize("strategy", ["inline", "single", "multi", "pool", "async"])
def test_what_threads_have_in_their_hands_is_not_taken_for_lost(strategy):
    """However often the router looks for lost slots while threads call, it takes none back, and the limits hold."""
    seen = set()
    config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=60.0, queue_size=50)
    with Environment("crowded") as env:
        env.register_service_with_config("crowd", Crowd, seen, deployment_config=config)
        env.deploy()
        handle, router = env.service("crowd"), env.task("crowd")._router
        (lane,) = router.lanes
        room = len(router._queue.room)
        recovery = router._recovery
        looks, look = [], recovery.look
        recovery.look = lambda: (looks.append(None), look())
        given, give_back = [], recovery._give_back
        recovery._give_back = lambda amounts, calls: (given.extend((*amounts, *calls)), give_back(amounts, calls))

        def call():
            while len(looks) < LOOKS:
                handle.meet()
                router.suspect()

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        assert not given
        assert max(seen) <= lane.slots
        assert (len(lane.free), len(router._queue.room)) == (lane.slots, room)


class IdleWorkers:
    """Reports idle workers and no work, as a replica does whose work is on its way to a worker."""

    def __init__(self, ended):
        self.ended = ended

    def counts(self):
        return ()

    def workers(self):
        return lambda: [(index, (None, ended())) for index, ended in enumerate(self.ended)]

    def nudge(self):
        pass


@pytest.mark.parametrize(("at_work", "taken", "lost"), [(0, 1, 1), (1, 1, 0), (1, 2, 1), (2, 2, 0)])
def test_worker_that_works_between_two_looks_may_have_a_slot(at_work, taken, lost):
    """A slot counts as lost only if no worker can have it that worked since the last look."""

    def nothing(*_):
        pass

    clock = VirtualClock()
    router = Router("svc", clock, queue_size=4, reject=True, count=nothing, refused=nothing, aside=lambda body: body())
    lane = open_replica(router, clock, slots=3)[1]
    lane.holds = IdleWorkers([clock.monotonic] * at_work + [lambda: 0.0] * (3 - at_work))
    del lane.free[:taken]
    router.suspect()
    clock.advance(1.0)
    assert 3 - len(lane.free) == taken - lost
