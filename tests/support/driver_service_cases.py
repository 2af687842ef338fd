"""
Cases in which services in other processes call a service of the process that deploys.

A test file inherits `DriverServiceCases` together with a `travelling.Travelling`, which defines the other processes.
"""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.suites.probes import Calling, Probe
from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.call.stream import AHEAD
from sage_plugins.clock import SYSTEM
from sage_plugins.threads import future_of
from travelling import Relay, Travelling

if TYPE_CHECKING:
    from pathlib import Path

    from sage_deploy_testing.tools.checkpoints import Checkpoint
    from sage_plugins import Environment


class Reader(Relay):
    """A relay that reads streams."""

    def read(self, name: str, count: int, diary: Checkpoint, /, *args: Any) -> list[Any]:
        """Return the first items of a stream, after reporting each of them."""
        with self.ctx.service(name).stream(*args) as items:
            found = []
            for item in itertools.islice(items, count):
                diary.reach(item)
                found.append(item)
            return found

    def whereabouts(self) -> int:
        return os.getpid()


class Asking(Probe):
    """A service whose start hook calls another service and waits for the reply."""

    def __init__(self, name: str) -> None:
        self._name = name

    def setup(self) -> None:
        self.ctx.service(self._name).echo(1)


class DriverServiceCases(Travelling):
    """A service `home` in this process, and a service `relay` in another one."""

    def home(self, env: Environment, cls: type = Probe, name: str = "home", *args: Any, **fields: Any) -> Any:
        """Register a service in this process."""
        fields = {"timeout": self.patience, "threading_strategy": "single", **fields}
        env.register_service_with_config(name, cls, *args, deployment_config=ServiceDeploymentConfig(**fields))
        return env.service(name)

    def at_home(self, cls: type = Probe, **fields: Any) -> Any:
        """Deploy both. Return the environment, a handle to `home`, and the relay."""
        env = self.environment()
        handle = self.home(env, cls, **fields)
        relay = self.register(Reader, name="relay", env=env)
        env.deploy()
        return env, handle, relay.handle

    def test_service_in_another_process_calls_one_of_this(self) -> None:
        """Calls work by name and by handle. Errors keep their class, deadlines travel, and each call counts once."""
        env, handle, relay = self.at_home()
        assert relay.ask("home", "where")[0] == os.getpid()
        assert 0 < relay.with_options(timeout=3).ask("home", "remaining") < 3
        assert 0 < relay.use(handle.with_options(timeout=2), "remaining") < 2
        with pytest.raises(type(self.raised(handle)), match="text"):
            relay.ask("home", "fail", "text", {"detail": 1})
        assert relay.give_back(handle).where()[0] == os.getpid()
        assert env.get_service_status("home")["metrics"].outcomes == {"ok": 4, "error": 2}

    def raised(self, handle: Any) -> BaseException:
        return handle.submit("fail", "text").exception()  # type: ignore[no-any-return]

    def test_stream_of_this_process_is_read_in_another_one(self) -> None:
        """Items are sent one by one: the generator is never far ahead, and ends when its reader stops."""
        _, _, relay = self.at_home()
        given, read = self.watch(held=False), self.watch()
        reading = relay.submit("read", "home", 2, read.checkpoint, "produce", given.checkpoint, 1000)
        assert read.wait() == [0]
        read.open()
        assert reading.result(self.patience) == [0, 1]
        assert given.wait(2) == ["begun", "ended"]
        counted = self.watch(held=False)
        reading = relay.submit("read", "home", 1, read.checkpoint, "produce_and_report", counted.checkpoint, 1000)
        assert reading.result(self.patience) == [0]
        assert len(counted.wait()) <= 2 * AHEAD

    def test_calls_of_a_replica_that_is_killed_are_given_up_here(self) -> None:
        """The connection ends, so the method learns that nobody waits for it."""
        env, _, relay = self.at_home()
        pid = relay.whereabouts()
        begun, gone = self.watch(held=False), self.watch(held=False)
        asking = relay.submit("ask", "home", "hold_and_look", begun.checkpoint, gone.checkpoint)
        begun.wait()
        os.kill(pid, signal.SIGKILL)
        assert gone.wait() == [True]
        assert isinstance(asking.exception(self.patience), errors.ReplicaDiedError)
        self.until(lambda: env.get_service_status("home")["metrics"].outcomes == {"cancelled": 1})

    def test_time_that_is_over_ends_a_coroutine_here(self) -> None:
        env, _, relay = self.at_home(threading_strategy="async")
        begun, ended = self.watch(), self.watch(held=False)
        with pytest.raises(errors.CallTimeoutError):
            relay.ask("home", "hang", begun.checkpoint, ended.checkpoint, timeout=0.2)
        assert ended.wait() == ["cancelled"]
        self.until(lambda: env.get_service_status("home")["metrics"].outcomes == {"timeout": 1})

    def test_circle_through_this_process_is_found_at_once(self) -> None:
        """A circle is found from either side, and also through another service of this process."""
        env = self.environment()
        home, _ = self.home(env, Calling, timeout=None), self.home(env, Calling, "den", timeout=None)
        relay = self.register(Calling, name="relay", env=env, timeout=None).handle
        env.deploy()
        with pytest.raises(errors.ReentrantCallError, match=r"home\.ask -> relay\.ask -> home\.echo"):
            home.ask("relay", "ask", "home", "echo", 1)
        with pytest.raises(errors.ReentrantCallError, match=r"relay\.echo would never start"):
            relay.ask("home", "ask", "den", "ask", "relay", "echo", 1)
        made, ended = self.watch(held=False), self.watch(held=False)
        home.ask("relay", "submit_and_report", made.checkpoint, ended.checkpoint, "home", "echo", 1)
        assert ended.wait() == ["ended"], "nobody waits for it, so it is no circle"
        env.scale("home", 2)
        assert home.ask("relay", "ask", "home", "echo", 1) == 1

    def test_start_hooks_here_and_there_that_wait_for_each_other_are_named(self) -> None:
        """Neither service is ready in time. Each error names the service for which its hooks wait."""
        env = self.environment()
        self.home(env, Asking, "home", "relay", drain_timeout=0)
        self.register(Asking, "home", name="relay", env=env, drain_timeout=0)
        deploying = future_of(env.deploy, "deploying")
        self.until(lambda: env.task("relay").reach.awaited_by_hooks() == ("home",))
        self.until(lambda: "waits for relay.echo, which" in self.not_ready(env, "home"))
        assert "relay#0 not ready after 60 s; the constructor or a start hook waits for home, which" in self.not_ready(
            env, "relay"
        )
        env.close()
        assert isinstance(deploying.exception(self.patience), errors.DeployError)

    def not_ready(self, env: Environment, name: str) -> str:
        """Return the error that would be raised now if the replicas' startup time were over."""
        task = env.task(name)
        return str(task._readiness.not_ready(task.replicas.members, 60))

    def test_service_of_this_process_changes_while_others_call_it(self) -> None:
        """Scaling and restarting lose no call. A stopped service is reported as stopped until it is deployed again."""
        env, handle, relay = self.at_home()
        relay.keep(handle)
        flood = relay.submit("flood", handle, "relay", 200)
        env.scale("home", 3)
        env.restart("home")
        env.scale("home", 1)
        assert set(flood.result(self.patience)) <= {0, 1, 2}
        assert relay.use_kept("echo", 1) == 1
        env.drain("home")
        with pytest.raises(errors.ServiceStoppedError, match=r"home\.echo was not run"):
            relay.use_kept("echo", 2)
        env.deploy()
        self.until(lambda: self.answer(relay) == 3)

    def answer(self, relay: Any) -> Any:
        try:
            return relay.use_kept("echo", 3)
        except errors.ServiceStoppedError:
            return None

    def test_service_of_this_process_is_waited_for(self) -> None:
        """Callers wait until the startup timeout, as for other services. Other processes do not deploy it."""
        env = self.environment()
        relay = self.register(Relay, name="relay", env=env).handle
        handle = self.home(env, startup_timeout=0.05)
        with pytest.raises(errors.NoReplicaError, match=r"'home' was not deployed in 0\.05 s.*Call `deploy\(\)`"):
            relay.ask("home", "echo", 1)
        with pytest.raises(errors.ServiceNotFoundError, match="did you mean 'home'"):
            relay.ask("hoem", "echo", 1)
        assert handle.echo(2) == 2
        assert relay.ask("home", "echo", 3) == 3

    def test_handle_of_a_service_of_this_process_is_used_by_another_program(self, tmp_path: Path) -> None:
        """The handle's options travel too. When this process stops the service, the program gets the error."""
        env, handle, _ = self.at_home(replicas=2, load_balancer="consistent_hash")
        own = handle.with_options(key="k").do(1)
        (tmp_path / "handle").write_bytes(pickle.dumps(handle.with_options(key="k")))
        with self.program(tmp_path) as program:
            assert program.ask("[handle.do(2) for _ in range(8)]") == str([own] * 8)
            env.drain("home")
            assert program.ask("handle.echo(6)").startswith("ServiceStoppedError: home.echo was not run")

    def test_program_is_told_that_the_process_of_the_service_has_ended(self, tmp_path: Path) -> None:
        begin = (
            self.owner
            + """
        env.register_service("home", Probe)
        handle.echo(0)
        handle = env.service("home")
        handle.echo(0)
        open("handle", "wb").write(pickle.dumps(handle))
    """
        )
        with self.program(tmp_path, begin) as owner:
            assert owner.ask("handle.echo(1)") == "1"
            handles = [pickle.loads((tmp_path / "handle").read_bytes())]  # noqa: S301 - our own file
            assert handles[0].echo(2) == 2
            owner.kill()
        self.until(lambda: "the process that deploys environment 'theirs' has ended" in self.failure(*handles))
        handles.clear()
        self.until(self.let_go)
        SYSTEM.rest()

    def let_go(self) -> bool:
        """Whether this process holds nothing of the service. It checks the service's directory periodically."""
        gc.collect()
        return not any(thread.name.startswith("home") for thread in threading.enumerate())

    def failure(self, handle: Any) -> str:
        try:
            return str(handle.echo(3) * "")
        except (errors.ReplicaDiedError, errors.NoReplicaError) as error:
            return str(error)
