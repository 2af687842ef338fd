"""A changed `user_config` reaches running replicas through `reconfigure`. Services that cannot take it are replaced."""

from __future__ import annotations

import signal
import threading

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.errors import DeployError


class Tuned:
    """Has a method that waits at a door, and a knob that its configuration sets."""

    door, entered = threading.Event(), threading.Event()
    made = 0

    def __init__(self) -> None:
        Tuned.made += 1
        self.knob = None

    def reconfigure(self, user_config) -> None:
        if user_config == {"knob": "stuck"}:
            Tuned.door.wait()
        self.knob = user_config.pop("knob")  # it may change its own copy

    def look(self):
        return self.knob

    def hold(self) -> None:
        Tuned.entered.set()
        Tuned.door.wait()


class Fixed:
    def look(self) -> None: ...


@pytest.fixture
def env():
    Tuned.door, Tuned.entered, Tuned.made = threading.Event(), threading.Event(), 0
    with Environment("tuning") as env:
        yield env
        Tuned.door.set()


def apply(env, knob, cls=Tuned, **settings):
    config = ServiceDeploymentConfig(
        user_config=None if knob is None else {"knob": knob}, startup_timeout=0.2, **settings
    )
    env.register_service_with_config("tuned", cls, deployment_config=config)
    env.apply()


def test_a_change_is_told_as_an_event_and_makes_no_new_instance(env):
    """A changed `user_config` reaches each replica through `reconfigure`, with an event and without a new instance."""
    apply(env, "low", replicas=2)
    apply(env, "high", replicas=2)
    assert [env.service("tuned").look() for _ in range(2)] == ["high", "high"]
    assert Tuned.made == 2
    (reason,) = (event.reason for _, _, event in env.events(0) if event.kind == "reconfigured")
    assert reason == "2 replicas took the changed user_config"
    apply(env, "high", replicas=2)
    assert env.plan().services[0].action == "keep"


def test_a_configuration_for_which_no_worker_is_free_is_never_taken(env):
    """If no worker gets free in time, `apply` fails and the replica never takes the changed `user_config`."""
    apply(env, "low")
    call = env.service("tuned").submit("hold")
    assert Tuned.entered.wait(20)
    with pytest.raises(DeployError, match="no worker was free for it"):
        apply(env, "high")
    Tuned.door.set()
    call.result(20)
    assert env.service("tuned").look() == "low"


def test_a_configuration_that_takes_too_long_is_taken_back_by_replacing_its_replica(env):
    """If `reconfigure` takes too long, its replica is replaced, since it may be half changed."""
    apply(env, "low")
    with pytest.raises(DeployError, match=r"has not returned after"):
        apply(env, "stuck")
    Tuned.door.set()
    assert env.service("tuned").look() == "low"
    assert Tuned.made == 2


@pytest.mark.parametrize("settings", [{"threading_strategy": "inline"}, {"thread_count": 1, "queue_size": 7}])
def test_what_cannot_take_it_while_it_runs_is_replaced(env, settings):
    """A changed `user_config` needs new replicas if the strategy has no workers, or if other settings changed too."""
    apply(env, "low")
    apply(env, "high", **settings)
    apply(env, "higher", **settings)
    assert env.service("tuned").look() == "higher"
    assert Tuned.made == (3 if "threading_strategy" in settings else 2)


def test_a_configuration_that_is_gone_is_forgotten(env):
    """If `user_config` is removed, the replica is replaced."""
    apply(env, "low")
    apply(env, None)
    assert env.service("tuned").look() is None
    assert Tuned.made == 2


def test_a_configuration_that_nobody_takes_is_reported(env):
    """A `user_config` for a class without `reconfigure` gives warning W12."""
    config = ServiceDeploymentConfig(user_config={"knob": 1})
    env.register_service_with_config("fixed", Fixed, deployment_config=config)
    (warning,) = env.check()
    assert (warning.id, warning.key) == ("W12", "user_config")
    assert warning.message == "has no effect: Fixed has no reconfigure(user_config)"


class Leaver(Tuned):
    def reconfigure(self, user_config):
        if user_config["knob"] == "leave":
            raise SystemExit("leaving")
        if user_config["knob"] == "signal":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            Tuned.door.wait()
        self.knob = user_config["knob"]


@pytest.mark.parametrize("strategy", ["single", "async"])
def test_a_reconfigure_that_exits_ends_nobody(env, strategy):
    """A `reconfigure` that raises SystemExit fails like any other: `apply` says so, and the old configuration stays."""
    apply(env, "low", Leaver, threading_strategy=strategy)
    with pytest.raises(
        DeployError, match=r"goes on with its old user_config: reconfigure\(\) of tuned#0 failed.*SystemExit"
    ):
        apply(env, "leave", Leaver, threading_strategy=strategy)
    assert env.service("tuned").look() == "low"


def test_a_signal_during_a_reconfigure_reaches_its_thread(env):
    """If a signal handler raises SystemExit while `apply` waits for `reconfigure`, `apply` raises it."""

    def end(_number, _frame):
        raise SystemExit("the handler's")

    apply(env, "low", Leaver)
    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(SystemExit, match="the handler's"):
            apply(env, "signal", Leaver)
    finally:
        signal.signal(signal.SIGUSR1, before)
