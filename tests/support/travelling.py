"""
Cases for targets with other processes: handles that travel there, and services there that call each other.

A test file inherits the case classes together with a `Travelling`. That class says on which target they run, and how
another program gets there.
"""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from functools import wraps
from textwrap import dedent
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest

from sage_deploy_remote.link.serving import callers
from sage_deploy_testing.suites.probes import Calling, Probe
from sage_deploy_testing.suites.service_conformance import ServiceConformance
from sage_plugins import errors
from sage_plugins.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sage_plugins import ServiceHandle


class Relay(Calling):
    """A service that calls others through the handles it gets."""

    def __init__(self, handle: ServiceHandle | None = None) -> None:
        self._kept = handle

    def use(self, handle: ServiceHandle, method: str, /, *args: Any) -> Any:
        return handle.call(method, *args)

    def keep(self, handle: ServiceHandle) -> None:
        self._kept = handle

    def use_kept(self, method: str, /, *args: Any) -> Any:
        return self._kept.call(method, *args)

    def give_back(self, handle: ServiceHandle) -> ServiceHandle:
        return handle

    def flood(self, handle: ServiceHandle, name: str, count: int) -> list[Any]:
        """Make *count* calls at once. Return the result or the error's class name of each."""
        calls = [handle.submit("do", [name, number]) for number in range(count)]
        return [call.result() if call.exception() is None else type(call.exception()).__name__ for call in calls]

    def in_line(self, handle: ServiceHandle, numbers: list[int], checkpoint: Any) -> None:
        """Call with each number as argument and priority. Report when all are submitted."""
        calls = [handle.with_options(priority=number).submit("do", number) for number in numbers]
        checkpoint.reach()
        for call in calls:
            call.result()

    def place(self, handle: ServiceHandle, keys: list[int]) -> list[int]:
        """Return the replica that gets each key."""
        return [handle.with_options(key=key).call("do", key) for key in keys]

    def fail(self, handle: ServiceHandle) -> str:
        """Make a call that raises. Return the class name of the error."""
        return type(handle.submit("fail", "again").exception()).__name__

    def cancel(self, handle: ServiceHandle) -> None:
        """Make a call, and cancel it as soon as possible."""
        call = handle.submit("do", "cancelled")
        while not call.cancel():
            threading.Event().wait(0.001)

    def overflow(self, handle: ServiceHandle, count: int) -> str:
        """Make calls until one is refused."""
        calls = []
        try:
            for number in range(count):
                calls.append(handle.submit("do", number))  # noqa: PERF401 - the accepted calls count
        except errors.OverloadedError as error:
            return f"{len(calls)} accepted: {error}"
        finally:
            for call in calls:
                call.cancel()
        return "all accepted"


class Impatient:
    """A service whose replica quickly gives up the calls of a caller that is gone."""

    def __init__(self) -> None:
        callers.CHECK_INTERVAL_S, callers.GONE_AFTER_S = 0.05, 0.2  # type: ignore[misc] # constants for all other code
        self._closed = 0

    def numbers(self) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            self._closed += 1

    def closed(self) -> int:
        """Return the number of streams that have ended."""
        return self._closed


#: For a `Program`: returns the result or the error of a function in a forked child.
FORKING = """
        def forked(function):
            import os
            reading, writing = os.pipe()
            if not os.fork():
                try:
                    answer = str(function())
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
                os.write(writing, answer.encode())
                os._exit(0)
            os.close(writing)
            with open(reading) as answers:
                return answers.read()
"""


class Program:
    """Another Python process. It runs the statements of *begin*, then evaluates expressions."""

    TAKE = """
        handle = pickle.loads(open("handle", "rb").read())
    """
    STREAM = """
        stream = handle.stream("numbers")
    """
    SOURCE = """
        for line in sys.stdin:
            try:
                answer = str(eval(line))
            except Exception as error:
                answer = f"{type(error).__name__}: {error}".replace("\\n", " ")
            print("answer", answer, flush=True)
    """

    def __init__(self, folder: Path, *begin: str) -> None:
        parts = ["import logging, pickle, sys\n", *begin, self.SOURCE]
        self._process = subprocess.Popen(
            [sys.executable, "-c", "".join(map(dedent, parts))],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, expression: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(expression, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("answer "):
                return line.removeprefix("answer ").strip()
        raise AssertionError("the program has ended")

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)


class Travelling(ServiceConformance):
    """
    Two services, one of which calls the other from its own process.

    Attributes:
        owner: Statements of a program that deploys a service `svc` with a `Probe`, and writes its handle to a file.
    """

    kind: ClassVar[str] = "target"
    strategy = "single"
    owner: ClassVar[str]

    def program(self, folder: Path, begin: str = Program.TAKE) -> Program:
        """Start another program in *folder*. It takes the handle in the file there, or begins with *begin*."""
        return Program(folder, begin)

    def pair(self, *, relays: int = 1, **fields: Any) -> Any:
        """Deploy the service `svc`, and one or more that call it."""
        svc = self.register(**fields)
        names = ["relay", *(f"relay{number}" for number in range(1, relays))]
        found = [self.register(Relay, name=name, env=svc.env) for name in names]
        svc.env.deploy()
        return svc, *found


def in_make_test(*names: str) -> Callable[[type], type]:
    """Mark all inherited cases except *names* as slow. For cases that `make test` runs on another target."""

    def mark(cls: type) -> type:
        own = set(vars(cls))
        for name in dir(cls):  # sorted: all test processes must collect the cases in the same order
            if name.startswith("test_") and name not in own | {*names}:
                setattr(cls, name, pytest.mark.slow(_copy(getattr(cls, name))))
        return cls

    return mark


def _copy(case: Callable[..., None]) -> Callable[..., None]:
    """Return the same case for another class, with marks of its own."""

    @wraps(case)
    def run(*args: Any, **kwargs: Any) -> None:
        case(*args, **kwargs)

    return run


class HandleCases(Travelling):
    """Handles as arguments and in files."""

    def test_handle_as_an_argument_calls_the_service_from_there(self) -> None:
        """A handle's options travel with it. Calls from other processes are counted where they run."""
        svc, relay = self.pair()
        own, _ = svc.handle.where()
        assert relay.handle.use(svc.handle, "where")[0] == own
        assert 0 < relay.handle.use(svc.handle.with_options(timeout=3), "remaining") < 3
        assert svc.outcomes == {"ok": 3}

    def test_handle_in_a_constructor_waits_for_the_service(self) -> None:
        """The handle is pickled before the service is deployed."""
        env = self.environment()
        svc = self.register(env=env)
        relay = self.register(Relay, svc.handle, name="relay", env=env)
        env.deploy()
        assert relay.handle.use_kept("echo", 7) == 7

    def test_handle_that_comes_home_is_one_of_that_very_service(self) -> None:
        """The calls of a returned handle wait in the queue of this process."""
        svc, relay = self.pair()
        back = relay.handle.give_back(svc.handle.with_options(timeout=self.patience))
        occupied = self.occupy(svc)
        waiting = back.submit("echo", 1)
        assert svc.waiting == 1
        occupied.open()
        assert waiting.result(self.patience) == 1

    def test_handle_in_a_file_is_used_by_another_program(self, tmp_path: Path) -> None:
        """The handle also works after the service was restarted."""
        svc, _ = self.pair()
        (tmp_path / "handle").write_bytes(pickle.dumps(svc.handle))
        with self.program(tmp_path) as program:
            assert program.ask("handle.echo(5)") == "5"
            svc.env.restart("svc")
            assert program.ask("handle.who()[0]") == "svc"
            svc.env.drain("svc")
            assert program.ask("handle.echo(6)").startswith("ServiceStoppedError: svc.echo was not run")

    def test_handle_in_a_forked_child_is_refused_at_once(self, tmp_path: Path) -> None:
        """The handle may have been used before the fork or not. The parent continues."""
        svc, _ = self.pair()
        (tmp_path / "handle").write_bytes(pickle.dumps(svc.handle))
        with self.program(tmp_path, Program.TAKE + FORKING) as program:
            assert program.ask("forked(lambda: handle.echo(5))").startswith("ForkedRuntimeError")
            assert program.ask("handle.echo(5)") == "5"
            assert program.ask("forked(lambda: handle.echo(5))").startswith("ForkedRuntimeError")
            assert program.ask("handle.echo(6)") == "6"

    def test_stream_of_a_process_that_is_killed_gives_its_slot_back(self, tmp_path: Path) -> None:
        """Nobody reports the death. The replica notices that the process keeps no exchange open any more."""
        svc = self.register(Impatient)
        svc.env.deploy()
        (tmp_path / "handle").write_bytes(pickle.dumps(svc.handle))
        begin = Program.TAKE + Program.STREAM
        with self.program(tmp_path, begin) as program:
            assert program.ask("[next(stream) for _ in range(3)]") == "[0, 1, 2]"
            program.kill()
        assert svc.handle.with_options(timeout=self.patience).closed() == 1
        assert svc.outcomes == {"cancelled": 1, "ok": 1}


class ChangeCases(Travelling):
    """What other processes see of a service that changes."""

    def test_traveller_goes_on_when_a_replica_is_killed(self) -> None:
        """The next call waits for the replacement of the dead replica, and goes to it."""
        svc, relay = self.pair()
        relay.handle.keep(svc.handle)
        before, _ = relay.handle.use_kept("where")
        os.kill(before, signal.SIGKILL)
        self.until(lambda: svc.status["replicas"][0]["id"] != "svc#0")
        after, _ = relay.handle.use_kept("where")
        assert after != before

    def test_traveller_uses_replicas_that_are_added_and_none_that_leave(self) -> None:
        svc, relay = self.pair()
        relay.handle.keep(svc.handle)
        assert relay.handle.use_kept("do", 0) == 0
        svc.env.scale("svc", 2)
        assert {relay.handle.place(svc.handle, [number])[0] for number in range(24)} == {0, 1}
        svc.env.scale("svc", 1)
        assert [relay.handle.use_kept("do", 2) for _ in range(4)] == [0] * 4

    def test_call_of_a_traveller_is_finished_before_its_replica_leaves(self) -> None:
        """Scaling down waits for calls of other processes too, within the drain timeout."""
        svc, relay = self.pair(drain_timeout=self.patience, **self.several(2))
        relay.handle.keep(svc.handle)
        gate = self.watch()
        own = svc.handle.submit("hold", gate.checkpoint)
        (first,) = gate.wait()
        theirs = relay.handle.submit("use_kept", "hold", gate.checkpoint, "theirs")
        (second,) = gate.wait()
        assert {first, second} == {0, 1}
        scaling = self.in_thread(svc.env.scale, "svc", 1)
        self.until(lambda: any(each["state"] == "draining" for each in svc.status["replicas"]))
        gate.open()
        assert (own.result(self.patience), theirs.result(self.patience)) == (first, second)
        scaling.result(self.patience)

    def test_traveller_keeps_to_the_balancer_that_is_set(self) -> None:
        """Equal keys go to the same replica, for every caller."""
        svc, relay = self.pair(**self.several(2))
        keys = list(range(24))
        relay.handle.place(svc.handle, keys)
        svc.env.set_load_balancer("svc", "consistent_hash")
        places = [svc.handle.with_options(key=key).do(key) for key in keys]
        assert relay.handle.place(svc.handle, keys) == places


class BoundCases(Travelling):
    """Slots and queues that several processes share."""

    def test_two_callers_of_one_slot_lose_nothing_and_run_nothing_twice(self) -> None:
        """The replica refuses calls beyond its slot. The callers send them again when there is room."""
        svc, relay, other = self.pair(relays=2)
        calls = [each.handle.submit("flood", svc.handle, each.name, 40) for each in (relay, other)]
        mine = [svc.handle.submit("do", ["own", number]) for number in range(40)]
        assert [call.result(self.patience) for call in mine] == [0] * 40
        assert [call.result(self.patience) for call in calls] == [[0] * 40] * 2
        ran = Counter(name for name, _ in svc.handle.done())
        assert ran == {"own": 40, "relay": 40, "relay1": 40}
        assert len({tuple(each) for each in svc.handle.done()}) == 120
        assert svc.outcomes["ok"] == 122

    def test_replica_holds_no_more_calls_than_it_has_slots(self) -> None:
        """A call without a slot waits at its caller. If it is cancelled there, it never runs."""
        svc, relay = self.pair()
        occupied = self.occupy(svc)
        relay.handle.cancel(svc.handle)
        occupied.open()
        assert svc.handle.echo(1) == 1
        assert svc.handle.done() == [None]

    def test_queue_of_a_traveller_is_bounded_as_that_of_the_owner(self) -> None:
        svc, relay = self.pair(queue_size=3, overload="reject")
        occupied = self.occupy(svc)
        said = relay.handle.call("overflow", svc.handle, 100)
        assert "accepted: svc.do was not accepted: the queue is full (queue_size=3)" in said
        assert int(said.split()[0]) <= 4
        occupied.open()

    def test_call_of_a_traveller_that_was_retried_in_vain_counts_once(self) -> None:
        """It counts once, with the outcome of its last attempt, where it ran."""
        retry = {"on": ["ProbeError"], "max_attempts": 2, "backoff": 0.001}
        svc, relay = self.pair(retry=retry, methods={"fail": {"idempotent": True}})
        for number in range(1, 4):
            assert relay.handle.fail(svc.handle) == "ProbeError"
            self.until(lambda number=number: svc.outcomes.get("error") == number)
        assert svc.outcomes == {"error": 3}

    def test_calls_of_a_traveller_start_by_their_priority(self) -> None:
        """Calls in its queue start by priority; none is sent ahead. A handle carries its own priority."""
        svc, relay = self.pair(overload="priority", methods={"do": {"idempotent": True}})
        occupied = self.occupy(svc)
        waiting = self.watch(held=False)
        asking = relay.handle.submit("in_line", svc.handle, [3, 0, -2, 1, 3], waiting.checkpoint)
        waiting.wait()
        occupied.open()
        asking.result(self.patience)
        assert svc.handle.done() == [None, 3, 3, 1, 0, -2]
        assert relay.handle.use(svc.handle.with_options(priority=2), "echo", 1) == 1


class CallCases(Travelling):
    """Services that call each other."""

    def test_chain_of_three_services(self) -> None:
        env = self.environment()
        first, *_ = [self.register(Calling, name=name, env=env) for name in ("a", "b")]
        self.register(name="c", env=env)
        env.deploy()
        assert first.handle.call("ask", "b", "ask", "c", "echo", "innermost") == "innermost"

    def test_environments_with_the_same_names_are_kept_apart(self) -> None:
        """A service finds the services of its own environment."""
        pairs = [self.pair() for _ in range(2)]
        for svc, relay in pairs:
            relay.handle.ask("svc", "do", id(svc))
        assert [svc.handle.done() for svc, _ in pairs] == [[id(svc)] for svc, _ in pairs]

    def test_service_that_is_not_deployed_is_waited_for(self) -> None:
        """A call waits until the startup timeout or its own deadline. Other processes do not deploy the service."""
        env = self.environment()
        relay = self.register(Relay, name="relay", env=env)
        self.register(env=env, startup_timeout=0.05)
        with pytest.raises(errors.NoReplicaError, match=r"'svc' was not deployed in 0\.05 s.*Call `deploy\(\)`"):
            relay.handle.ask("svc", "echo", 1)
        late = self.register(Probe, name="late", env=env)
        with pytest.raises(errors.ServiceNotFoundError):
            relay.handle.ask("laet", "echo", 1)
        asking = relay.handle.submit("ask", "svc", "echo", 1)
        assert isinstance(asking.exception(self.patience), errors.NoReplicaError)
        assert late.handle.echo(2) == 2
        assert relay.handle.ask("late", "echo", 3) == 3

    def test_stopped_service_is_refused(self) -> None:
        svc, relay = self.pair()
        assert relay.handle.ask("svc", "echo", 1) == 1
        svc.env.drain("svc")
        with pytest.raises(errors.ServiceStoppedError):
            relay.handle.ask("svc", "echo", 1)

    def test_circle_over_processes_gets_as_far_as_there_are_slots(self) -> None:
        """For a -> b -> a, where a holds its only slot: the call that can get no slot fails at once."""
        env = self.environment()
        first, second = (self.register(Calling, name=name, env=env, timeout=None) for name in ("a", "b"))
        env.deploy()
        with pytest.raises(errors.ReentrantCallError, match=r"a\.echo would never start"):
            first.handle.call("ask", "b", "ask", "a", "echo", 1)
        self.until(lambda: (first.inflight, second.inflight) == (0, 0))
        env.set_load_balancer("a", "round_robin")
        env.scale("a", 2)
        limited = first.handle.with_options(timeout=self.patience)
        assert limited.call("ask", "b", "ask", "a", "echo", 2) == 2


class OwnerCases(Travelling):
    """What another program sees of the process that deploys."""

    def test_caller_is_told_that_the_process_that_deployed_has_ended(self, tmp_path: Path) -> None:
        """The replicas end with the process, and nobody replaces them."""
        with self.program(tmp_path, self.owner) as owner:
            assert owner.ask("handle.echo(1)") == "1"
            handles = [self.found(tmp_path)]
            assert handles[0].echo(2) == 2
            owner.kill()
        self.until(lambda: "the process that deploys environment 'theirs' has ended" in self.failure(*handles))
        handles.clear()
        self.until(lambda: self.threads() == [])
        SYSTEM.rest()

    def found(self, folder: Path) -> ServiceHandle:
        return pickle.loads((folder / "handle").read_bytes())  # noqa: S301 - our own file

    def failure(self, handle: ServiceHandle) -> str:
        try:
            return handle.echo(3) * ""
        except (errors.ReplicaDiedError, errors.NoReplicaError) as error:
            return str(error)

    def threads(self) -> list[str]:
        """Return the threads that wait for messages of the service, after unused objects were collected."""
        gc.collect()
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("svc-"))

    def test_service_that_is_not_called_any_more_is_let_go_of(self, tmp_path: Path) -> None:
        """The threads end when the last handle and the last call are gone."""
        with self.program(tmp_path, self.owner) as owner:
            assert owner.ask("handle.echo(1)") == "1"
            first, second = self.found(tmp_path), self.found(tmp_path)
            assert (first.echo(2), second.submit("echo", 3).result(self.patience)) == (2, 3)
            threads = self.threads()
            assert set(threads) <= {"svc-changes", "svc-responses"}
            assert len(set(threads)) == len(threads) > 0, "one set for both handles"
            assert owner.ask("handle.echo(4)") == "4"
            del first, second
            self.until(lambda: self.threads() == [])
