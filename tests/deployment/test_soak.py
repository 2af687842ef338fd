"""
Under the harshest use of real threads no call is lost, none counts twice, and nothing is left behind.

The callers of `sage_deploy_testing.chaos` call, submit, cancel and let calls time out as fast as they can. Meanwhile
the interpreter switches threads as often as it can. At the end its checker finds nothing wrong. What the callers saw
equals what was counted, and every slot and every place in the queue is free.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

import pytest

from sage_deploy_testing.chaos.checker import check
from sage_deploy_testing.chaos.history import History
from sage_deploy_testing.chaos.load import Load, Served
from sage_deploy_testing.chaos.probe import Probe
from sage_deploy_testing.chaos.run_log import RunLog
from sage_plugins import Environment, ServiceDeploymentConfig

PATIENCE = 50
TIMEOUT = 2.0

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

#: Each error that callers see, and the outcome under which it is counted.
COUNTED = {
    "ProbeError": "error",
    "CallCancelledError": "cancelled",
    "CancelledError": "a cancelled task",
    "CallTimeoutError": "timeout",
    "OverloadedError": "rejected",
}


@pytest.fixture
def _switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def soak(setting, calls, folder):
    """Run a soak, compare what the callers saw with what was counted, and return what they saw."""
    config = ServiceDeploymentConfig(timeout=TIMEOUT, **SETTINGS[setting])
    history, run_log = History(), RunLog(folder / "run_log")
    with Environment("soak") as env:
        env.register_service_with_config("busy", Probe, run_log.path, run_log.token, ("", 0), deployment_config=config)
        load = Load(
            history,
            {"busy": Served(env.service("busy"), TIMEOUT)},
            rate=1e6,
            shapes=("plain",),
            most=40,
            seed=1,
            patience=PATIENCE,
            takes=(0.0, 0.0, 0.0, 0.0005),
            deadlines=(0.0003, 0.001, 0.01),
        )
        assert load.answers("busy", TIMEOUT)  # no task may be cancelled while its handle looks up the service
        load.start()
        until, pause = time.monotonic() + PATIENCE * max(1, calls / 1000), threading.Event()
        while history.calls < calls:
            assert time.monotonic() < until, "the calls do not go on"
            pause.wait(0.01)
        load.stop()
        router = env.task("busy")._router
        router.drain("has been soaked", lambda: None)  # abandoned methods end before the slots are checked
        env.close()
        metrics = env.get_service_status("busy")["metrics"]
    history.add_run_log(run_log.ran())
    history.note("end")
    facts = {"strategy": config.threading_strategy}
    start = {"t": 0.0, "event": "start", "slack": PATIENCE, "services": {"busy": facts}}
    assert [each.text for each in check([start, *history.events])] == []
    outcomes = [each for each in history.events if each["event"] in {"ok", "fail", "unknown"}]
    seen = Counter("ok" if each["event"] == "ok" else COUNTED[each["error"]] for each in outcomes)
    rejected = seen.pop("rejected", 0)
    # If a task is cancelled after its call ended, the caller does not learn how.
    unknown = seen.pop("a cancelled task", 0)
    others = Counter(metrics.outcomes)
    others.subtract(seen)
    assert min(others.values()) >= 0
    either = others.total() + metrics.rejected_count - rejected
    assert either == unknown
    assert metrics.request_count == sum(metrics.outcomes.values())
    assert metrics.abandoned_count == 0
    assert (router.waiting, router.parked) == (0, 0)
    assert router._queue.free == config.queue_size
    assert all(lane.inflight == 0 for lane in router.lanes)
    return seen


@pytest.mark.usefixtures("_switching_often")
@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_is_lost_and_nothing_is_left(setting, tmp_path):
    """In a short soak no call is lost or counted twice, and nothing is left behind."""
    seen = soak(setting, 1_500, tmp_path)
    assert set(seen) >= {"ok", "error", "timeout"}, "the soak must meet what it is to try"


@pytest.mark.slow
@pytest.mark.usefixtures("_switching_often")
@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_is_lost_and_nothing_is_left_in_a_long_soak(setting, tmp_path):
    """In a long soak no call is lost or counted twice, and nothing is left behind."""
    soak(setting, 100_000, tmp_path)
