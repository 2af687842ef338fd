"""`call_service` and `call_service_async` work in both of SAGE's spellings, from outside and from services."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import CancelledError, Future

import pytest

from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.compat.callers import AsyncServiceCaller, ServiceCaller

PATIENCE = 20.0
SHORT = 0.03


class KV:
    def __init__(self):
        self.data = {}

    def put(self, key, value):
        self.data[key] = value

    def get(self, key):
        return self.data[key]

    def process(self, /, *args, **kwargs):
        return args, kwargs

    def odd(self, method, name):
        return method, name

    def late(self):
        raise TimeoutError("the disk was slow")

    def hold(self, gate):
        return gate("held")


@pytest.fixture
def kv(env):
    env.register_service("kv", KV)
    env.call_service("kv", "k", 1, method="put")
    return env


def test_one_object_is_called_and_indexed(kv):
    """`call_service(...)` and `call_service[...]` make the same call."""
    assert isinstance(kv.call_service, ServiceCaller)
    assert kv.call_service("kv", "k", method="get", timeout=PATIENCE) == 1
    assert kv.call_service["kv"].get("k", timeout=PATIENCE) == 1
    assert kv.call_service["kv"].get("k") == 1


def test_both_give_futures_when_asynchronous(kv):
    """`call_service_async` returns a `concurrent.futures.Future` in both spellings."""
    assert isinstance(kv.call_service_async, AsyncServiceCaller)
    futures = [
        kv.call_service_async("kv", "k", method="get", timeout=PATIENCE),
        kv.call_service_async["kv"].get("k", timeout=PATIENCE),
        kv.call_service_async["kv"].get("k"),
    ]
    assert all(isinstance(future, Future) for future in futures)
    done, not_done = concurrent.futures.wait(futures, PATIENCE)
    assert ({future.result() for future in done}, not_done) == ({1}, set())


def test_only_what_is_for_the_call_is_taken(kv):
    """`call_service(...)` takes `method` and `timeout`; `call_service[...]` passes `method` to the method."""
    assert kv.call_service("kv", 1, method="process", timeout=PATIENCE, name="n", self="s") == (
        (1,),
        {"name": "n", "self": "s"},
    )
    assert kv.call_service["kv"].odd(method="m", name="n") == ("m", "n")
    assert kv.call_service_async["kv"].odd(method="m", name="n").result(PATIENCE) == ("m", "n")


@pytest.mark.parametrize("methods", [("process", "execute", "call"), ("execute", "call"), ("call",)])
def test_default_method_is_the_first_that_there_is(env, methods):
    """The default method is `process`, `execute` or `call`, the first that the service has."""
    env.register_service("svc", type("Svc", (), {name: lambda _, value, name=name: (name, value) for name in methods}))
    for _ in range(2):
        assert env.call_service("svc", 1) == (methods[0], 1)
        assert env.call_service_async("svc", 2).result(PATIENCE) == (methods[0], 2)


def test_default_method_that_is_nowhere(env):
    """Without a default method, the error names `process` and the methods that there are."""
    env.register_service("svc", type("Svc", (), {"other": lambda _: 1}))
    with pytest.raises(errors.MethodNotFoundError, match=r"'process'.*other"):
        env.call_service("svc")


def test_default_method_that_fails_is_not_taken_for_one_that_is_missing(env):
    """A MethodNotFoundError raised inside `process` does not lead to a call of `execute`."""
    ran = []

    class Svc:
        def process(self):
            return self.ctx.call_service("other", method="nothing")

        def execute(self):
            ran.append("execute")

    env.register_service("svc", Svc)
    env.register_service("other", KV)
    with pytest.raises(errors.MethodNotFoundError, match="'nothing'"):
        env.call_service("svc")
    assert ran == []


@pytest.mark.parametrize("call", ["called", "indexed", "future", "future of indexed", "exception"])
def test_error_is_its_type_and_a_runtime_error(kv, call):
    """An error has its own type and is a RuntimeError too, with the method's traceback."""
    ways = {
        "called": lambda: kv.call_service("kv", "missing", method="get"),
        "indexed": lambda: kv.call_service["kv"].get("missing"),
        "future": lambda: kv.call_service_async("kv", "missing", method="get").result(PATIENCE),
        "future of indexed": lambda: kv.call_service_async["kv"].get("missing").result(PATIENCE),
    }
    if call == "exception":
        error = kv.call_service_async("kv", "missing", method="get").exception(PATIENCE)
    else:
        with pytest.raises(KeyError) as caught:
            ways[call]()
        error = caught.value
    assert isinstance(error, KeyError)
    assert isinstance(error, RuntimeError)
    assert error.args == ("missing",)
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "get" in frames, "the method's own frame is in the traceback"
    assert error.__context__ is None


def test_handles_raise_the_error_alone(kv):
    """A handle raises the method's error unchanged, not as a RuntimeError."""
    with pytest.raises(KeyError) as caught:
        kv.service("kv").get("missing")
    assert type(caught.value) is KeyError


def test_timeout_error_of_a_method_stays_what_it_is(kv):
    """A TimeoutError raised by a method stays unchanged."""
    with pytest.raises(TimeoutError, match="disk") as caught:
        kv.call_service("kv", method="late")
    assert type(caught.value) is TimeoutError


@pytest.mark.parametrize("indexed", [False, True])
def test_unknown_service_is_a_runtime_error_at_once(kv, indexed):
    """
    Calling an unknown service raises a RuntimeError that is a LookupError.

    Naming it is fine: it may be registered later.
    """
    named = kv.call_service["later"]
    with pytest.raises(RuntimeError, match="later") as caught:
        named.get("k") if indexed else kv.call_service("later", method="get")
    assert isinstance(caught.value, LookupError)
    kv.register_service("later", KV)
    assert named.process(1) == ((1,), {})


def test_wrong_time_out_is_a_config_error_and_a_runtime_error(kv):
    """An invalid timeout raises a ConfigError that is a RuntimeError."""
    for wrong in (0, "soon", [1]):
        with pytest.raises(errors.ConfigError, match="timeout") as caught:
            kv.call_service("kv", method="get", timeout=wrong)
        assert isinstance(caught.value, RuntimeError)


def test_time_out_ends_the_call(kv, gate):
    """A timeout raises an error that is both a TimeoutError and a RuntimeError."""
    with pytest.raises(TimeoutError) as caught:
        kv.call_service["kv"].hold(gate, timeout=SHORT)
    assert isinstance(caught.value, RuntimeError)
    with pytest.raises(errors.CallTimeoutError):
        kv.call_service_async["kv"].get("k", timeout=SHORT).result()
    gate.open()


def test_future_ends_at_its_deadline_though_nobody_asks(kv, gate):
    """A future ends at its deadline even if no thread waits for it."""
    told = Future()
    future = kv.call_service_async["kv"].hold(gate, timeout=SHORT)
    future.add_done_callback(lambda ended: told.set_result(ended.exception()))
    assert isinstance(told.result(PATIENCE), errors.CallTimeoutError)
    assert future.done()
    gate.open()


def test_future_waits_no_longer_than_told(kv, gate):
    """`result` and `exception` of a future wait no longer than their timeout."""
    future = kv.call_service_async["kv"].hold(gate)
    with pytest.raises(TimeoutError):
        future.result(SHORT)
    with pytest.raises(TimeoutError):
        future.exception(SHORT)
    gate.wait_entered()
    assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (False, True, False, False)
    gate.open()
    assert future.result(PATIENCE) == "held"
    assert future.exception() is None


def test_future_cancels_the_call(kv, gate):
    """Cancelling a future cancels its waiting call, which never starts, and wakes those who wait for it."""
    first = kv.call_service_async["kv"].hold(gate)
    gate.wait_entered()
    second = kv.call_service_async["kv"].hold(gate)
    assert second.cancel()
    assert second.cancelled()
    assert concurrent.futures.wait([second], PATIENCE).done == {second}
    with pytest.raises(CancelledError):
        second.result()
    with pytest.raises(CancelledError):
        second.exception()
    gate.open()
    assert first.result(PATIENCE) == "held"
    assert gate.entered == 0


@pytest.mark.parametrize("strategy", ["single", "multi", "pool", "async", "inline"])
def test_services_call_in_both_ways(kv, strategy):
    """Services call each other in both spellings, under every strategy."""

    class Asking:
        def ask(self):
            call, call_async = self.ctx.call_service, self.ctx.call_service_async
            try:
                call["kv"].get("missing")
            except RuntimeError as error:
                caught = isinstance(error, KeyError)
            return (
                call("kv", "k", method="get", timeout=PATIENCE),
                call["kv"].get("k", timeout=PATIENCE),
                call_async("kv", "k", method="get").result(PATIENCE),
                call_async["kv"].get("k").result(PATIENCE),
                caught,
            )

    config = ServiceDeploymentConfig(threading_strategy=strategy)
    kv.register_service_with_config("asking", Asking, deployment_config=config)
    assert kv.call_service("asking", method="ask") == (1, 1, 1, 1, True)


def test_service_manager_of_sages_own_services(kv):
    """`ctx.service_manager` works as SAGE's own services use it."""

    class Asking:
        def ask(self):
            manager = self.ctx.service_manager
            return (
                manager.get_service_proxy("kv").get("k", timeout=PATIENCE),
                manager.call_sync("kv", "get", "k"),
                manager.call_async("kv", "get", "k", timeout=PATIENCE).result(PATIENCE),
            )

    kv.register_service("asking", Asking)
    assert kv.call_service["asking"].ask() == (1, 1, 1)


def test_waiting_for_oneself_ends_at_once(env):
    """A method that waits for a call of its own service without a free slot gets ReentrantCallError at once."""

    class Again:
        def outer(self):
            return self.ctx.call_service_async["svc"].inner().result()

        def inner(self):
            return 1

    config = ServiceDeploymentConfig(timeout=None)
    env.register_service_with_config("svc", Again, deployment_config=config)
    with pytest.raises(errors.ReentrantCallError):
        env.call_service["svc"].outer(timeout=PATIENCE)


def test_caller_finds_a_service_that_was_deployed_again(kv):
    """A caller reaches the new service after another one was deployed under the same name."""
    kv.drain("kv")
    kv.register_service("kv", type("Other", (), {"execute": lambda _: "other", "get": lambda _, key: key}))
    assert kv.call_service["kv"].get("k") == "k"
    assert kv.call_service("kv") == "other"


def test_many_timeouts_are_not_kept_for_ever(kv):
    """A caller keeps handles for at most 64 different timeouts."""
    for number in range(200):
        assert kv.call_service("kv", "k", method="get", timeout=PATIENCE + number) == 1
    assert len(kv.call_service._handles._timed) <= 64


def test_callers_are_safe_from_many_threads(kv):
    """Many threads can use one caller."""
    answers = []

    def ask():
        answers.extend(kv.call_service["kv"].get("k", timeout=PATIENCE) for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [1] * 400
