"""
A pytest plugin that fails every test which leaves something behind.

Watched on each test: threads, file descriptors (sockets included), asyncio tasks that are still pending, and child
processes. What a fixture of a wider scope starts belongs to the fixture until it ends; what it leaves then is charged
to the test that ended it. Load the plugin from the top conftest:

    pytest_plugins = ["sage_deploy_testing.tools.leak_guard"]

A test whose point is a thread that cannot be stopped says so, and the guard then checks that nothing else is left:

    @pytest.mark.leaves_threads("an abandoned call keeps its thread", prefix="kv#")

A runtime that shares the process, such as the driver of a cluster, has things of its own that come and go, and holds
things elsewhere, such as actors, that no list of this process shows. `add_runtime` tells the guard of both.

Not watched: threads that Python did not start or that serve the whole process; file descriptors and children where the
platform does not list them; tasks from Python 3.14 on, which keeps them out of reach. The report's header says what is
watched.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import pytest

from sage_plugins.clock import SYSTEM
from sage_plugins.threads import CALLBACKS, HOOKS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Generator, Iterator

#: Seconds that a test's threads, files, tasks and children get to end by themselves. Spent only when something is left:
#: a thread that was told to stop is joined, and the wait ends with it.
GRACE_S: Final = 10.0

#: Seconds from one garbage collection to the next.
_COLLECT_EVERY_S: Final = 1.0

#: Threads that serve the whole process and end by themselves: pytest-timeout's timer around the test.
PROCESS_WIDE: Final = ("pytest_timeout",)

#: Name of the plugin, for who asks pytest whether the guard is on.
NAME: Final = "sage-leak-guard"

_FD_FOLDER: Final = "/proc/self/fd"
_TASKS_ARE_LISTED: Final = sys.version_info < (3, 14)
_CHILDREN_ARE_LISTED: Final = hasattr(os, "waitid") and Path("/proc/self/task").exists()
#: pytest moves these three about between capturing and not capturing.
_STANDARD_STREAMS: Final = frozenset({0, 1, 2})


class Resources(NamedTuple):
    """
    What the process holds at one moment; `-` gives what is new.

    Attributes:
        threads: Living threads that Python started.
        files: Number and target of each open file descriptor. The target tells a reused number from the old one.
        tasks: asyncio tasks that are not done, of every loop in the process.
        children: Process ids, of processes that ended and were not waited for too.
        elsewhere: What this process holds in others, in the words of the runtimes that the guard was told of.
    """

    threads: frozenset[threading.Thread] = frozenset()
    files: frozenset[tuple[int, str]] = frozenset()
    tasks: frozenset[asyncio.Task[Any]] = frozenset()
    children: frozenset[int] = frozenset()
    elsewhere: frozenset[str] = frozenset()

    @classmethod
    def now(cls) -> Resources:
        """What this process holds now."""
        return cls(_threads(), frozenset(_files()), _pending_tasks(), frozenset(_children()), _elsewhere())

    def __sub__(self, other: Resources) -> Resources:
        """What is here and not in *other*."""
        return Resources(
            self.threads - other.threads,
            self.files - other.files,
            self.tasks - other.tasks,
            self.children - other.children,
            self.elsewhere - other.elsewhere,
        )

    def describe(self) -> Iterator[str]:
        """One paragraph for each thing; a thread and a task with the place where it stands."""
        frames = sys._current_frames()  # noqa: SLF001 - the one way to another thread's stack
        for thread in sorted(self.threads, key=lambda thread: thread.name):
            frame = frames.get(thread.ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame else "  (ended meanwhile)\n"
            yield f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}, which is at\n{stack}"
        for number, target in sorted(self.files):
            yield f"file descriptor {number}: {target}"
        for task in sorted(self.tasks, key=lambda task: task.get_name()):
            stack = "".join(line for frame in task.get_stack() for line in traceback.format_stack(frame, limit=1))
            yield f"pending asyncio task {task.get_name()!r}: {task.get_coro()!r}, which is at\n{stack}"
        for child in sorted(self.children):
            yield f"child process {child}: {_command(child)}"
        yield from sorted(self.elsewhere)


class Runtime(Protocol):
    """A runtime that shares the process with the tests."""

    def held(self) -> frozenset[str]:
        """What the process holds elsewhere now, each in a line of its own; nothing once the runtime has ended."""

    def own(self, new: Resources) -> Resources:
        """Which of *new* the runtime made for itself, and nobody can end. Asked only if there is something new."""


_runtimes: list[Runtime] = []


def add_runtime(runtime: Runtime) -> None:
    """Have the guard know of *runtime* from now on, also when it has ended: it may leave things of its own."""
    _runtimes.append(runtime)


def _elsewhere() -> frozenset[str]:
    return frozenset().union(*(runtime.held() for runtime in _runtimes))


def _threads() -> frozenset[threading.Thread]:
    return frozenset(
        thread
        for thread in threading.enumerate()
        # A dummy stands for a thread that Python did not start, and stays listed after that thread's end.
        if not isinstance(thread, threading._DummyThread)  # noqa: SLF001 - there is no public name
        and not thread.name.startswith(PROCESS_WIDE)
    )


def _files() -> Iterator[tuple[int, str]]:
    try:
        numbers = os.listdir(_FD_FOLDER)  # noqa: PTH208 - on every test: a Path per entry costs more than all the rest
    except OSError:
        return
    _, helper = _resource_tracker()
    for number in map(int, numbers):
        if number in _STANDARD_STREAMS or number == helper:
            continue
        with contextlib.suppress(OSError):  # the listing's own descriptor is closed by now
            yield number, os.readlink(f"{_FD_FOLDER}/{number}")  # noqa: PTH115 - as above


def _pending_tasks() -> frozenset[asyncio.Task[Any]]:
    if "asyncio" not in sys.modules or not _TASKS_ARE_LISTED:
        return frozenset()
    tasks = sys.modules["asyncio.tasks"]
    found: set[asyncio.Task[Any]] = set()
    # asyncio.all_tasks() asks for a loop, and a test's loop is gone. 3.11 keeps one set, 3.12 and 3.13 keep two.
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        for _ in range(100):  # as asyncio.all_tasks(): another thread may add to the set while it is read
            try:
                found.update(getattr(tasks, name, ()))
            except RuntimeError:
                continue
            break
    return frozenset(task for task in found if not task.done())


def _children() -> Iterator[int]:
    if not _CHILDREN_ARE_LISTED:
        return
    try:
        # One system call answers for nearly every test: there is no child at all.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    helper, _ = _resource_tracker()
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - as in _files
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            for child in map(int, Path(f"/proc/self/task/{task}/children").read_text(encoding="ascii").split()):
                if child != helper:
                    yield child


def _resource_tracker() -> tuple[int | None, int | None]:
    """Return process id and pipe of multiprocessing's helper, which is started on demand and outlives every test."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    return getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)


def _command(pid: int) -> str:
    try:
        process = Path(f"/proc/{pid}")
        command = (process / "cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
        # Of a process that has ended, only the name is left.
        return command or f"{(process / 'comm').read_text(encoding='utf-8').strip()} (ended, nobody waited for it)"
    except OSError:
        return "(gone)"


class LeakGuard:
    """Takes stock before and after each test. One a session, used from pytest's thread only."""

    def __init__(self) -> None:
        self._before = Resources()
        self._owned: dict[pytest.FixtureDef[Any], Resources] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Take stock before the first fixture of the test."""
        self.take_stock()
        return (yield)

    def take_stock(self) -> None:
        """Remember what there is before a test."""
        # Without what fixtures own now: they may end with this test, and then nothing of it may be left.
        self._before = self._unowned()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Give what a fixture of a wider scope starts to that fixture."""
        if fixturedef.scope == "function":
            return (yield)
        before = Resources.now()
        try:
            return (yield)
        finally:
            self._owned[fixturedef] = Resources.now() - before

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """A fixture that has ended owns nothing."""
        self._owned.pop(fixturedef, None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail the test if something is left after its last fixture."""
        # A teardown that raises goes through: what it leaves is its consequence.
        result = yield
        self.check(item)
        return result

    def check(self, item: pytest.Item) -> None:
        """Fail if *item* left something since stock was taken."""
        # No local refers to what is left, so that the collection in _left can free it.
        if left := self._left(item):
            pytest.fail(f"{item.nodeid} left behind:\n\n" + "\n\n".join(left), pytrace=False)

    def _left(self, item: pytest.Item) -> list[str]:
        if not any(self._new(item)):
            return []
        deadline = time.monotonic() + GRACE_S
        collect_at = 0.0
        # Most of what is left ends in somebody else's thread, which tells nobody.
        pause = threading.Event()
        while any(self._new(item)) and (remains := deadline - time.monotonic()) > 0:
            if time.monotonic() >= collect_at:
                # What only a reference cycle keeps alive is not leaked; its own ResourceWarning, if it has one, fails
                # the test. It may be a thread that has just ended which has kept it until now.
                gc.collect()
                collect_at = time.monotonic() + _COLLECT_EVERY_S
            SYSTEM.rest()  # its thread waits a while for the next timer, and the next ones for more callbacks
            CALLBACKS.rest()
            HOOKS.rest()
            pause.wait(min(0.01, remains))
        return list(self._new(item).describe())

    def _unowned(self) -> Resources:
        now = Resources.now()
        for owned in self._owned.values():
            now -= owned
        return now

    def _new(self, item: pytest.Item) -> Resources:
        new = self._unowned() - self._before
        if any(new):
            for runtime in _runtimes:
                new -= runtime.own(new)
        if new.threads and (marker := item.get_closest_marker("leaves_threads")) is not None:
            prefix = marker.kwargs["prefix"]
            new = new._replace(
                threads=frozenset(t for t in new.threads if not (t.daemon and t.name.startswith(prefix)))
            )
        return new


@contextlib.contextmanager
def guard(item: pytest.Item) -> Iterator[None]:
    """Watch over one test where the plugin is not loaded: a fixture that is set up before all others enters this."""
    watching = LeakGuard()
    watching.take_stock()
    yield
    watching.check(item)


def pytest_configure(config: pytest.Config) -> None:
    """Register the guard and its marker."""
    config.addinivalue_line(
        "markers",
        "leaves_threads(reason, *, prefix): the test may leave daemon threads whose name begins with the prefix, "
        "and nothing else",
    )
    config.pluginmanager.register(LeakGuard(), NAME)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse an exception without its reason and bounds."""
    for item in items:
        for marker in item.iter_markers("leaves_threads"):
            stated = [*marker.args, *marker.kwargs.values()]
            if len(marker.args) != 1 or set(marker.kwargs) != {"prefix"} or "" in stated:
                raise pytest.UsageError(
                    f"{item.nodeid}: leaves_threads takes one reason and the prefix of the threads' names: "
                    'leaves_threads("why", prefix="kv#")'
                )


def pytest_report_header() -> str:
    """Say what is watched here."""
    watched = {
        "threads": True,
        "files": Path(_FD_FOLDER).exists(),
        "asyncio tasks": _TASKS_ARE_LISTED,
        "child processes": _CHILDREN_ARE_LISTED,
    }
    return "leak guard: " + ", ".join(kind if on else f"{kind} (not listed here)" for kind, on in watched.items())
