"""Shared fixtures for tests of calls, queues and life cycles: a service that runs given functions, gates, threads."""

from __future__ import annotations

import asyncio
import queue
import signal
import sys
import textwrap
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.tools import leak_guard
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_threads import SageThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

leak_guard.add_runtime(SageThreads())

# In the background or under nohup these are ignored, and the programs that tests start would inherit that.
for _name in ("SIGINT", "SIGHUP"):
    if signal.getsignal(getattr(signal, _name, signal.SIGINT)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)  # before pytest deselects marked tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the cells that only `make test-long` runs."""
    if (suites := sys.modules.get("strategies_in_turn")) is not None:  # otherwise no test here is of such a suite
        suites.mark_cells(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape captured text that UTF-8 does not have: xdist cannot send it, and would end the run."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a marked file in one process."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from sharing_out import TogetherOrOneByOne

    return TogetherOrOneByOne(config, log)


#: Seconds after which something that must happen counts as not happened. Passing tests never wait so long.
PATIENCE = 20.0

#: How many calls a service from `deploy` runs at once.
SLOTS = {"single": 1, "multi": 2, "pool": 2, "async": 2, "inline": 1}


class Gate:
    """Holds a method inside until it opens, and tells the test when the method is there."""

    def __init__(self) -> None:
        self._entered: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._open: Future[None] = Future()

    def __call__(self, result: Any = None) -> Any:
        """Stay until the gate opens."""
        self._entered.put(None)
        self._open.result(PATIENCE)
        return result

    async def acall(self, result: Any = None) -> Any:
        """Stay until the gate opens, without blocking the event loop."""
        self._entered.put(None)
        await asyncio.shield(asyncio.wrap_future(self._open))  # cancelling one waiter must not cancel the gate
        return result

    def wait_entered(self, calls: int = 1) -> None:
        """Wait until *calls* more calls are inside."""
        for _ in range(calls):
            self._entered.get(timeout=PATIENCE)

    @property
    def is_open(self) -> bool:
        """Whether `open` was called."""
        return self._open.done()

    @property
    def entered(self) -> int:
        """How many calls came in that `wait_entered` has not counted yet."""
        return self._entered.qsize()

    def open(self) -> None:
        """Let all calls go on, now and later."""
        if not self._open.done():
            self._open.set_result(None)


class Probe:
    """A service whose methods run the functions that the caller passes."""

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    async def arun(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    def echo(self, value: Any = None) -> Any:
        return value

    def process(self, value: Any = None) -> Any:
        return ("processed", value)

    def given(self, /, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def thread(self) -> threading.Thread:
        return threading.current_thread()

    def context(self) -> Any:
        return self.ctx  # type: ignore[attr-defined] # set by the deployment

    def items(self, count: int) -> Iterator[int]:
        yield from range(count)

    async def aitems(self, count: int) -> Any:
        for item in range(count):
            yield item

    def _private(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Deployed:
    """One service in its own environment."""

    name = "svc"

    def __init__(self, env: Environment, strategy: str, slots: int) -> None:
        self.env = env
        self.strategy = strategy
        self.slots = slots
        self.handle = env.service(self.name)

    @property
    def metrics(self) -> Any:
        return self.env.get_service_status(self.name)["metrics"]

    @property
    def waiting(self) -> int:
        return self.metrics.queue_size

    @property
    def parked(self) -> int:
        return self.env.task(self.name)._router.parked


@pytest.fixture(params=["single", "pool", "inline"])
def strategy(request: pytest.FixtureRequest) -> str:
    """Each strategy in turn, for rules that hold for all of them."""
    return request.param


@pytest.fixture(params=["single", "pool"])
def threaded(request: pytest.FixtureRequest) -> str:
    """The strategies with their own threads, for rules that do not apply to `inline`."""
    return request.param


@pytest.fixture
def probe() -> type[Probe]:
    """The class of a service that runs the functions it is given."""
    return Probe


@pytest.fixture
def gates(in_thread: Any) -> Iterator[Callable[[], Gate]]:  # before the threads that they hold are joined
    """Make gates. All are opened when the test ends."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate())
        return made[-1]

    yield make
    for gate in made:
        gate.open()


@pytest.fixture
def gate(gates: Callable[[], Gate]) -> Gate:
    return gates()


@pytest.fixture
def in_thread(environments: Any) -> Iterator[Callable[..., Future[Any]]]:  # before the services are closed
    """Run a function in a new thread and return its future. All threads are joined when the test ends."""
    threads: list[threading.Thread] = []

    def start(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        outcome: Future[Any] = Future()

        def body() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - the reader of the future gets it
                outcome.set_exception(error)

        thread = threading.Thread(target=body, daemon=True, name=f"test-{len(threads)}")
        threads.append(thread)
        thread.start()
        return outcome

    yield start
    for thread in threads:
        thread.join(PATIENCE)


@pytest.fixture
def environments() -> Iterator[Callable[..., Environment]]:
    """Make environments. All are closed when the test ends."""
    made: list[Environment] = []

    def make(*args: Any, **kwargs: Any) -> Environment:
        made.append(Environment(*args, **kwargs))
        return made[-1]

    yield make
    for env in reversed(made):
        env.close(drain_timeout=0)


@pytest.fixture
def env(environments: Callable[..., Environment]) -> Environment:
    return environments("test")


@pytest.fixture
def deploy(environments: Callable[..., Environment], in_thread: Any, gates: Any) -> Callable[..., Deployed]:
    """Deploy one service: `deploy("pool", Probe, queue_size=3)`. `SLOTS` says how many calls it runs at once."""

    def make(
        strategy: str, cls: type = Probe, *args: Any, env_options: Any = None, init: Any = None, **config: Any
    ) -> Deployed:
        if strategy == "pool":
            config = {"thread_count": SLOTS["pool"], "thread_pool_size": SLOTS["pool"]} | config
        elif strategy == "multi":
            config = {"thread_count": SLOTS["multi"]} | config
        elif strategy == "async":
            config = {"max_concurrency": SLOTS["async"], "thread_pool_size": SLOTS["async"]} | config
        env = environments("test", **(env_options or {}))
        env.register_service_with_config(
            Deployed.name,
            cls,
            *args,
            deployment_config=ServiceDeploymentConfig(threading_strategy=strategy, **config),
            **(init or {}),
        )
        env.deploy()
        return Deployed(env, strategy, SLOTS[strategy] * config.get("replicas", 1))

    return make


@pytest.fixture
def occupy(in_thread: Callable[..., Future[Any]], gates: Callable[[], Gate]) -> Callable[..., Gate]:
    """Take every slot of a service until the returned gate opens."""

    def take(service: Deployed) -> Gate:
        gate = gates()
        for _ in range(service.slots):
            if service.strategy == "inline":
                in_thread(service.handle.call, "run", gate)
            else:
                service.handle.submit("run", gate)
        gate.wait_entered(service.slots)
        return gate

    return take


@pytest.fixture
def queued(in_thread: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    """Make a call that must wait for a slot, and return its future once it waits."""

    def add(service: Deployed, method: str, *args: Any, handle: Any = None, **kwargs: Any) -> Future[Any]:
        before = service.waiting
        handle = handle or service.handle
        if service.strategy != "inline":
            return handle.submit(method, *args, **kwargs)
        # Under inline the caller's own thread waits.
        future = in_thread(handle.call, method, *args, **kwargs)
        _until(lambda: service.waiting > before or future.done())
        return future

    return add


def _until(condition: Callable[[], Any]) -> None:
    """Poll a condition. Only this function polls: a thread that begins to wait cannot report it."""
    deadline = time.monotonic() + PATIENCE
    pause, seconds = threading.Event(), 0.001
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        pause.wait(seconds)
        seconds = min(1.5 * seconds, 0.02)  # each look takes processor time from what it waits for


@pytest.fixture(autouse=True, scope="session")
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the run records of `sage-deploy up` in a temporary folder, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def running_up() -> Iterator[Callable[..., Any]]:
    """Start processes with `sage-deploy up`. Those that are left are killed when the test ends."""
    from running_up import RunningUp

    processes: list[RunningUp] = []

    def start(*arguments: Any, **variables: Any) -> RunningUp:
        processes.append(RunningUp(*arguments, **variables))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], None]:
    """Wait until a condition holds that nothing reports."""
    return _until


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return the command that runs a program as a separate process."""

    def command(source: str) -> list[str]:
        path = tmp_path / f"program_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return [sys.executable, "-W", "error", str(path)]

    return command


@pytest.fixture
def sage_environments() -> Iterator[Callable[..., Any]]:
    """Make attached SAGE environments. All are closed when the test ends."""
    # imported here: SAGE's import is slow, and most tests do not need it
    from sage.runtime import LocalEnvironment
    from sage.runtime.job_manager import JobManager

    from sage_deploy_sage import attach

    made: list[Any] = []

    def make(name: str = "test", **options: Any) -> Any:
        made.append(attach(LocalEnvironment(name), **options))
        return made[-1]

    yield make
    for env in made:
        env.close()
    JobManager().cleanup_all_jobs()


@pytest.fixture
def sage_env(sage_environments: Callable[..., Any]) -> Any:
    return sage_environments()
