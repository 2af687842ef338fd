"""Every first-party target passes the suite for all targets, even if nothing is shared between service and caller."""

from __future__ import annotations

import inspect
import pickle
from functools import wraps

import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_local.target import LocalTarget
from sage_deploy_testing import StrategyConformance
from sage_deploy_testing.cases.wire_cases import WireCases
from sage_plugins import hookimpl
from sage_plugins.call.call import Call
from sage_plugins.host.thread_loop import UNRUN
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration
from strategies_in_turn import StrategiesInTurn


class TestLocal(StrategiesInTurn):
    plugin_id = "local"
    elsewhere = (
        StrategyConformance  # tests/threading/test_conformance.py runs these on this target, under all strategies
    )

    def strategies(self):
        return ["single"]


def copied(value):
    if any(type(each) in UNRUN for each in (value if isinstance(value, list) else [value])):
        return value  # the host handles these
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - made in this process


class CopyingFactory:
    """Builds instances whose results and errors are copied on their way out."""

    def __init__(self, factory):
        self.factory = factory

    def create_service(self, ctx):
        instance = self.factory.create_service(ctx)
        for name, method in inspect.getmembers(instance, inspect.ismethod):
            if not name.startswith("_"):
                setattr(instance, name, acopying(method) if inspect.iscoroutinefunction(method) else copying(method))
        return instance


def copying(method):
    @wraps(method)
    def wrapper(*args, **kwargs):
        try:
            outcome = method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - copied like everything else
            raise copied(error) from None
        return copied(outcome)

    return wrapper


def acopying(method):
    @wraps(method)
    async def wrapper(*args, **kwargs):
        try:
            return copied(await method(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - copied like everything else
            raise copied(error) from None

    return wrapper


class CopyingEvents:
    """The events of a replica, whose arguments are copied on their way in."""

    def __init__(self, events):
        self.freed, self.changed, self.lost, self.service = events.freed, events.changed, events.lost, events.service
        self.lane = events.lane  # the start hooks hold its slots
        self._events = events

    def follow(self, work):
        return with_copies(self._events.follow(work))


def with_copies(work):
    if isinstance(work, Call):
        work.args, work.kwargs = copied((work.args, work.kwargs))
    return work


class CopyingTarget(LocalTarget):
    """A target whose replicas run in this process, but get and return only copies."""

    def start(self, spec, at, events, clock):
        spec = copied(spec._replace(factory=CopyingFactory(spec.factory)))
        replica = super().start(spec, at, CopyingEvents(events), clock)
        send = replica.send
        replica.send = lambda work: send(with_copies(work))
        return replica


class Plugin:
    @hookimpl
    def sage_register_targets(self):
        return [Registration("copying", lambda _: CopyingTarget(), "In this process, and shares nothing with it")]


class TestCopying(StrategiesInTurn):
    """The suite without any shared object between services and callers."""

    plugin_id = "copying"
    one_in = 8  # tests/remote/test_replica.py runs all of them over messages, where nothing is shared either

    def registry(self):
        return Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, Plugin())

    def strategies(self):
        return ["pool"]

    def declared(self):
        # Its methods can call other services. The target itself does not declare `reachable`, since other processes
        # cannot call it.
        return {**super().declared(), "reachable": "copying"}


# The copies are made in any thread: this target models what services see, not the transport.
for _case in vars(WireCases):
    if _case.startswith("test_"):
        setattr(TestCopying, _case, None)
