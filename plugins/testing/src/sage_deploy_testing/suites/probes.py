"""
Services that the conformance suites deploy.

The services, their arguments and their results can be imported and pickled, so they run on any target. A case observes
them only through their results and their reports at checkpoints.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sage_plugins import batch_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sage_deploy_testing.tools.checkpoints import Checkpoint
    from sage_plugins.service.factory import ServiceContext

__all__ = [
    "AsyncLiving",
    "Batching",
    "Calling",
    "Checked",
    "Connected",
    "Failing",
    "FailingOnce",
    "Fragile",
    "Late",
    "LateHeir",
    "LateNewcomer",
    "Living",
    "Meeting",
    "Probe",
    "ProbeError",
    "whereabouts",
]

#: The time in seconds that a method in another process may need to learn, on a busy machine, that its caller is gone.
_NEWS_S: Final = 5.0


def whereabouts() -> tuple[int, int]:
    """Return the current process and thread IDs of the operating system, which reuses them only late."""
    return os.getpid(), threading.get_native_id()


class ProbeError(Exception):
    """The exception that a probe raises. It carries more than a text."""

    def __init__(self, text: str, detail: Any = None) -> None:
        super().__init__(text, detail)
        self.detail = detail


class Probe:
    """A service that does what its caller asks, and remembers it."""

    ctx: ServiceContext

    def __init__(self) -> None:
        self._done: list[Any] = []
        self._inside: list[None] = []  # one entry for each call in `overlap`; append and pop are atomic
        self._most = 0

    def echo(self, value: Any = None) -> Any:
        return value

    def given(self, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return args, kwargs

    def run(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run a function that cannot leave the process."""
        return function(*args)

    async def arun(self, function: Callable[..., Any], /, *args: Any) -> Any:
        return await function(*args)

    def do(self, value: Any) -> int:
        """Remember *value*, and return the replica's index."""
        self._done.append(value)
        return self.ctx.replica_index

    def done(self) -> list[Any]:
        """Return the values that `do`, `hold` and `ahold` have remembered, in order."""
        return list(self._done)

    def hold(self, checkpoint: Checkpoint, value: Any = None) -> int:
        """Report the replica's index, wait for the test, remember *value*, and return the replica's index."""
        checkpoint.reach(self.ctx.replica_index)
        self._done.append(value)
        return self.ctx.replica_index

    async def ahold(self, checkpoint: Checkpoint, value: Any = None) -> int:
        await checkpoint.areach(self.ctx.replica_index)
        self._done.append(value)
        return self.ctx.replica_index

    async def aecho(self, value: Any = None) -> Any:
        await asyncio.sleep(0)
        return value

    def hold_and_fail(self, checkpoint: Checkpoint) -> None:
        checkpoint.reach()
        raise ProbeError("held")

    def die(self, checkpoint: Checkpoint) -> None:
        """Report the replica's index, then end the process. Only for replicas that have their own process."""
        checkpoint.reach(self.ctx.replica_index)
        os._exit(1)

    def overlap(self) -> None:
        """Count how many calls are in this method at the same time."""
        self._inside.append(None)
        self._most = max(self._most, len(self._inside))
        threading.Event().wait(0.001)  # lets other calls in, if they can run at once
        self._inside.pop()

    def most(self) -> int:
        """Return the most calls that were in `overlap` at the same time."""
        return self._most

    def where(self) -> tuple[int, int]:
        return whereabouts()

    def who(self) -> tuple[str, int, int]:
        """Return the service, the replica and the identity of the instance."""
        return self.ctx.name, self.ctx.replica_index, id(self)

    def remaining(self) -> float | None:
        return self.ctx.remaining()

    def outlast(self, checkpoint: Checkpoint) -> None:
        """Run until the call is given up, then report `[cancelled, remaining]`."""
        while not self.ctx.cancelled:
            threading.Event().wait(0.002)
        checkpoint.reach([self.ctx.cancelled, self.ctx.remaining()])

    def hold_and_look(self, checkpoint: Checkpoint, after: Checkpoint) -> None:
        """Report, wait for the test, then report whether the call was given up."""
        checkpoint.reach(self.ctx.cancelled)
        enough = time.monotonic() + _NEWS_S
        while not self.ctx.cancelled and time.monotonic() < enough:
            threading.Event().wait(0.002)
        after.reach(self.ctx.cancelled)

    def fail(self, text: str, detail: Any = None) -> None:
        raise ProbeError(text, detail)

    async def afail(self, text: str, detail: Any = None) -> None:
        await asyncio.sleep(0)
        raise ProbeError(text, detail)

    def fail_after(self, text: str) -> None:
        try:
            self.fail("inner")
        except ProbeError as error:
            raise ValueError(text) from error

    def fail_as(self, kind: type[BaseException]) -> None:
        raise kind("leaving")

    async def afail_as(self, kind: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise kind("leaving")

    async def hang(self, checkpoint: Checkpoint, ended: Checkpoint) -> None:
        """Report, then wait for the test. Report "cancelled" if the coroutine is cancelled before."""
        try:
            await checkpoint.areach(self.ctx.replica_index)
        except asyncio.CancelledError:
            ended.reach("cancelled")
            raise

    def produce(self, diary: Checkpoint, count: int) -> Iterator[int]:
        diary.reach("begun")
        try:
            yield from range(count)
        finally:
            diary.reach("ended")

    async def aproduce(self, diary: Checkpoint, count: int) -> AsyncIterator[int]:
        diary.reach("begun")
        try:
            for number in range(count):
                yield number
        finally:
            diary.reach("ended")

    def produce_and_report(self, diary: Checkpoint, count: int) -> Iterator[int]:
        for number in range(count):
            diary.reach(number)
            yield number

    def produce_and_fail(self, count: int) -> Iterator[int]:
        yield from range(count)
        msg = "after the items"
        raise ProbeError(msg)

    def produce_and_hold(self, checkpoint: Checkpoint) -> Iterator[int]:
        yield 0
        checkpoint.reach()
        yield 1


class Calling:
    """A service that calls others."""

    ctx: ServiceContext

    def echo(self, value: Any = None) -> Any:
        return value

    def ask(self, name: str, method: str, /, *args: Any, timeout: float | None = None) -> Any:
        return self.ctx.call_service(name, *args, method=method, timeout=timeout)

    def ask_by_future(self, name: str, method: str, /, *args: Any, timeout: float | None = None) -> Any:
        return self.ctx.call_service_async(name, *args, method=method, timeout=timeout).result()

    async def ask_async(self, name: str, method: str, /, *args: Any) -> Any:
        return await self.ctx.service(name).acall(method, *args)

    def ask_and_report(self, checkpoint: Checkpoint, name: str, method: str, /, *args: Any) -> None:
        """Make a call, and report how it ended."""
        try:
            self.ctx.call_service(name, *args, method=method)
        except Exception as error:
            checkpoint.reach([type(error).__name__, getattr(error, "service", None), getattr(error, "stage", None)])
            raise
        checkpoint.reach(None)

    def submit_and_report(self, made: Checkpoint, ended: Checkpoint, name: str, method: str, /, *args: Any) -> None:
        """Make a call without waiting for it, and report how it ended."""
        call = self.ctx.service(name).submit(method, *args)
        call.add_done_callback(lambda done: ended.reach("cancelled" if done.cancelled() else "ended"))
        made.reach()

    def ask_too_late(self, checkpoint: Checkpoint, name: str, method: str, /, *args: Any) -> None:
        """Make a call after the deadline of this method's own call."""
        while self.ctx.remaining() != 0:
            threading.Event().wait(0.002)
        self.ask_and_report(checkpoint, name, method, *args)

    def ask_after(self, checkpoint: Checkpoint, name: str, method: str, /, *args: Any) -> Any:
        """Wait for the test, then make a call."""
        checkpoint.reach(self.ctx.name)
        return self.ask(name, method, *args)


class Early(Calling):
    """Makes a call before it is ready, and with some verbs waits for the result."""

    def __init__(self, verb: str, name: str) -> None:
        self._verb = verb
        self._name = name
        self._done: list[Any] = []

    def setup(self) -> None:
        getattr(self.ctx.service(self._name), self._verb)("note", "early")

    def note(self, value: Any) -> None:
        self._done.append(value)

    def done(self) -> list[Any]:
        return self._done


class Living:
    """A service with every hook. Each hook reports its name, the replica, the process and the thread."""

    ctx: ServiceContext

    def __init__(self, diary: Checkpoint) -> None:
        self._diary = diary
        self._note("init")

    def _note(self, step: str) -> None:
        self._diary.reach([step, self.ctx.replica_index, *whereabouts()])

    def setup(self) -> None:
        self._note("setup")

    def start_running(self) -> None:
        self._note("start_running")

    def start(self) -> None:
        self._note("start")

    def warmup(self) -> None:
        self._note("warmup")

    def method(self) -> None:
        self._note("method")

    def stop(self) -> None:
        self._note("stop")

    def cleanup(self) -> None:
        self._note("cleanup")

    def close(self) -> None:
        self._note("close")


class AsyncLiving:
    """A service whose hooks are coroutines. It has `start` and `close` instead of `start_running` and `cleanup`."""

    def __init__(self, diary: Checkpoint) -> None:
        self._diary = diary

    async def _note(self, step: str) -> None:
        await self._diary.areach([step, 0, *whereabouts()])

    async def setup(self) -> None:
        await self._note("setup")

    async def start(self) -> None:
        await self._note("start")

    async def warmup(self) -> None:
        await self._note("warmup")

    async def method(self) -> None:
        await self._note("method")

    async def stop(self) -> None:
        await self._note("stop")

    async def close(self) -> None:
        await self._note("close")


class Failing(Living):
    """A service that fails at one step of its life, in one replica."""

    def __init__(self, diary: Checkpoint, step: str, index: int = 0, kind: type[BaseException] = ProbeError) -> None:
        self._fails = step, index
        self._kind = kind
        super().__init__(diary)

    def _note(self, step: str) -> None:
        super()._note(step)
        if self._fails == (step, self.ctx.replica_index):
            raise self._kind("no database")


class Late(Living):
    """A service whose constructor waits for the test."""

    def __init__(self, diary: Checkpoint, checkpoint: Checkpoint) -> None:
        checkpoint.reach()
        super().__init__(diary)

    def remaining(self) -> float | None:
        return self.ctx.remaining()


class FailingOnce:
    """A service whose first instance fails. Its constructor deletes a file; without the file, constructors succeed."""

    def __init__(self, path: str) -> None:
        try:
            Path(path).unlink()
        except FileNotFoundError:
            return
        msg = "first time"
        raise ProbeError(msg)

    def method(self) -> str:
        return "second time"


class LateNewcomer(Probe):
    """A service whose constructors wait for the test, except in replica 0."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        if self.ctx.replica_index:
            checkpoint.reach(self.ctx.replica_index)


class LateHeir(Probe):
    """A service whose constructors wait for the test while a file exists."""

    def __init__(self, checkpoint: Checkpoint, path: str) -> None:
        super().__init__()
        if Path(path).exists():
            checkpoint.reach(self.ctx.replica_index)


class Fragile(Probe):
    """A service that cannot be built while a file exists."""

    def __init__(self, path: str) -> None:
        super().__init__()
        if Path(path).exists():
            msg = "broken"
            raise ProbeError(msg)


class Checked(Probe):
    """A service that reports its health checks and readiness checks. It is unhealthy while a file exists."""

    def __init__(self, diary: Checkpoint, path: str | None = None) -> None:
        super().__init__()
        self._diary = diary
        self._path = path

    def check_health(self) -> bool:
        self._diary.reach("check_health")
        return self._path is None or not Path(self._path).exists()

    def check_ready(self) -> bool:
        self._diary.reach("check_ready")
        return True


class IllFirst(Checked):
    """As `Checked`, but only replica 0 can be unhealthy."""

    def check_health(self) -> bool:
        return super().check_health() or self.do(0) > 0


class Connected:
    """A service that owns a task of an event loop."""

    async def setup(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._background = asyncio.ensure_future(asyncio.Event().wait())

    async def method(self) -> bool:
        return asyncio.get_running_loop() is self._loop and not self._background.done()

    async def close(self) -> None:
        self._background.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._background


class Meeting:
    """A service whose coroutines wait for each other."""

    async def setup(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._met = asyncio.Event()

    async def wait(self) -> bool:
        await self._met.wait()
        return asyncio.get_running_loop() is self._loop

    async def meet(self) -> bool:
        self._met.set()
        return asyncio.get_running_loop() is self._loop


class Batching(Probe):
    """A service that answers calls in batches."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: list[int] = []
        self._answered: list[str] = []

    def get(self, key: str) -> str:
        return key

    async def aget(self, key: str) -> str:
        return key

    @batch_of("get")
    def get_many(self, keys: list[str]) -> list[Any]:
        self._sizes.append(len(keys))
        self._answered += keys
        if "fatal" in keys:
            msg = "fatal"
            raise ProbeError(msg)
        return [ProbeError(key) if key == "bad" else f"{key}!" for key in keys]

    @batch_of("aget")
    async def aget_many(self, keys: list[str]) -> list[Any]:
        await asyncio.sleep(0)
        return self.get_many(keys)

    def sizes(self) -> list[int]:
        """Return the size of each batch."""
        return self._sizes

    def answered(self) -> list[str]:
        """Return the keys of all answered calls, in order."""
        return self._answered
