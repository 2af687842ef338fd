"""
A pytest plugin that fails every test that leaves something behind.

It watches threads, file descriptors (also sockets), pending asyncio tasks and child processes. What a fixture of a
wider scope starts belongs to that fixture until it ends. If it leaves something then, the test that ended it fails.
Load the plugin from the top conftest:

    pytest_plugins = ["sage_deploy_testing.tools.leak_guard"]

A test that has to leave a thread that cannot be stopped declares it. The guard then checks that nothing else is left:

    @pytest.mark.leaves_threads("an abandoned call keeps its thread", prefix="kv#")

A runtime that shares the process, for example the driver of a cluster, has its own threads and files that come and go.
It may also hold things in other processes, for example actors. `add_runtime` tells the guard about both.

It does not watch threads that Python did not start, or that serve the whole process. It does not watch file descriptors
and child processes where the platform does not list them, or asyncio tasks from Python 3.14 on, which does not list
them. The header of pytest's report says what is watched.
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

#: Seconds in which a test's threads, files, tasks and children may end by themselves. The wait stops once nothing is
#: left.
GRACE_S: Final = 10.0

#: Seconds until the first garbage collection, which most threads need not: they end sooner.
_COLLECT_AFTER_S: Final = 0.05

#: Seconds between garbage collections.
_COLLECT_EVERY_S: Final = 1.0

#: Threads that serve the whole process and end by themselves: pytest-timeout's timer around the test.
PROCESS_WIDE: Final = ("pytest_timeout",)

#: Name of the plugin. Ask pytest for it to find out whether the guard is active.
NAME: Final = "sage-leak-guard"

_FD_FOLDER: Final = "/proc/self/fd"
_TASKS_ARE_LISTED: Final = sys.version_info < (3, 14)
_CHILDREN_ARE_LISTED: Final = hasattr(os, "waitid") and Path("/proc/self/task").exists()
#: Pytest replaces these three when it starts and stops capturing.
_STANDARD_STREAMS: Final = frozenset({0, 1, 2})


class Resources(NamedTuple):
    """
    What the process holds at one moment. `-` returns what is new.

    Attributes:
        threads: Living threads that Python started.
        files: Number and target of each open file descriptor. The target shows whether a number was reused.
        tasks: asyncio tasks of all event loops in the process that are not done.
        children: Process IDs, including ended processes that nobody waited for.
        elsewhere: What this process holds in other processes, as the added runtimes describe it.
    """

    threads: frozenset[threading.Thread] = frozenset()
    files: frozenset[tuple[int, str]] = frozenset()
    tasks: frozenset[asyncio.Task[Any]] = frozenset()
    children: frozenset[int] = frozenset()
    elsewhere: frozenset[str] = frozenset()

    @classmethod
    def now(cls) -> Resources:
        """Return what this process holds now."""
        return cls(_threads(), frozenset(_files()), _pending_tasks(), frozenset(_children()), _elsewhere())

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.threads - other.threads,
            self.files - other.files,
            self.tasks - other.tasks,
            self.children - other.children,
            self.elsewhere - other.elsewhere,
        )

    def describe(self) -> Iterator[str]:
        """Yield one paragraph for each resource. Threads and tasks have the place where they are."""
        frames = sys._current_frames()  # noqa: SLF001 - the only way to another thread's stack
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
        """Return what the process holds in other processes now, one line each. Nothing after the runtime has ended."""

    def own(self, new: Resources) -> Resources:
        """Return what the runtime created for itself and nothing can end. Called only if *new* is not empty."""


_runtimes: list[Runtime] = []


def add_runtime(runtime: Runtime) -> None:
    """Add *runtime* for the rest of the process. It stays after its end, because it may leave things behind."""
    _runtimes.append(runtime)


def _elsewhere() -> frozenset[str]:
    return frozenset().union(*(runtime.held() for runtime in _runtimes))


def _threads() -> frozenset[threading.Thread]:
    return frozenset(
        thread
        for thread in threading.enumerate()
        # A dummy stands for a thread that Python did not start, and stays listed after that thread ends.
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
    # asyncio.all_tasks() needs a loop, and a test's loop is gone. 3.11 keeps one set, 3.12 and 3.13 keep two.
    for name in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):
        for _ in range(100):  # as asyncio.all_tasks(): another thread may add to the set during the read
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
        # For nearly every test, one system call shows that there is no child.
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
    """Return process ID and pipe of multiprocessing's resource tracker, which outlives every test."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    return getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)


def _command(pid: int) -> str:
    try:
        process = Path(f"/proc/{pid}")
        command = (process / "cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
        # A process that has ended has only its name.
        return command or f"{(process / 'comm').read_text(encoding='utf-8').strip()} (ended, nobody waited for it)"
    except OSError:
        return "(gone)"


class LeakGuard:
    """Compares resources before and after each test. One per session, only for pytest's thread."""

    def __init__(self) -> None:
        self._before = Resources()
        self._owned: dict[pytest.FixtureDef[Any], Resources] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Take stock before the first fixture of the test."""
        self.take_stock()
        return (yield)

    def take_stock(self) -> None:
        """Record the resources that exist before a test."""
        # Without those of fixtures: the fixtures may end with this test, and must leave nothing then.
        self._before = self._unowned()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        """Assign what a fixture of a wider scope starts to that fixture."""
        if fixturedef.scope == "function":
            return (yield)
        before = Resources.now()
        try:
            return (yield)
        finally:
            self._owned[fixturedef] = Resources.now() - before

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Drop what an ended fixture owned."""
        self._owned.pop(fixturedef, None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail the test if something is left after its last fixture."""
        # If a teardown raises, nothing is checked: leaks would only be its consequence.
        result = yield
        self.check(item)
        return result

    def check(self, item: pytest.Item) -> None:
        """Fail if *item* left something since the last `take_stock`."""
        # No local variable refers to a leaked object, so that the collection in _left can free it.
        if left := self._left(item):
            pytest.fail(f"{item.nodeid} left behind:\n\n" + "\n\n".join(left), pytrace=False)

    def _left(self, item: pytest.Item) -> list[str]:
        if not any(self._new(item)):
            return []
        began = time.monotonic()
        deadline, collect_at = began + GRACE_S, began + _COLLECT_AFTER_S
        # Most of what is left ends in another thread, without a notification.
        pause = threading.Event()
        while any(self._new(item)) and (remains := deadline - time.monotonic()) > 0:
            if time.monotonic() >= collect_at:
                # Garbage in a reference cycle is no leak. Its own ResourceWarning, if it has one, fails the test. A
                # thread that has just ended may have kept it until now.
                gc.collect()
                collect_at = time.monotonic() + _COLLECT_EVERY_S
            SYSTEM.rest()  # its thread waits for the next timer, and the next two for more callbacks
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
    """Watch one test if the plugin is not loaded. Enter it in the first fixture that is set up."""
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
    """Refuse a `leaves_threads` marker without a reason and a prefix."""
    for item in items:
        for marker in item.iter_markers("leaves_threads"):
            stated = [*marker.args, *marker.kwargs.values()]
            if len(marker.args) != 1 or set(marker.kwargs) != {"prefix"} or "" in stated:
                raise pytest.UsageError(
                    f"{item.nodeid}: leaves_threads takes one reason and the prefix of the threads' names: "
                    'leaves_threads("why", prefix="kv#")'
                )


def pytest_report_header() -> str:
    """Return the kinds of resources that are watched here."""
    watched = {
        "threads": True,
        "files": Path(_FD_FOLDER).exists(),
        "asyncio tasks": _TASKS_ARE_LISTED,
        "child processes": _CHILDREN_ARE_LISTED,
    }
    return "leak guard: " + ", ".join(kind if on else f"{kind} (not listed here)" for kind, on in watched.items())
