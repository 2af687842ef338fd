"""The base of the cases about running services: real deployments, gates, and threads that make calls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from sage_deploy_testing.suites.conformance import Conformance
from sage_deploy_testing.suites.probes import Probe
from sage_deploy_testing.tools.checkpoints import Switchboard
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sage_deploy_testing.tools.checkpoints import Watch
    from sage_plugins import ServiceHandle
    from sage_plugins.clock import Clock

__all__ = ["INNER_CALLS", "STRATEGY_CAPABILITIES", "TARGET_CAPABILITIES", "VERBS", "Deployed", "ServiceConformance"]

#: The capabilities that targets can declare, and what each promises.
TARGET_CAPABILITIES: Mapping[str, str] = {
    "in_process": "replicas are in the deploying process: arguments, results and errors are not copied",
    "can_kill": "each replica is a process, which `KillableReplica.kill` and the suite's `kill` end",
    "reachable": "other processes can call its services, so handles can be pickled",
    "detaches": "replicas can outlive the deploying environment; with the suite's options `keeping` they do",
    "replaces_unhealthy": "an unhealthy replica is replaced; a method that hangs there ends",
    "lists_nodes": "it lists its nodes, with what is free",
    "reports_progress": "a replica that is not ready says what it waits for",
}
#: The capabilities that strategies can declare, and what each promises.
STRATEGY_CAPABILITIES: Mapping[str, str] = {
    "in_callers_thread": "a call runs in its caller's thread; `submit` returns at its end",
    "ordered": "one caller's calls start in the order in which it made them",
    "one_at_a_time": "a replica runs one call at a time; if it has a thread, calls and hooks run on it",
    "event_loop": "a replica's async hooks and coroutines run on one event loop, several at once",
    "concurrent": "a replica runs several calls at once, never more than a `thread_count` above one",
    "releases_at_deadline": "a caller gets its timeout at the deadline, even while the method runs",
}

#: A target declares at least one of these if methods can call other services. Use it with `needs_any`.
INNER_CALLS = ("in_process", "reachable")

#: For cases that hold for each way to make a call.
VERBS = pytest.mark.parametrize("verb", ["call", "submit", "acall"])


@contextlib.contextmanager
def _losses() -> Iterator[list[str]]:
    """Collect the routers' log messages about slots, calls and other things that were lost and recovered."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("sage_plugins.slot_recovery")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


class Deployed:
    """
    One service of a test, deployed or registered.

    Attributes:
        env: Its environment.
        name: Its name.
        handle: Its handle.
    """

    def __init__(self, env: Environment, name: str) -> None:
        self.env = env
        self.name = name
        self.handle: ServiceHandle = env.service(name)

    @property
    def status(self) -> dict[str, Any]:
        """The service's status."""
        return self.env.get_service_status(self.name)

    @property
    def metrics(self) -> Any:
        """Its metrics."""
        return self.status["metrics"]

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of calls by outcome. Outcomes without calls are left out."""
        return {name: count for name, count in self.metrics.outcomes.items() if count}

    @property
    def waiting(self) -> int:
        """Number of calls that wait for a slot."""
        count: int = self.metrics.queue_size
        return count

    @property
    def inflight(self) -> int:
        """Number of calls that hold a slot."""
        return sum(replica["inflight"] for replica in self.status["replicas"])

    @property
    def slots(self) -> int:
        """Number of slots of all replicas: the most calls that run at once."""
        return sum(replica["slots"] for replica in self.status["replicas"])


class ServiceConformance(Conformance):
    """
    Base of the suites whose cases deploy services.

    A subclass can set the attributes below. For a target that starts replicas or delivers calls slowly, raise the times
    other than `patience`.

    Attributes:
        target: The target's ID.
        strategy: The ID of the threading strategy.
        config: Fields of the configuration of every service.
        environment_options: Options of plugins for every environment, by ID.
        patience: Seconds after which an expected event counts as missing. A case that passes never waits this long.
        short: Seconds of a timeout that ends while the call waits in the queue.
        while_running: Seconds of a timeout that ends while the method runs. The method must have started by then.
        starting: Seconds of a `startup_timeout` that ends in a case. A replica that is not held is ready by then.
    """

    known: ClassVar[Mapping[str, str]] = {**TARGET_CAPABILITIES, **STRATEGY_CAPABILITIES}
    target: str
    strategy: str
    config: ClassVar[Mapping[str, Any]] = {}
    environment_options: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    patience: float = 20.0
    short: float = 0.03
    while_running: float = 0.4
    starting: float = 0.4

    def declared(self) -> Mapping[str, str]:
        """Return the capabilities of the target and the strategy."""
        found: dict[str, str] = {}
        for kind, id in (("target", self.target), ("threading strategy", self.strategy)):
            found |= dict.fromkeys(self.registry().find(kind, id).registration.capabilities, id)
        return found

    def plugin_for(self, capability: str) -> str:
        """Return the ID of the target or the strategy."""
        return self.target if capability in TARGET_CAPABILITIES else self.strategy

    # -- set-up and helpers --------------------------------------------------------------------------------------------

    @pytest.fixture(autouse=True)
    def _on_stage(self, _applies: None, _leaves_nothing: None) -> Iterator[None]:
        with self.stage():
            yield

    @contextlib.contextmanager
    def stage(self) -> Iterator[None]:
        """
        Prepare what the helpers below need. Pytest enters it around each case.

        At the end, it opens every gate, joins every thread and closes every environment. The case then fails if a
        router had to recover something that was lost: the recovery would hide a fault of the plugin.
        """
        self.may_lose = False  # a case that expects losses sets it
        self._environments: list[Environment] = []
        self._threads: list[threading.Thread] = []
        with _losses() as losses, Switchboard(self.patience) as self._switchboard:
            self._before = frozenset(threading.enumerate())
            try:
                yield
            finally:
                self._switchboard.open_all()
                self._join_threads()
                for env in reversed(self._environments):
                    env.close(drain_timeout=0)
                self._join_threads()  # joins threads that continue only when their service ends
                # pytest keeps this object until the end of the run, and it would keep every service.
                self._environments.clear()
                self._threads.clear()
                self._before = frozenset()
        if losses and not self.may_lose:
            pytest.fail("\n".join(losses), pytrace=False)

    def _join_threads(self) -> None:
        until = time.monotonic() + self.patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def environment(self, clock: Clock = SYSTEM) -> Environment:
        """Return a new environment. It is closed when the case ends."""
        env = Environment("conformance", registry=self.registry(), options=self.environment_options, clock=clock)
        self._environments.append(env)
        return env

    def configuration(self, at_once: int = 2, **fields: Any) -> ServiceDeploymentConfig:
        """Return a configuration with the plugins under test, and *at_once* calls at once if the strategy can."""
        counts = {"thread_count": at_once} if self.declares("concurrent") else {}
        options = {self.plugin_id: self.options} if self.options else {}
        chosen = {"target": self.target, "threading_strategy": self.strategy, "options": options}
        # A lost call fails its case after this time, and does not block a thread longer.
        limit = {"timeout": self.patience}
        return ServiceDeploymentConfig(**{**chosen, **limit, **counts, **self.config, **fields})

    def balancers(self) -> Sequence[str]:
        """Return the IDs of the load balancers to run with: all in `registry`. Override it to run with fewer."""
        return self.registry().ids("load balancer")

    def several(self, replicas: int, balancer: str | None = None) -> dict[str, Any]:
        """Return configuration fields for so many replicas behind *balancer*, or behind the first of `balancers`."""
        return {
            "replicas": replicas,
            "load_balancing": True,
            "load_balancer": balancer or self.balancers()[0],
        }

    def register(
        self, cls: type = Probe, *args: Any, name: str = "svc", env: Environment | None = None, **fields: Any
    ) -> Deployed:
        """Register a service. *fields* go to its configuration, *args* to its constructor."""
        env = env or self.environment()
        env.register_service_with_config(name, cls, *args, deployment_config=self.configuration(**fields))
        return Deployed(env, name)

    def deploy(self, cls: type = Probe, *args: Any, **fields: Any) -> Deployed:
        """Register a service, and deploy its environment."""
        service = self.register(cls, *args, **fields)
        service.env.deploy()
        return service

    def watch(self, *, held: bool = True) -> Watch:
        """Return a checkpoint. If not *held*, callers that reach it report and go on."""
        return self._switchboard.watch(held=held)

    def in_thread(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a new thread. The thread is joined when the case ends."""
        outcome: Future[Any] = Future()

        def body() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - the reader of the future gets it
                outcome.set_exception(error)

        thread = threading.Thread(target=body, daemon=True, name=f"caller-{len(self._threads)}")
        self._threads.append(thread)
        thread.start()
        return outcome

    def together(self, function: Callable[[int], Any], count: int) -> list[Any]:
        """Run *function* for each number below *count*, all at once in threads of their own. Return the results."""
        start = threading.Barrier(count)

        def body(number: int) -> Any:
            start.wait(self.patience)
            return function(number)

        return [future.result(self.patience) for future in [self.in_thread(body, number) for number in range(count)]]

    def outcome(self, handle: ServiceHandle, verb: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Make a call with *verb*, which is in `VERBS`, and return its outcome."""
        if verb == "acall":
            return asyncio.run(handle.acall(method, *args, **kwargs))
        if verb == "submit":
            return handle.submit(method, *args, **kwargs).result(self.patience)
        return handle.call(method, *args, **kwargs)

    def begin(self, handle: ServiceHandle, method: str, /, *args: Any) -> Future[Any]:
        """Start a call without waiting for its end, under every strategy."""
        if self.declares("in_callers_thread"):
            return self.in_thread(handle.call, method, *args)
        return handle.submit(method, *args)

    def occupy(self, service: Deployed) -> Watch:
        """Fill every slot of a service until the returned gate is opened."""
        gate = self.watch()
        slots = service.slots
        for _ in range(slots):
            self.begin(service.handle, "hold", gate.checkpoint)
        gate.wait(slots)
        return gate

    def queued(self, service: Deployed, method: str, /, *args: Any) -> Future[Any]:
        """Make a call that has to wait for a slot. Return its future once the call waits."""
        before = service.waiting
        future = self.begin(service.handle, method, *args)
        self.until(lambda: service.waiting > before or future.done())
        return future

    def until(self, condition: Callable[[], Any]) -> None:
        """
        Wait until *condition* is true. For conditions without a notification, for example that a thread waits.

        Raises:
            AssertionError: It did not become true within `patience`.
        """
        began = time.monotonic()
        pause = threading.Event()
        while not condition():
            waited = time.monotonic() - began
            assert waited < self.patience, "did not come true"
            pause.wait(min(max(0.001, waited / 20), 0.01))  # a long wait is no work

    def replica_threads(self) -> list[str]:
        """Return the names of the replica threads that started in this process since the case began."""
        new = frozenset(threading.enumerate()) - self._before - frozenset(self._threads)
        return sorted(thread.name for thread in new if "#" in thread.name)

    def check_threads_ended(self) -> None:
        """
        Check that no replica thread is left.

        Where calls run in the caller's thread, wait for that: hooks then run in a thread that all replicas share, which
        has the replica's name for a moment longer.
        """
        if self.declares("in_callers_thread"):
            self.until(lambda: not self.replica_threads())
        assert self.replica_threads() == []
