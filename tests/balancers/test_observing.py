"""A balancer learns for which service it is made, which method is called, and how each call ended."""

from __future__ import annotations

import pytest

import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins import Environment, ServiceDeploymentConfig, errors, hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Outcome, Registration, Where


class Service:
    def get(self, key):
        return key

    def fail(self):
        raise LookupError("no such thing")

    async def wait(self):
        import asyncio

        await asyncio.sleep(60)

    def scan(self):
        yield from "abc"


class Spy:
    """Chooses the first replica and records what it is told."""

    binding = False

    def __init__(self):
        self.methods, self.ends = [], []

    def picker(self, candidates):
        def pick(_key, method):
            self.methods.append(method)
            return candidates[0]

        return pick

    def observe(self, candidate, method, outcome, wait_s, run_s):
        assert wait_s >= 0
        assert run_s >= 0
        self.ends.append((candidate.id, method, outcome))


class Faulty(Spy):
    def observe(self, candidate, method, outcome, wait_s, run_s):
        raise RuntimeError("cannot count")


@pytest.fixture
def spied():
    """Deploys a service behind a spy and returns the handle, where the spy was made, and the environment."""
    opened = []

    def make(spy, capabilities=("observes",), strategy="pool"):
        places = []

        def create(_options, where):
            places.append(where)
            return spy

        class Plugin:
            @hookimpl
            def sage_register_load_balancers(self):
                return [Registration("spy", create, "Keeps all", capabilities=frozenset(capabilities))]

        registry = Registry.of(Plugin(), sage_deploy_local, sage_deploy_monitors, sage_deploy_threading)
        env = Environment("home", registry=registry)
        opened.append(env)
        config = ServiceDeploymentConfig(
            load_balancing=True, replicas=2, load_balancer="spy", threading_strategy=strategy
        )
        env.register_service_with_config("svc", Service, deployment_config=config)
        env.deploy()
        return env.service("svc"), places, env

    yield make
    for env in opened:
        env.close()


def test_balancer_knows_service_and_environment(spied):
    """A balancer is created with its service's and environment's name."""
    _, places, _ = spied(Spy())
    assert places == [Where("svc", "home")]


@pytest.mark.parametrize("strategy", ["pool", "async", "inline", "single"])
def test_balancer_is_told_how_each_call_ended(spied, strategy):
    """A balancer that declares `observes` learns the replica, method and outcome of each call."""
    spy = Spy()
    handle, _, _ = spied(spy, strategy=strategy)
    assert handle.get(1) == 1
    with pytest.raises(LookupError):
        handle.fail()
    assert list(handle.scan()) == ["a", "b", "c"]
    assert spy.methods == ["get", "fail", "scan"]
    ok, failed = Outcome.OK, Outcome.ERROR
    assert spy.ends == [("svc#0", "get", ok), ("svc#0", "fail", failed), ("svc#0", "scan", ok)]


def test_calls_that_are_given_up_are_told_by_their_outcome(spied):
    """A call that times out or is cancelled is observed with that outcome."""
    spy = Spy()
    handle, _, _ = spied(spy)
    with pytest.raises(errors.CallTimeoutError):
        handle.with_options(timeout=0.05).wait().result()
    call = handle.wait()
    while call.cancel() is False:
        pass
    assert [outcome for _, _, outcome in spy.ends] == [Outcome.TIMEOUT, Outcome.CANCELLED]


def test_calls_of_many_at_once_are_told_once_each(spied):
    """Each of many simultaneous calls is observed once."""
    spy = Spy()
    handle, _, _ = spied(spy)
    assert [call.result() for call in [handle.submit("get", number) for number in range(200)]] == list(range(200))
    assert [(method, outcome) for _, method, outcome in spy.ends] == [("get", Outcome.OK)] * 200


def test_observer_that_raises_is_fenced_off(spied, caplog):
    """If `observe` raises, the balancer is fenced with one event, and calls go on."""
    handle, _, env = spied(Faulty())
    assert [handle.get(number) for number in range(4)] == [0, 1, 2, 3]
    events = env.get_service_status("svc")["monitors"]["events"]["latest"]
    assert [event["kind"] for event in events].count("balancer_fenced") == 1
    assert "cannot count" in caplog.text


def test_what_is_not_declared_is_not_told(spied):
    """A balancer that does not declare `observes` is not told of outcomes."""
    spy = Spy()
    handle, _, _ = spied(spy, capabilities=())
    handle.get(1)
    assert spy.ends == []
