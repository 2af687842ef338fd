"""Real SAGE pipelines call services that sage-deploy runs: all answers come in order, and every service ends."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sage.runtime import BaseService, pipeline_compiler

from sage_plugins import ServiceDeploymentConfig
from sage_plugins.errors import MethodNotFoundError, ServiceNotFoundError
from sage_steps import LIFE, PATIENCE, Collect, Do, Doubler, Recorder, call, run_batch, start_stream

SUPPORT = Path(__file__).parent.parent / "support"


# -- SAGE's defects ---------------------------------------------------------------------------------------------------


def test_linear_batch_calls_services(sage_env):
    """Functions in a linear batch can call services. SAGE's own contexts of linear batches have no `call_service`."""
    sage_env.register_service("svc", Doubler)
    assert run_batch(sage_env, [1, 2, 3], call) == [2, 4, 6]


def test_batch_with_a_key_calls_services(sage_env):
    """Functions in a batch with a key can call services too."""
    sage_env.register_service("svc", Doubler)
    assert run_batch(sage_env, [1, 2, 3], call, keyed=True) == [2, 4, 6]


def test_stream_delivers_every_item_in_its_order(sage_env):
    """
    A stream delivers every item in order.

    SAGE reads the next item while it waits for an answer, so it loses the order, and then items.
    """
    sage_env.register_service("svc", Doubler)
    into, full = start_stream(sage_env, 600, call)
    assert full.wait(PATIENCE)
    assert into == [2 * number for number in range(1, 601)]


class Outer:
    """Calls another service once all of *together* calls are inside."""

    def __init__(self, together: int) -> None:
        self._barrier = threading.Barrier(together)

    def process(self, value: int) -> int:
        self._barrier.wait(PATIENCE)
        return self.ctx.call_service("inner", value, method="process") + 1


@pytest.mark.parametrize("keyed", [False, True])
def test_calls_within_calls_all_end(sage_env, keyed):
    """
    Nested calls all end, also when more run at once than SAGE has threads.

    SAGE uses one pool of four threads for calls of all levels: four nested calls at once wait for each other forever.
    """
    config = ServiceDeploymentConfig(threading_strategy="multi", thread_count=8)
    sage_env.register_service_with_config("outer", Outer, 8, deployment_config=config)
    sage_env.register_service("inner", Doubler)

    def nested(function: Any, items: list[int]) -> list[int]:
        futures = [function.call_service_async("outer", item) for item in items]
        return [future.result(PATIENCE) for future in futures]

    assert run_batch(sage_env, [list(range(8))], nested, keyed=keyed) == [[2 * item + 1 for item in range(8)]]


@pytest.mark.parametrize("keyed", [False, True])
def test_no_caller_looks_again_and_again(sage_env, keyed, monkeypatch):
    """Callers are woken when the answer comes. SAGE's callers poll every 10 ms."""

    def sleep(_seconds: float) -> None:
        pytest.fail("a caller sleeps")

    monkeypatch.setattr(pipeline_compiler, "time", SimpleNamespace(sleep=sleep, monotonic=None))
    sage_env.register_service("svc", Doubler)

    assert run_batch(sage_env, [1, 2, 3], call, keyed=keyed) == [2, 4, 6]


def test_services_of_a_stream_are_stopped(sage_env):
    """
    The services of a stream are stopped when the environment closes, and each hook runs once.

    SAGE never stops the services of a stream.
    """
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    _, full = start_stream(sage_env, 3, call)
    assert full.wait(PATIENCE)
    assert said == LIFE[:3]

    sage_env.close()

    assert said == LIFE
    sage_env.close()
    assert said == LIFE


@pytest.mark.parametrize("keyed", [False, True])
def test_services_of_a_batch_are_stopped_at_its_end(sage_env, keyed):
    """The services of a batch stop at its end, and each hook runs once."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    run_batch(sage_env, [1, 2, 3], call, keyed=keyed)
    assert said == LIFE


def test_hooks_run_though_the_service_has_no_call(sage_env):
    """A service without calls is deployed and stopped too. SAGE creates a service at its first call."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    run_batch(sage_env, [1], lambda _, item: item)
    assert said == LIFE


# -- how functions call -----------------------------------------------------------------------------------------------


class Store:
    """A service without `process`: SAGE picks the method by its own rules."""

    def __init__(self) -> None:
        self._values = {"a": 1}

    def execute(self, key: str) -> Any:
        return ("executed", key)

    def get(self, key: str, *, default: Any = None) -> Any:
        return self._values.get(key, default)

    def demand(self, key: str) -> Any:
        return self._values[key]

    def hold(self, gate: Any) -> None:
        gate()


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(
    ("what", "answer"),
    [
        (lambda function, _: function.call_service("svc", "a"), ("executed", "a")),
        (lambda function, _: function.call_service("svc", "a", method="get"), 1),
        (lambda function, _: function.call_service("svc", "b", method="get", default=2), 2),
        (lambda function, _: function.call_service(service_name="svc", key="a", method="get", timeout=5), 1),
        (lambda function, _: function.call_service["svc"].get("a", timeout=5), 1),
        (lambda function, _: function.call_service_async("svc", "a", method="get").result(PATIENCE), 1),
        (lambda function, _: function.call_service_async["svc"].get("a").result(PATIENCE), 1),
    ],
)
def test_functions_call_in_every_way(what, answer, keyed, sage_env):
    """All ways to call a service work: those of the current SAGE and those until 2025."""
    sage_env.register_service("svc", Store)
    assert run_batch(sage_env, [0], what, keyed=keyed) == [answer]


@pytest.mark.parametrize("keyed", [False, True])
def test_errors_arrive_as_themselves(keyed, sage_env):
    """An error of a method has its own type, and is also a `RuntimeError` for code written for older SAGE."""

    def demand(function: Any, key: str) -> Any:
        try:
            function.call_service("svc", key, method="demand")
        except RuntimeError as error:
            return isinstance(error, KeyError), error.args
        return None

    sage_env.register_service("svc", Store)
    assert run_batch(sage_env, ["missing"], demand, keyed=keyed) == [(True, ("missing",))]


def test_error_of_a_function_ends_the_batch_and_its_services(sage_env):
    """An error in a function ends the batch, and its services are stopped."""
    said: list[str] = []
    sage_env.register_service("svc", Recorder, said)
    with pytest.raises(MethodNotFoundError, match="nothing_like_it"):
        run_batch(sage_env, [1], lambda function, item: function.call_service("svc", item, method="nothing_like_it"))
    assert said == LIFE


def test_timeout_ends_a_call_in_time(sage_env, gate):
    """A caller is released at its timeout, although the method goes on."""

    def hold(function: Any, _: Any) -> str:
        try:
            function.call_service("svc", gate, method="hold", timeout=0.05)
        except TimeoutError as error:
            gate.open()
            return type(error).__name__
        return "no error"

    sage_env.register_service("svc", Store)
    assert run_batch(sage_env, [0], hold) == ["CallTimeoutError"]


@pytest.mark.parametrize("keyed", [False, True])
def test_unknown_service_is_refused_with_the_nearest_name(sage_env, keyed):
    """A call of an unknown service raises `ServiceNotFoundError` with the nearest name, in every kind of batch."""
    sage_env.register_service("doubler", Doubler)
    with pytest.raises(ServiceNotFoundError, match=r"no service 'doublr' in environment .*: did you mean 'doubler'"):
        run_batch(sage_env, [1], lambda function, item: function.call_service("doublr", item), keyed=keyed)


class SagesOwn(BaseService):
    """A service with SAGE's base class that calls another one."""

    def process(self, value: int) -> Any:
        return self.name, self.call_service("svc", value) + self.call_service_async("svc", value).result(PATIENCE)


def test_service_of_sages_base_class_calls_others(sage_env):
    """A service with SAGE's base class can call other services, with and without waiting."""
    sage_env.register_service("own", SagesOwn)
    sage_env.register_service("svc", Doubler)
    assert run_batch(sage_env, [3], lambda function, item: function.call_service("own", item)) == [("own", 12)]


class Counting(Do):
    """A function that counts in a class attribute."""

    count = 0

    def execute(self, data: Any) -> Any:
        type(self).count += 1
        return super().execute(data)


def test_functions_are_of_their_own_class(sage_env):
    """A function is an instance of its author's class, so class attributes are where the author expects them."""
    Counting.count = 0
    into: list[Any] = []
    sage_env.register_service("svc", Doubler)
    sage_env.from_batch([1, 2]).map(Counting, lambda function, item: (type(function), call(function, item))).sink(
        Collect, into
    )
    sage_env.submit(autostop=True)

    assert into == [(Counting, 2), (Counting, 4)]
    assert Counting.count == 2


class Prefixing(Do):
    def call_service(self, service_name: str, *args: Any, **kwargs: Any) -> Any:
        return ("mine", service_name)


def test_function_keeps_a_way_to_call_that_its_author_wrote(sage_env):
    """A `call_service` that the function's author wrote is not replaced."""
    into: list[Any] = []
    sage_env.register_service("svc", Doubler)
    sage_env.from_batch([1]).map(Prefixing, call).sink(Collect, into)
    sage_env.submit(autostop=True)
    assert into == [("mine", "svc")]


def test_calls_run_at_once_as_the_strategy_allows(sage_env):
    """As many calls run at once as the strategy allows: SAGE's eight threads each get an item of a linear batch."""
    config = ServiceDeploymentConfig(threading_strategy="multi", thread_count=4)
    sage_env.register_service_with_config("svc", Meeting, 4, deployment_config=config)
    assert run_batch(sage_env, [1, 2, 3, 4], call) == [1, 2, 3, 4]


class Meeting:
    def __init__(self, together: int) -> None:
        self._barrier = threading.Barrier(together)

    def process(self, value: int) -> int:
        self._barrier.wait(PATIENCE)
        return value


class Alone:
    """A service that fails if two threads enter it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def process(self, value: int) -> int:
        assert self._lock.acquire(blocking=False)
        try:
            return value
        finally:
            self._lock.release()


def test_plain_service_runs_one_call_at_a_time(sage_env):
    """A plain service runs one call at a time. SAGE kept this rule until 2025; now four threads enter one instance."""
    sage_env.register_service("svc", Alone)
    assert run_batch(sage_env, list(range(200)), call) == list(range(200))


# Each program exits with 0 if SAGE alone has the defect that the test above shows to be fixed.
_PROGRAM = """
import threading
from sage.foundation import MapFunction
from sage.runtime import LocalEnvironment
from sage_steps import Collect, Count, Do

env = LocalEnvironment("test")
into = []
"""
ALONE = {
    "a linear batch cannot call services": """
class Doubler:
    def process(self, value):
        return 2 * value

env.register_service("svc", Doubler)
env.from_batch([1]).map(Do, lambda function, item: function.call_service("svc", item)).sink(Collect, into)
try:
    env.submit(autostop=True)
except AttributeError as error:
    assert "has no attribute 'call_service'" in str(error)
else:
    raise AssertionError(into)
""",
    "the items of a stream lose their order": """
class Waiter:
    second = threading.Event()

    def process(self, value):
        if value == 1:
            assert self.second.wait(20)  # only a source that is read within this call gets there
        self.second.set()
        return value

full = threading.Event()
env.register_service("svc", Waiter)
source = env.from_source(Count, 2, delay=0.001)
source.map(Do, lambda function, item: function.call_service("svc", item)).sink(Collect, into, 2, full)
env.submit()
assert full.wait(20)
assert into == [2, 1], into
""",
    "calls within calls take each other's threads": """
class Outer:
    inside = threading.Barrier(4)

    def process(self, value):
        self.inside.wait(20)
        try:
            return self.ctx.call_service("inner", value, timeout=0.2)
        except TimeoutError:
            self.inside.wait(20)  # nobody lets go of a thread before all have failed
            return "no thread"

class Inner:
    def process(self, value):
        return value

def nested(function, items):
    return [future.result(20) for future in [function.call_service_async("outer", item) for item in items]]

env.register_service("outer", Outer)
env.register_service("inner", Inner)
env.from_batch([[1, 2, 3, 4]]).keyby(lambda _: 0).map(Do, nested).sink(Collect, into)
env.submit(autostop=True)
assert into == [["no thread"] * 4], into
""",
    "the services of a stream are never stopped": """
class Stopped:
    said = []

    def process(self, value):
        return value

    def stop(self):
        self.said.append("stop")

full = threading.Event()
env.register_service("svc", Stopped)
source = env.from_source(Count, 1, delay=0.001)
source.map(Do, lambda function, item: function.call_service("svc", item)).sink(Collect, into, 1, full)
env.submit()
assert full.wait(20)
env.close()
for thread in threading.enumerate():
    if thread.name.startswith("sage-source-"):
        thread.join(20)
assert Stopped.said == []
assert any(thread.name.startswith("sage_local_service_") for thread in threading.enumerate())
""",
}


@pytest.mark.parametrize("what", ALONE)
def test_what_sage_does_alone(what, program, monkeypatch):
    """SAGE alone still has each defect. If this fails, SAGE has improved and the guide must be updated."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    done = subprocess.run(program(_PROGRAM + ALONE[what]), capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
