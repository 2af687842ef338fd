"""Arguments that are references: the method gets their values, and a call waits for them in its own slot only."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager

import pytest
from ray import ObjectRef

import loop_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_ray.actors import arguments
from sage_deploy_ray.actors.references import RAY
from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import CallItem, Frame, Unit
from sage_deploy_remote.link.serving.units import BatchUnit
from sage_deploy_remote.payloads.packing import write
from sage_plugins import Environment, ServiceDeploymentConfig, batch_of, errors, idempotent
from sage_plugins.plugins.registry import Registry

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())

PATIENCE_S = 20
SHORT_S = 0.05

RAN = []
GATES = {}


class Service:
    def echo(self, *args, **kwargs):
        RAN.append((args, kwargs))
        return args, kwargs

    @idempotent
    def twice(self, value):
        RAN.append(value)
        return value

    @idempotent
    def hold(self, name):
        came, gate = GATES[name]
        came.set()
        assert gate.wait(PATIENCE_S)
        return name

    async def aecho(self, value):
        RAN.append(value)
        return value

    def each(self, values):
        RAN.append("begun")
        yield from values

    def one(self, value):
        return self.many([value])[0]

    @batch_of("one")
    def many(self, values):
        RAN.append(list(values))
        for came, gate in (GATES[value] for value in values if value in GATES):
            came.set()
            assert gate.wait(PATIENCE_S)
        return list(values)


class Store:
    """Stands in for Ray's object store: it has some values, and others come later."""

    def __init__(self):
        self._values = {}
        self._changed = threading.Condition()
        self._waiting = 0

    def put(self, value, reference=None):
        """Store *value* for *reference*; an exception is raised instead."""
        reference = reference or self.reference()
        with self._changed:
            self._values[reference] = value
            self._changed.notify_all()
        return reference

    @staticmethod
    def reference():
        return ObjectRef(os.urandom(28))

    def wait_for_waiting(self, count):
        """Wait until *count* calls wait for values."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting == count, PATIENCE_S)

    def _has(self, arguments):
        return all(each in self._values for each in arguments if isinstance(each, ObjectRef))

    def _value(self, argument):
        value = self._values[argument] if isinstance(argument, ObjectRef) else argument
        if isinstance(value, Exception):
            raise value
        return value

    def _found(self, args, kwargs):
        return tuple(map(self._value, args)), {name: self._value(each) for name, each in kwargs.items()}

    def fetch_present(self, args, kwargs):
        try:
            return self._found(args, kwargs)
        except Exception:  # noqa: BLE001 - as the replaced module does
            return None

    def fetch(self, args, kwargs, remaining, method):
        assert method.startswith("svc.")
        wanted = [*args, *kwargs.values()]
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                while not self._has(wanted):
                    if (left := remaining()) <= 0:
                        return None
                    self._changed.wait(min(left, 0.01))  # a value that is no longer needed wakes nobody
            finally:
                self._waiting -= 1
                self._changed.notify_all()
            return self._found(args, kwargs)


class Deployed:
    def __init__(self, env, store, server):
        self.handle = env.service("svc")
        self.store = store
        self.server = server
        self._env = env

    @property
    def outcomes(self):
        counts = self._env.get_service_status("svc")["metrics"].outcomes
        return {name: count for name, count in counts.items() if count}

    def hold(self, name):
        """Submit a call that keeps its slot until its gate opens."""
        GATES[name] = threading.Event(), threading.Event()
        call = self.handle.submit("hold", name)
        assert GATES[name][0].wait(PATIENCE_S)
        return call


@pytest.fixture
def deploy(monkeypatch):
    @contextmanager
    def deployed(strategy="single", **config):
        RAN.clear()
        store, servers = Store(), []
        monkeypatch.setattr(arguments, "fetch", store.fetch)
        monkeypatch.setattr(arguments, "fetch_present", store.fetch_present)
        start = loop_target.LoopTransport.start
        monkeypatch.setattr(
            loop_target.LoopTransport,
            "start",
            lambda self, spec, receiver: (start(self, spec, receiver), servers.append(self.server)),
        )
        with Environment("test", registry=REGISTRY) as env:
            settings = ServiceDeploymentConfig(
                target="loop", threading_strategy=strategy, **{"timeout": PATIENCE_S, **config}
            )
            env.register_service_with_config("svc", Service, deployment_config=settings)
            env.deploy()
            yield Deployed(env, store, servers[0])
            for _, gate in GATES.values():
                gate.set()
            store.wait_for_waiting(0)
        GATES.clear()

    return deployed


def test_references_become_values_and_those_inside_others_stay(deploy):
    """References among the arguments become values; references inside other values stay references."""
    with deploy() as svc:
        one, two, inner = svc.store.put("one"), svc.store.put("two"), svc.store.reference()
        args, kwargs = svc.handle.echo(one, [inner], named=two, plain=3)
        assert args == ("one", [inner])
        assert kwargs == {"named": "two", "plain": 3}


@pytest.mark.parametrize("strategy", ["single", "multi", "pool", "async"])
def test_a_call_waits_for_its_argument_in_its_own_slot(deploy, strategy):
    """A call waits for its argument in its own slot. Other slots answer meanwhile, and the wait takes no worker."""
    with deploy(strategy, **({} if strategy == "single" else {"thread_count": 2})) as svc:
        reference = svc.store.reference()
        late = svc.handle.submit("echo", reference)
        svc.store.wait_for_waiting(1)
        if strategy != "single":
            assert [svc.handle.twice(number) for number in range(3)] == [0, 1, 2]
        assert not late.done()
        svc.store.put("value", reference)
        assert late.result() == (("value",), {})


def test_a_call_without_its_argument_fails_and_its_method_has_not_started(deploy):
    """
    If an argument fails, the call fails with its error, counts as an error and frees its slot. The method never starts.
    """
    with deploy() as svc:
        at_once, later = svc.store.put(KeyError("at once")), svc.store.reference()
        with pytest.raises(KeyError, match="at once"):
            svc.handle.echo(at_once)
        call = svc.handle.submit("echo", named=later)
        svc.store.wait_for_waiting(1)
        svc.store.put(ValueError("later"), later)
        with pytest.raises(ValueError, match="later"):
            call.result()
        assert RAN == []
        assert svc.handle.twice(1) == 1
        assert svc.outcomes == {"ok": 1, "error": 2}


def test_a_deadline_passes_while_the_argument_is_awaited(deploy):
    """
    If the deadline passes during the wait, the slot is free and the method never runs, even if the value comes later.
    """
    with deploy() as svc:
        reference = svc.store.reference()
        with pytest.raises(errors.CallTimeoutError):
            svc.handle.with_options(timeout=SHORT_S).echo(reference)
        assert svc.handle.twice(1) == 1
        svc.store.put("value", reference)
        assert svc.handle.twice(2) == 2
        assert RAN == [1, 2]
        assert svc.outcomes == {"ok": 2, "timeout": 1}


def test_a_replica_ends_a_call_at_its_deadline_by_itself(deploy):
    """A replica ends a waiting call at its deadline by itself, because its caller may have died."""
    with deploy() as svc:
        (index,) = (method.index for method in svc.server.spec.methods if method.name == "echo")
        item = CallItem(1, index, write(((svc.store.reference(),), {}), RAY), 0.0, SHORT_S)
        response = svc.server.exchange(Frame("another", 0, (Unit(1, (item,)),), (), fresh=True))
        assert response.replies[0][:2] == (protocol.GAVE_UP, 1)
        assert svc.handle.twice(1) == 1
        assert RAN == [1]


@pytest.mark.parametrize("strategy", ["single", "async"])
def test_a_call_is_cancelled_while_it_waits_for_its_argument(deploy, strategy):
    """A call that waits for its argument can be cancelled; its slot is free again."""
    with deploy(strategy, thread_count=1, max_concurrency=1) as svc:
        call = svc.handle.submit("aecho", svc.store.reference())
        svc.store.wait_for_waiting(1)
        assert call.cancel()
        assert svc.handle.twice(1) == 1
        assert RAN == [1]
        assert svc.outcomes == {"ok": 1, "cancelled": 1}


def test_a_stream_waits_for_its_argument_until_nobody_reads_it(deploy):
    """A stream gets its argument's value; a stream that is closed while it waits frees its slot."""
    with deploy() as svc:
        reference = svc.store.reference()
        with svc.handle.stream("each", svc.store.put("abc")) as items:
            assert list(items) == ["a", "b", "c"]
        RAN.clear()
        stream = svc.handle.stream("each", reference)
        svc.store.wait_for_waiting(1)
        stream.close()
        assert svc.handle.twice(1) == 1
        assert RAN == [1]


def test_calls_of_a_bundle_wait_each_in_its_turn(deploy):
    """In a bundle, calls before the waiting one run; calls after it go back and run later. Each runs once."""
    with deploy() as svc:
        blocker = svc.hold("first")
        reference, failed = svc.store.reference(), svc.store.put(KeyError("gone"))
        calls = [svc.handle.submit("twice", each) for each in (1, failed, reference, 4, 5)]
        GATES["first"][1].set()
        assert blocker.result() == "first"
        assert calls[0].result() == 1
        assert isinstance(calls[1].exception(), KeyError)
        svc.store.wait_for_waiting(1)
        assert RAN == [1]
        svc.store.put(3, reference)
        assert [call.result() for call in calls[2:]] == [3, 4, 5]
        assert sorted(RAN) == [1, 3, 4, 5]
        assert svc.handle.twice(6) == 6


@pytest.mark.parametrize("strategy", ["single", "async"])
def test_a_batch_does_not_wait_for_the_arguments_of_some(deploy, strategy):
    """A batch runs at once without the calls whose arguments are late. Those that fail or time out end alone."""
    with deploy(strategy, batch_size=8, batch_wait=0.0, thread_count=1, max_concurrency=1) as svc:
        blocker = svc.hold("first")
        late = [svc.store.reference() for _ in range(4)]
        impatient = svc.handle.with_options(timeout=0.5)
        calls = [svc.handle.submit("one", each) for each in ("a", *late[:3], "b")]
        lost = impatient.submit("one", late[3])
        GATES["first"][1].set()
        assert blocker.result() == "first"
        assert [calls[0].result(), calls[4].result()] == ["a", "b"]
        assert isinstance(lost.exception(), errors.CallTimeoutError)
        svc.store.wait_for_waiting(3)
        svc.store.put(OSError("gone"), late[0])
        assert isinstance(calls[1].exception(), OSError)
        svc.store.put("c", late[1])
        assert calls[2].result() == "c"
        svc.store.put("d", late[2])
        assert calls[3].result() == "d"
        assert RAN == [["a", "b"], ["c"], ["d"]]
        assert svc.handle.twice(1) == 1
        assert svc.outcomes == {"ok": 6, "error": 1, "timeout": 1}


def test_late_calls_of_a_batch_run_together_once_the_slot_is_theirs(deploy, monkeypatch):
    """Calls whose arguments arrive while the batch runs form one batch after it, in the same slot."""
    arrivals, arrived = threading.Semaphore(0), BatchUnit.arrived
    monkeypatch.setattr(BatchUnit, "arrived", lambda unit, call: (arrived(unit, call), arrivals.release()))
    with deploy(batch_size=4, batch_wait=0.0) as svc:
        blocker = svc.hold("first")
        late = [svc.store.reference() for _ in range(3)]
        GATES["held"] = threading.Event(), threading.Event()
        held, *calls = [svc.handle.submit("one", each) for each in ("held", *late)]
        GATES["first"][1].set()
        assert blocker.result() == "first"
        assert GATES["held"][0].wait(PATIENCE_S)
        for number, reference in enumerate(late):
            svc.store.put(number, reference)
        assert all(arrivals.acquire(timeout=PATIENCE_S) for _ in late)
        GATES["held"][1].set()
        assert held.result() == "held"
        assert [call.result() for call in calls] == [0, 1, 2]
        assert [sorted(each) for each in RAN] == [["held"], [0, 1, 2]]


def test_a_stop_ends_calls_that_wait_for_their_arguments(deploy):
    """A stop ends calls that wait for their arguments; they never start."""
    with deploy(drain_timeout=SHORT_S) as svc:
        call = svc.handle.submit("echo", svc.store.reference())
        svc.store.wait_for_waiting(1)
        svc.server.stop(PATIENCE_S)
        error = call.exception(PATIENCE_S)
        assert isinstance(error, errors.ServiceStoppedError)
        assert RAN == []
