"""
Objects of Ray's store as arguments: the method gets their values, and references inside other values stay references.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pytest
import ray

from sage_deploy_ray.actors import arguments
from sage_deploy_testing.suites.service_conformance import ServiceConformance
from sage_plugins import batch_of, errors, idempotent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins import ServiceContext, ServiceHandle

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

#: Bytes of an object that Ray keeps in the store, not with its reference.
LARGE: Final = 2**20


class Memory:
    """Like an array: its numbers are used in place, without a copy."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def __reduce_ex__(self, protocol: Any) -> Any:
        import pickle

        return Memory, (pickle.PickleBuffer(self.numbers),)


class Reader:
    """A service that inspects its arguments."""

    ctx: ServiceContext

    def __init__(self, *kept: Any) -> None:
        self._kept: Any = kept
        self.started = 0

    def look(self, *args: Any, **kwargs: Any) -> Any:
        self.started += 1
        return [self._seen(each) for each in args], {name: self._seen(each) for name, each in kwargs.items()}

    @staticmethod
    def _seen(value: Any) -> Any:
        if isinstance(value, Memory):
            return len(value.numbers), memoryview(value.numbers).readonly
        return f"{type(value).__name__} of {type(value[0]).__name__}" if isinstance(value, list) else value

    def count(self) -> int:
        return self.started

    @idempotent
    def echo(self, value: Any) -> Any:
        return value

    def size(self, memory: Memory) -> int:
        return self.sizes([memory])[0]

    @batch_of("size")
    def sizes(self, memories: list[Memory]) -> list[int]:
        return [len(memory.numbers) for memory in memories]

    def each(self, memory: Memory) -> Iterator[int]:
        yield from memoryview(memory.numbers)[:3]

    def get(self, references: list[Any]) -> Any:
        """Return the value of a reference inside a list."""
        return ray.get(references[0])

    def keep(self, references: list[Any]) -> None:
        self._kept = references

    def kept(self) -> Any:
        return ray.get(self._kept[0])

    def kept_bytes(self, count: int) -> bytes:
        return bytes(memoryview(self._kept[0].numbers)[:count])

    def make(self, value: Any) -> list[Any]:
        """Return a reference to an object of this process."""
        return [ray.put(value)]

    def make_items(self, count: int) -> Iterator[list[Any]]:
        for number in range(count):
            yield [ray.put(number)]

    def fail(self, value: Any) -> None:
        raise LookupError([ray.put(value)])

    def pass_on(self, handle: ServiceHandle, method: str, references: list[Any]) -> Any:
        """Call another service with a reference of the caller, and with a new one of this process."""
        return handle.call(method, references[0]), handle.call(method, ray.put(Memory(bytes(LARGE))))

    def ask(self, service: str, method: str, references: list[Any]) -> Any:
        return self.ctx.service(service).call(method, references[0])


@ray.remote(num_cpus=0)
def _never() -> None:
    threading.Event().wait()


@ray.remote(num_cpus=0, concurrency_groups={"open": 2}, max_concurrency=8)
class Valves:
    """Makes tasks wait until the valve of their test is opened."""

    def __init__(self) -> None:
        self._valves: defaultdict[str, threading.Event] = defaultdict(threading.Event)

    @ray.method(concurrency_group="open")
    def open(self, test: str) -> None:
        self._valves[test].set()

    def wait(self, test: str, value: Any) -> Any:
        self._valves[test].wait(60)
        if isinstance(value, Exception):
            raise value
        return value


@ray.remote(num_cpus=0)
class Debtor:
    """Owns an object that will never exist."""

    def owe(self) -> list[Any]:
        """Return a reference to the object, which is lost with this process."""
        return [_never.remote()]

    def pid(self) -> int:
        return os.getpid()


class Valve:
    """The valve of one test."""

    def __init__(self, valves: Any, test: str) -> None:
        self._valves, self._test = valves, test

    def open(self) -> None:
        ray.get(self._valves.open.remote(self._test))

    def wait(self, value: Any) -> Any:
        """Return a reference to the result of a task that waits, and then returns or raises *value*."""
        return self._valves.wait.remote(self._test, value)


@pytest.fixture(scope="module")
def _valves(_cluster_of_the_run: Any) -> Iterator[Any]:
    actor = Valves.remote()
    ray.get(actor.open.remote(""))  # its process runs, so that the leak guard knows to whom it belongs
    yield actor
    ray.kill(actor)


@pytest.fixture
def valve(_valves: Any, request: pytest.FixtureRequest) -> Iterator[Valve]:
    valve = Valve(_valves, request.node.name)
    yield valve
    valve.open()


@pytest.fixture
def debtor(cluster: Any) -> Iterator[Any]:
    actor = Debtor.remote()
    yield actor
    ray.kill(actor)


@pytest.mark.usefixtures("cluster")
class TestReferences(ServiceConformance):
    kind: ClassVar[str] = "target"
    plugin_id = target = "remote_any"
    strategy = "single"
    config: ClassVar[dict[str, Any]] = {"cpu_cores": 0.01}

    def reader(self, **fields: Any) -> Any:
        found = self.register(Reader, **fields)
        found.env.deploy()
        return found

    def test_values_come_from_the_store(self) -> None:
        """
        Arguments get their values from the store without a copy, small ones too. References inside a list stay usable.
        """
        svc = self.reader()
        large, small = ray.put(Memory(bytearray(LARGE))), ray.put(5)
        args, kwargs = svc.handle.look(large, small, [large], named=large, plain=7)
        assert args == [(LARGE, True), 5, "list of ObjectRef"]
        assert kwargs == {"named": (LARGE, True), "plain": 7}
        assert len(svc.handle.get([large]).numbers) == LARGE
        assert svc.handle.get([small, lambda: None]) == 5

    def test_results_items_and_errors_can_hold_references(self) -> None:
        """
        Results, items and errors can hold references to objects of the replica, kept as long as the caller has them.
        """
        svc = self.reader()
        assert ray.get(svc.handle.make("value")[0]) == "value"
        items = list(svc.handle.stream("make_items", 3))
        assert ray.get([reference for (reference,) in items]) == [0, 1, 2]
        with pytest.raises(LookupError) as caught:
            svc.handle.fail("wrong")
        assert ray.get(caught.value.args[0][0]) == "wrong"

    def test_a_reference_that_a_service_keeps_keeps_its_object(self) -> None:
        """An object stays while a service keeps a reference to it, even if the caller has dropped its own."""
        svc = self.reader()
        svc.handle.keep([ray.put("kept")])
        gc.collect()
        assert svc.handle.kept() == "kept"

    def test_constructor_gets_references_as_they_are(self) -> None:
        """A constructor gets references unchanged. Their objects stay, also for replicas that are built later."""
        svc = self.register(Reader, ray.put("given"))
        svc.env.deploy()
        gc.collect()
        assert svc.handle.kept() == "given"
        svc.env.restart("svc")
        assert svc.handle.kept() == "given"

    def test_value_that_a_service_keeps_stays(self) -> None:
        """A value that a service keeps stays, even without its reference and with a full object store."""
        svc = self.reader()
        svc.handle.keep(ray.put([Memory(b"kept" + bytes(LARGE))]))
        gc.collect()
        for _ in range(100):
            svc.handle.size(ray.put(Memory(bytes(LARGE))))
        assert svc.handle.kept_bytes(4) == b"kept"

    def test_object_is_kept_until_the_call_has_ended(self, valve: Valve) -> None:
        """An object stays until the call has ended, even if the caller drops its reference after the call was made."""
        svc = self.reader()
        call = svc.handle.submit("look", ray.put(Memory(bytearray(LARGE))), valve.wait("late"))
        gc.collect()
        valve.open()
        assert call.result(self.patience) == ([(LARGE, True), "late"], {})

    def test_streams_batches_and_bundles_get_values(self) -> None:
        """Streams, batches and bundles get values for their references."""
        svc = self.reader(batch_size=4, batch_wait=0.0)
        memory = ray.put(Memory(b"abc" + bytes(LARGE)))
        assert list(svc.handle.stream("each", memory)) == [*b"abc"]
        sizes = [svc.handle.submit("size", memory) for _ in range(9)]
        assert [call.result(self.patience) for call in sizes] == [LARGE + 3] * 9
        numbers = [ray.put(number) for number in range(50)]
        bundled = [svc.handle.submit("echo", number) for number in numbers]
        assert [call.result(self.patience) for call in bundled] == [*range(50)]

    def test_object_that_is_not_ready_takes_one_slot(self, valve: Valve) -> None:
        """A call that waits for an object takes one slot; the other slot answers meanwhile."""
        svc = self.reader(threading_strategy="multi", thread_count=2)
        late = svc.handle.submit("look", valve.wait(1))
        assert [svc.handle.echo(number) for number in range(5)] == [*range(5)]
        assert not late.done()
        valve.open()
        assert late.result(self.patience) == ([1], {})

    def test_deadline_passes_while_an_object_is_not_ready(self, valve: Valve) -> None:
        """If the deadline passes while an object is not ready, the only slot is free and the method never starts."""
        svc = self.reader()
        with pytest.raises(errors.CallTimeoutError):
            svc.handle.with_options(timeout=self.while_running).look(valve.wait(1))
        assert svc.handle.echo(1) == 1
        valve.open()
        assert svc.handle.count() == 0
        assert svc.outcomes == {"ok": 2, "timeout": 1}

    def test_nobody_waits_on_for_what_is_wanted_no_more(self, valve: Valve) -> None:
        """Waiting for an object stops when nobody wants it any more, so that waiting threads do not add up."""
        looks = iter([self.patience * 10])
        assert arguments.fetch((valve.wait(1),), {}, lambda: next(looks, 0.0), "svc.look") is None

    def test_failed_task_gives_the_caller_its_error(self, valve: Valve) -> None:
        """
        If an argument's task failed, the caller gets its error with a note, and the method does not start.

        It does not matter whether the task has failed before the call or fails during the wait.
        """
        svc = self.reader()
        failing = valve.wait(KeyError("key"))
        call = svc.handle.submit("look", named=failing)
        valve.open()
        for error in (call.exception(self.patience), svc.handle.submit("look", named=failing).exception(self.patience)):
            assert type(error) is KeyError
            assert error.args == ("key",)
            assert "argument 'named' of svc.look is the result of a Ray task that failed" in error.__notes__[0]
            assert "raise value" in error.__notes__[0]
        assert svc.handle.count() == 0
        assert svc.outcomes == {"ok": 1, "error": 2}

    def test_task_that_failed_with_rays_time_out_is_not_waited_for(self, valve: Valve) -> None:
        """A task that failed with GetTimeoutError is not waited for, although Ray uses that class for its own waits."""
        svc = self.reader()
        valve.open()
        call = svc.handle.submit("look", valve.wait(ray.exceptions.GetTimeoutError("theirs")))
        assert type(call.exception(self.patience)) is ray.exceptions.GetTimeoutError

    def test_lost_object_is_an_error_of_rays(self, debtor: Any) -> None:
        """
        A lost object fails the call with Ray's error, which names the argument. It may be lost before or during the
        call.
        """
        svc = self.reader()
        (reference,) = ray.get(debtor.owe.remote())
        call = svc.handle.submit("look", 1, reference)
        self.until(lambda: svc.inflight == 1)
        os.kill(ray.get(debtor.pid.remote()), signal.SIGKILL)
        for error in (call.exception(self.patience), svc.handle.submit("look", 1, reference).exception(self.patience)):
            assert type(error) is ray.exceptions.OwnerDiedError
            assert isinstance(error, ray.exceptions.ObjectLostError)
            note = "argument 2 of svc.look is a Ray object that cannot be fetched, so the method has not started."
            assert error.__notes__[0] == note
        assert svc.handle.count() == 0

    def test_calls_from_other_replicas_and_by_handles(self) -> None:
        """A reference can be passed on from service to service; the last one gets the value."""
        svc = self.reader()
        other = self.register(Reader, name="other", env=svc.env)
        memory = ray.put(Memory(bytearray(LARGE)))
        seen = [(LARGE, True)], {}
        assert other.handle.pass_on(svc.handle, "look", [memory]) == (seen, seen)
        assert other.handle.ask("svc", "look", [memory]) == seen

    def test_call_that_moves_to_another_replica_takes_its_reference_along(self, valve: Valve) -> None:
        """If the replica that waits for an object dies, an idempotent call runs elsewhere and gets the object there."""
        svc = self.reader(failover_enabled=True, **self.several(2))
        calls = [svc.handle.submit("echo", valve.wait(Memory(bytearray(LARGE)))) for _ in range(2)]
        self.until(lambda: svc.inflight == 2)
        os.kill(svc.status["replicas"][0]["pid"], signal.SIGKILL)
        valve.open()
        assert [len(call.result(self.patience).numbers) for call in calls] == [LARGE] * 2
