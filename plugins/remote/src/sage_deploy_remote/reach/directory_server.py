"""The server of a directory: stores packed facts about services, without unpacking them, and answers queries."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from sage_deploy_remote.payloads.payload import Payload

__all__ = ["DirectoryAnswer", "DirectoryServer", "DirectoryThread"]

#: Number of stopped services to remember, so that later callers get a clear error.
_REMEMBERED: Final = 1000


#: Seconds for which a process's report of its waiting calls is valid; it reports every second.
_REPORT_HOLDS_S: Final = 3.0


class DirectoryAnswer(NamedTuple):
    """
    The directory's answer about a service; the client unpacks it.

    Attributes:
        listing: The service's `Listing` as a payload; None if it has not been deployed.
        known: The services of its environment as a payload; None if nothing was announced.
        circle: As `Found.circle`.
    """

    listing: Payload | None
    known: Payload | None
    circle: tuple[str, ...] = ()


class _Entry(NamedTuple):
    rank: tuple[int, int]
    listing: Payload
    over: bool


class DirectoryServer:
    """
    Listings by environment and service.

    It unpacks nothing, so it needs no user modules. All methods are coroutines of one event loop, so waiting for a
    change takes no thread.
    """

    def __init__(self) -> None:
        self._known: dict[str, Payload] = {}
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._changed: dict[tuple[str, str], asyncio.Event] = {}
        self._seen: dict[tuple[str, str], dict[str, int]] = {}  # latest version that each follower knows
        self._followers_changed: dict[tuple[str, str], asyncio.Event] = {}  # set when a follower comes or leaves
        self._woken: dict[tuple[str, str], asyncio.Event] = {}  # set when a client calls a service without replicas
        #: Number of waiting calls by follower, with the loop's time of the report.
        self._waiting: dict[tuple[str, str], dict[str, tuple[int, float]]] = {}
        self._awaited: dict[tuple[str, str], list[str]] = {}  # services for which a service's start hooks wait

    async def announce(self, environment: str, known: Payload) -> None:
        """Store which services an environment has."""
        self._known[environment] = known

    async def publish(
        self, environment: str, service: str, rank: tuple[int, int], listing: Payload, *, over: bool
    ) -> None:
        """
        Store a service's state, unless a later one is known.

        Args:
            environment: ID of its environment.
            service: Its name.
            rank: Incarnation and version of the listing.
            listing: The listing as a payload.
            over: Whether the service has stopped.
        """
        key = environment, service
        before = self._entries.get(key)
        if before is not None and rank < before.rank:
            return
        self._entries.pop(key, None)  # so that the latest entries come last
        self._entries[key] = _Entry(rank, listing, over)
        self._woken.pop(key, asyncio.Event()).set()  # the deploying process checks again
        changed = self._changed.pop(key, None)
        if changed is not None:
            changed.set()
        self._forget()

    def _forget(self) -> None:
        over = [key for key, entry in self._entries.items() if entry.over]
        for key in over[: max(0, len(over) - _REMEMBERED)]:
            del self._entries[key]
            self._seen.pop(key, None)
        running = {environment for environment, _ in self._entries}
        for environment in [each for each in self._known if each not in running][:-_REMEMBERED]:
            del self._known[environment]

    async def ask(  # noqa: PLR0913, PLR0917 - the query, who asks, and the timeout
        self, environment: str, service: str, seen: int, wait_s: float, follower: str = "", starting: str = ""
    ) -> DirectoryAnswer:
        """
        Return what is known of a service.

        Args:
            environment: ID of its environment.
            service: Its name.
            seen: Version of the listing that the follower has taken in; 0 for none.
            wait_s: Seconds to wait for another version.
            follower: ID of a client that will ask again; else empty.
            starting: The service whose start hooks ask and wait for this one; else empty.
        """
        key = environment, service
        circle = self._circle(environment, service, starting)
        if circle:
            return DirectoryAnswer(None, self._known.get(environment), circle)
        if follower:
            self._seen.setdefault(key, {})[follower] = seen
            self._tell_followers_changed(key)
        entry = self._entries.get(key)
        # A restarted server has no entry: the deploying process will publish it again.
        if (entry is None or entry.rank[1] == seen) and wait_s > 0:
            changed = self._changed.setdefault(key, asyncio.Event())
            try:
                with self._waits(environment, service, starting) if starting else nullcontext():
                    await asyncio.wait_for(changed.wait(), wait_s)
            except TimeoutError:  # a follower that has ended does not come again
                self._remove_follower(key, follower)
            except asyncio.CancelledError:  # the client's connection has ended
                self._remove_follower(key, follower)
                raise
            entry = self._entries.get(key)
        return DirectoryAnswer(None if entry is None else entry.listing, self._known.get(environment))

    @contextmanager
    def _waits(self, environment: str, service: str, starting: str) -> Iterator[None]:
        """Record that the start hooks of *starting* wait for *service* during the block."""
        awaited = self._awaited.setdefault((environment, starting), [])
        awaited.append(service)
        try:
            yield
        finally:
            awaited.remove(service)
            if not awaited:
                self._awaited.pop((environment, starting), None)

    async def awaited(self, environment: str, service: str) -> tuple[str, ...]:
        """Return the services for which the start hooks of *service* wait; each once."""
        return tuple(dict.fromkeys(self._awaited.get((environment, service), ())))

    def _circle(self, environment: str, service: str, starting: str) -> tuple[str, ...]:
        """
        Return a circle of undeployed services in which each waits for the next.

        It leads from *starting* over *service* back to *starting*; empty if there is none.
        """
        ways: deque[tuple[str, ...]] = deque([(starting, service)] if starting else [])
        while ways:
            way = ways.popleft()
            if (environment, way[-1]) in self._entries:  # deployed, so its methods answer
                continue
            if way[-1] == starting:
                return way
            ways.extend((*way, each) for each in self._awaited.get((environment, way[-1]), ()) if each not in way[1:])
        return ()

    def _remove_follower(self, key: tuple[str, str], follower: str) -> None:
        self._seen.get(key, {}).pop(follower, None)
        self._tell_followers_changed(key)

    def _tell_followers_changed(self, key: tuple[str, str]) -> None:
        came = self._followers_changed.pop(key, None)
        if came is not None:
            came.set()

    async def wait_seen(self, environment: str, service: str, version: int, wait_s: float) -> None:
        """
        Wait until all followers of a service know a version of its listing, for at most *wait_s* seconds.

        Followers that do not come within that time have most likely ended, and are forgotten.
        """
        key = environment, service
        followers = self._seen.get(key, {})
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while any(seen < version for seen in followers.values()):
                    await self._followers_changed.setdefault(key, asyncio.Event()).wait()
        for follower in [each for each, seen in followers.items() if seen < version]:
            del followers[follower]

    async def wake(self, environment: str, service: str, seen: int) -> None:
        """
        Tell the deploying process that calls wait for a replica.

        Args:
            environment: ID of its environment.
            service: Its name.
            seen: Version of the listing that has no replicas; ignored if there is another version by now.
        """
        key = environment, service
        entry = self._entries.get(key)
        if entry is not None and entry.rank[1] == seen and not entry.over:
            self._woken.setdefault(key, asyncio.Event()).set()

    async def wait_woken(self, environment: str, service: str, wait_s: float) -> bool:
        """Wait at most *wait_s* seconds until calls wait for a replica of a service; return False if none do."""
        key = environment, service
        woken = self._woken.setdefault(key, asyncio.Event())
        with suppress(TimeoutError):
            await asyncio.wait_for(woken.wait(), wait_s)
        return self._woken.get(key) is woken and self._woken.pop(key).is_set()

    async def report(self, environment: str, service: str, follower: str, waiting: int) -> None:
        """
        Store how many calls of a service wait in one process; valid for a short time, because that process may end.
        """
        reports = self._waiting.setdefault((environment, service), {})
        reports.pop(follower, None)
        if waiting:
            reports[follower] = waiting, asyncio.get_running_loop().time()

    async def waiting(self, environment: str, service: str) -> int:
        """Return how many calls of a service wait, according to recent reports."""
        reports = self._waiting.pop((environment, service), {})
        since = asyncio.get_running_loop().time() - _REPORT_HOLDS_S
        fresh = {follower: report for follower, report in reports.items() if report[1] >= since}
        if fresh:
            self._waiting[environment, service] = fresh
        return sum(waiting for waiting, _ in fresh.values())


class DirectoryThread:
    """A `DirectoryServer` in this process, with its event loop in a separate thread."""

    def __init__(self) -> None:
        """Start the thread."""
        self._server = DirectoryServer()
        self._loop = asyncio.new_event_loop()
        self._thread = start_thread(self._run, "directory")

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop):  # at the end, this cancels waiting coroutines
            self._loop.run_forever()

    def request(self, method: str, *arguments: Any, **named: Any) -> Future[Any]:
        """Call a method of the server; calls begin in order."""
        return asyncio.run_coroutine_threadsafe(getattr(self._server, method)(*arguments, **named), self._loop)

    def close(self) -> None:
        """End the thread, and cancel the futures of those that still wait."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
