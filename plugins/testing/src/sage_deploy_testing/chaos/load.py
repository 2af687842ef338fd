"""Callers: an open loop of calls of all kinds, from threads and from an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.routing.handles.binding import UNSET

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Future

    from sage_deploy_testing.chaos.history import History
    from sage_plugins.routing.handles.handle import ServiceHandle

__all__ = ["DEADLINES_S", "SHAPES", "TAKES_S", "Load", "Served"]

#: The kinds of methods that can be called.
SHAPES: Final = ("plain", "async", "batch", "stream")

_THREADS: Final = 3
_METHODS: Final = {"plain": "work", "async": "awork", "batch": "together"}
_STREAMS: Final = ("items", "aitems")
_COROUTINES: Final = frozenset({"awork", "aitems"})
#: Seconds that methods take. The longest gives accidents a chance to hit running calls.
TAKES_S: Final = (0.0, 0.0, 0.001, 0.005, 0.02, 0.1)
#: Deadlines in seconds, in addition to the service's own.
DEADLINES_S: Final = (0.05, 0.3, 2.0)
_KEYS: Final = 16
#: Seconds for callers to end after their calls.
_LAST_S: Final = 5.0


class Served(NamedTuple):
    """
    A service that is called.

    Attributes:
        handle: Its handle.
        timeout: Timeout of its calls in seconds, or None for no limit.
    """

    handle: ServiceHandle
    timeout: float | None


class Load:
    """
    Calls services at a rate until it is stopped. Every call and its outcome goes to the history.

    `rate` calls a second are due, whether earlier calls have ended. Calls that are due while `most` are in flight are
    skipped and counted.
    """

    def __init__(  # noqa: PLR0913 - what it consists of
        self,
        history: History,
        services: Mapping[str, Served],
        *,
        rate: float,
        most: int,
        seed: int,
        patience: float,
        shapes: tuple[str, ...] = SHAPES,
        takes: tuple[float, ...] = TAKES_S,
        deadlines: tuple[float, ...] = DEADLINES_S,
    ) -> None:
        """
        Prepare the callers. They make no call before `start`.

        Args:
            history: Gets the calls.
            services: The services to call.
            rate: Calls a second, of all callers together.
            most: The most calls in flight at once.
            seed: Seed of the callers. The same seed makes the same calls at the same times.
            patience: Seconds after the last call by which all calls must have ended, and then the callers.
            shapes: The kinds of `SHAPES` to call.
            takes: Seconds that methods take. Drawn from these.
            deadlines: Seconds that a third of the calls have instead of the service's timeout, if they are shorter.
        """
        self._takes = takes
        self._deadlines = deadlines
        self._history = history
        self._services = dict(services)
        self._names = list(services)
        self._most = most
        self._shapes = tuple(each for each in shapes if each != "stream")
        self._streams = "stream" in shapes
        self._patience = patience
        self._over = threading.Event()
        self._gave_up = False  # whether to drop calls that the end of the event loop interrupts
        self._pause = (_THREADS + 1) / rate
        self._skipped = 0
        callers: list[tuple[str, Callable[[], None]]] = [
            (f"chaos-caller-{number}", partial(self._call_from_thread, Random(f"{seed} {number}")))  # noqa: S311 - not for secrets
            for number in range(_THREADS)
        ]
        callers.append(("chaos-loop", partial(self._call_from_loop, Random(f"{seed} loop"))))  # noqa: S311 - as above
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in callers]

    def start(self) -> None:
        """Start to call."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Make no more calls, and wait for the callers. Note those that have not ended in time."""
        self._over.set()
        until = time.monotonic() + self._patience + _LAST_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self._history.note("stuck", what=f"the caller {thread.name}")
        self._history.note("skipped", calls=self._skipped)

    # -- single calls ------------------------------------------------------------------------------------------------

    def submit(
        self,
        service: str,
        method: str,
        *arguments: Any,
        idempotent: bool = False,
        timeout: float | None = UNSET,
        key: Any = UNSET,
    ) -> tuple[int, Future[Any] | None]:
        """Make a call whose outcome goes to the history. Return its number, and its future if it was accepted."""
        number, handle, _ = self._prepare(service, method, idempotent=idempotent, timeout=timeout, key=key)
        try:
            future = handle.submit(method, number, *arguments)
        except BaseException as error:  # noqa: BLE001 - the history gets any error
            self._history.failed(number, error)
            return number, None
        future.add_done_callback(partial(self._ended, number))
        return number, future

    def answers(self, service: str, timeout: float) -> bool:
        """Make a call, and return whether it was answered within the timeout. It does not hang if the call is lost."""
        _, future = self.submit(service, "work", timeout=timeout)
        if future is None:
            return False
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        return ended.wait(timeout + self._patience) and future.exception() is None

    def _call(self, service: str, method: str, *arguments: Any) -> None:
        number, handle, _ = self._prepare(service, method)
        try:
            self._history.answered(number, handle.call(method, number, *arguments))
        except BaseException as error:  # noqa: BLE001 - as in submit
            self._history.failed(number, error)

    def announce(self, service: str, method: str, count: int) -> list[int]:
        """Note *count* calls of another process in the history, and return their consecutive numbers."""
        return self._history.announce(service, method, count)

    def forget(self, numbers: list[int]) -> None:
        """Note that the caller of these calls is gone, so that their outcomes stay unknown."""
        for number in numbers:
            self._history.abandoned(number)

    def cancel(self, number: int, future: Future[Any]) -> None:
        """Cancel a call."""
        self._history.note("cancel", call=number)
        future.cancel()

    def _ended(self, number: int, future: Future[Any]) -> None:
        try:
            answer = future.result()
        except BaseException as error:  # noqa: BLE001 - as in submit
            self._history.failed(number, error)
        else:
            self._history.answered(number, answer)

    def _prepare(  # noqa: PLR0913 - as submit
        self,
        service: str,
        method: str,
        *,
        idempotent: bool = False,
        timeout: float | None = UNSET,
        key: Any = UNSET,
        items: int | None = None,
    ) -> tuple[int, ServiceHandle, float | None]:
        served = self._services[service]
        limit = served.timeout if timeout is UNSET else timeout
        # For a stream, the timeout counts for each item, and for the end.
        within = limit if limit is None or items is None else limit * (items + 1)
        handle = served.handle.with_options(idempotent=idempotent, timeout=limit, key=key)
        number = self._history.invoke(
            service, method, idempotent=idempotent, within=within, coroutine=method in _COROUTINES
        )
        return number, handle, within

    def _options(self, random: Random, service: str) -> dict[str, Any]:
        options: dict[str, Any] = {"idempotent": random.random() < 0.5}  # noqa: PLR2004 - half of them
        timeout = self._services[service].timeout
        drawn = random.choice(self._deadlines)
        if random.random() < 0.3 and (timeout is None or drawn < timeout):  # noqa: PLR2004 - a third
            options["timeout"] = drawn
        if random.random() < 0.5:  # noqa: PLR2004 - half of them
            options["key"] = random.randrange(_KEYS)
        return options

    # -- callers -----------------------------------------------------------------------------------------------------

    def _due(self, random: Random) -> str | None:
        """Return the service for the next call, or None if too many calls are in flight."""
        if self._history.in_flight >= self._most:
            self._skipped += 1
            return None
        return random.choice(self._names)

    def _call_from_thread(self, random: Random) -> None:
        due = time.monotonic() + random.random() * self._pause
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += self._pause
            service = self._due(random)
            if service is None:
                continue
            kind = random.random()
            if kind < 0.15 and self._streams:  # noqa: PLR2004 - the mix
                self._read_stream(random, service)
            elif kind < 0.3:  # noqa: PLR2004 - the mix
                self._call(service, "work", random.choice(self._takes))
            elif kind < 0.35:  # noqa: PLR2004 - the mix
                self.submit(service, "fail")
            else:
                shape = random.choice(self._shapes)
                takes = () if shape == "batch" else (random.choice(self._takes),)
                number, future = self.submit(service, _METHODS[shape], *takes, **self._options(random, service))
                if future is not None and random.random() < 0.05:  # noqa: PLR2004 - the mix
                    self.cancel(number, future)

    def _read_stream(self, random: Random, service: str) -> None:
        items, method = random.randrange(1, 5), random.choice(_STREAMS)
        number, handle, _ = self._prepare(service, method, items=items)
        answer: Any = None
        try:
            for answer in handle.stream(method, number, items):  # noqa: B007 - the last one counts
                pass
        except BaseException as error:  # noqa: BLE001 - as in submit
            self._history.failed(number, error)
        else:
            self._history.answered(number, answer)

    def _call_from_loop(self, random: Random) -> None:
        asyncio.run(self._make_tasks(random))

    async def _make_tasks(self, random: Random) -> None:
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic() + random.random() * self._pause
        while not self._over.is_set():
            await asyncio.sleep(max(0.0, min(due - time.monotonic(), 0.2)))
            if time.monotonic() < due:
                continue
            due += self._pause
            service = self._due(random)
            if service is not None:
                task = asyncio.create_task(self._one_of_the_loop(random, service))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        if tasks and (await asyncio.wait(tasks, timeout=self._patience))[1]:
            self._gave_up = True
            self._history.note("stuck", what=f"a call among {len(tasks)} of an event loop")

    def _one_of_the_loop(self, random: Random, service: str) -> Coroutine[Any, Any, None]:
        if self._streams and random.random() < 0.2:  # noqa: PLR2004 - the mix
            return self.astream(service, random.choice(_STREAMS), random.randrange(1, 5))
        shape = random.choice(self._shapes)
        takes = () if shape == "batch" else (random.choice(self._takes),)
        after = random.choice(self._takes) if random.random() < 0.1 else None  # noqa: PLR2004 - the mix
        return self.acall(service, _METHODS[shape], *takes, cancel_after=after, **self._options(random, service))

    async def acall(
        self, service: str, method: str, *arguments: Any, cancel_after: float | None = None, **options: Any
    ) -> None:
        """Make a call from an event loop. Cancel its task after *cancel_after* seconds."""
        number, handle, _ = self._prepare(service, method, **options)
        task = asyncio.ensure_future(handle.acall(method, number, *arguments))
        try:
            if cancel_after is not None:
                await asyncio.sleep(0)  # otherwise the task would end before it made its call
                await asyncio.wait([task], timeout=cancel_after)
                if not task.done():
                    self._history.note("cancel", call=number)
                    task.cancel()
            self._history.answered(number, await task)
        except BaseException as error:  # noqa: BLE001 - as in submit
            if self._gave_up:
                return
            own = asyncio.current_task()
            if own is not None and own.cancelling():  # the event loop of this caller ends
                self._history.note("cancel", call=number)
            self._history.failed(number, error)

    async def astream(self, service: str, method: str, items: int) -> None:
        """Read a stream from an event loop."""
        number, handle, _ = self._prepare(service, method, items=items)
        answer: Any = None
        try:
            async for answer in handle.astream(method, number, items):  # noqa: B007 - the last one counts
                pass
        except BaseException as error:  # noqa: BLE001 - as in submit
            if not self._gave_up:
                self._history.failed(number, error)
        else:
            self._history.answered(number, answer)
