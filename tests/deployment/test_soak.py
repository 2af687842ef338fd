"""
Real threads, as rude as they can be: no call is lost, none is counted twice, and nothing is left behind.

Six threads call, submit, cancel, wait and let calls time out, while the interpreter switches threads as often as it
can. At the end what the callers saw must equal what was counted, and every slot and place in the queue must be free.
"""

from __future__ import annotations

import concurrent.futures
import random
import sys
import threading
from collections import Counter

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig, errors

CALLERS = 6
PATIENCE = 50

SETTINGS = {
    "single": {"threading_strategy": "single", "queue_size": 3},
    "pool": {"threading_strategy": "pool", "thread_count": 3, "queue_size": 2, "overload": "reject"},
    "inline": {"threading_strategy": "inline", "queue_size": 2},
    "elastic pools": {
        "threading_strategy": "pool",
        "thread_pool_size": 2,
        "replicas": 3,
        "load_balancing": True,
        "queue_size": 4,
    },
    "hand-off": {"threading_strategy": "single", "replicas": 2, "load_balancing": True, "queue_size": 0},
    "inline hand-off": {
        "threading_strategy": "inline",
        "replicas": 2,
        "load_balancing": True,
        "queue_size": 0,
        "overload": "reject",
    },
}


class Busy:
    def work(self, pause):
        if pause < 0:
            raise ValueError(pause)
        if pause:
            threading.Event().wait(pause)
        return pause


class Caller(threading.Thread):
    """Makes calls of every kind and remembers how each of them ended."""

    def __init__(self, service, seed, rounds):
        super().__init__(name=f"caller-{seed}", daemon=True)
        self._service = service
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._rounds = rounds
        self.seen = Counter()
        self.failure = None

    def run(self):
        try:
            for _ in range(self._rounds):
                self._round()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error

    def _round(self):
        chance = self._random.random
        pause = self._random.choice([0, 0, 0, 0.0005, -1])
        service = self._service
        if chance() < 0.4:
            service = service.with_options(timeout=self._random.choice([0.0003, 0.001, 0.01]))
        if chance() < 0.5:
            self._note(lambda: service.work(pause))
            return
        calls = []
        for _ in range(self._random.randint(1, 6)):
            self._note(lambda: calls.append(service.submit("work", pause)), ended=False)
        if chance() < 0.3:
            for call in calls:
                call.cancel()
        if chance() < 0.3:
            concurrent.futures.wait(calls, timeout=PATIENCE)
        for call in calls:
            self._note(lambda call=call: call.result(PATIENCE))

    def _note(self, act, *, ended=True):
        try:
            act()
        except ValueError:
            self.seen["error"] += 1
        except errors.CallCancelledError:
            self.seen["cancelled"] += 1
        except errors.CallTimeoutError:
            self.seen["timeout"] += 1
        except errors.OverloadedError:
            self.seen["rejected"] += 1
        else:
            self.seen["ok"] += ended


@pytest.fixture
def _switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def soak(setting, rounds):
    """What the callers saw, after it was compared with what was counted."""
    config = ServiceDeploymentConfig(timeout=2.0, **SETTINGS[setting])
    with Environment("soak") as env:
        env.register_service_with_config("busy", Busy, deployment_config=config)
        callers = [Caller(env.service("busy"), seed, rounds) for seed in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(PATIENCE * max(1, rounds / 1000))
            assert not caller.is_alive(), "a call hangs"
            assert caller.failure is None, caller.failure
        seen = sum((caller.seen for caller in callers), Counter())
        router = env.task("busy")._router
        router.drain("has been soaked", lambda: None)  # abandoned methods end before the slots are looked at
        env.close()
        metrics = env.get_service_status("busy")["metrics"]
    rejected = seen.pop("rejected", 0)
    assert metrics.outcomes == +seen
    assert metrics.request_count == seen.total()
    assert metrics.rejected_count == rejected
    assert metrics.abandoned_count == 0
    assert (router.waiting, router.parked) == (0, 0)
    assert router._queue.free == config.queue_size
    assert all(lane.inflight == 0 for lane in router.lanes)
    return seen


@pytest.mark.usefixtures("_switching_often")
@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_is_lost_and_nothing_is_left(setting):
    seen = soak(setting, rounds=400)
    assert set(seen) >= {"ok", "error", "timeout"}, "the soak must meet what it is to try"


@pytest.mark.slow
@pytest.mark.usefixtures("_switching_often")
@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_is_lost_and_nothing_is_left_in_a_long_soak(setting):
    soak(setting, rounds=10_000)
