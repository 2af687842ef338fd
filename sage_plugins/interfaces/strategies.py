"""How a replica runs calls: the strategy, its runner, and the seat that the core gives to the strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from threading import Thread

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces.targets import Work
    from sage_plugins.values import (
        Limits,
        RunnerStats,
    )


__all__ = ["LoopSeat", "Runner", "Seat", "Strategy"]


class Seat(Protocol):
    """The core's interface for a strategy: its workers fetch work here and execute it."""

    name: str
    """The replica's ID, such as `"kv#0"`."""

    limits: Limits
    """How many threads or coroutines the configuration allows."""

    get: Callable[[], Work | None]
    """Returns the next piece of work; blocks until there is one. None ends this worker."""

    get_within: Callable[[float], Work | None]
    """Like `get`, for at most the given seconds; raises `queue.Empty` if there was no work."""

    waiting: Callable[[], int]
    """Returns how many pieces of work no worker has fetched yet; may lag."""

    when_unattended: Callable[[Sequence[object], Callable[[], None]], None]
    """
    Registers a function that is called, from any thread, when work arrives while the given sequence is empty.

    For strategies whose threads may all end: the sequence has an item for each thread that waits for work, and the
    function starts a thread. Call it before `Strategy.start` returns, or never.
    """

    worker: Callable[[], Callable[[Work | None], bool]]
    """
    Returns an `execute` for one worker. Two threads must never use the same one at once.

    `execute(work)` does one piece of work, from claiming it to releasing its caller. Then it does the waiting calls
    that get the slot next. It never raises, and is False for None: then the worker ends. So a worker is `get, execute =
    seat.get, seat.worker()`, `for work in iter(get, None): execute(work)` and `execute(None)`. Pass fetched work to
    `execute` at once. If you keep it back for some tenths of a second, the router may treat its slot as lost, see
    `docs/design/lost-slots.md`.
    """

    end_worker: Callable[[], None]
    """Makes one `get` return None. `Runner.stop` calls it once for each worker."""

    spawn: Callable[[Callable[[], None], str], Thread]
    """Starts a daemon thread, named after the replica and the given string."""


class LoopSeat(Seat, Protocol):
    """
    The members of a seat for strategies with an event loop.

    The core gives every strategy a `LoopSeat`. Strategies that use only threads can ignore these members.
    """

    on_ready: Callable[[Callable[[], None]], None]
    """
    Registers a function that is called, from any thread, when work arrives after the loop found none.

    Call it once, before `Strategy.start` returns. Coroutines then run on the strategy's loop, not in the workers'
    threads.
    """

    get_nowait: Callable[[], Work | None]
    """Returns the next piece of work, or None. After None, the function given to `on_ready` announces the next one."""

    starter: Callable[[Callable[[Work], None]], Callable[[Work], bool]]
    """
    Called on the running loop; returns `start(work)`, which starts a piece of work as a task.

    `start` is False for work that must not run on a loop: a method that is not a coroutine. Give such work to a thread,
    with `worker()`. The argument is a function that takes such work when it follows other work.
    """

    steps_over: Callable[[], Awaitable[None]]
    """Waits, on the loop, until the started steps of the replica's life have ended. Await it before the loop ends."""


class Strategy(Protocol):
    """Decides how a replica runs its calls. Each replica has its own object."""

    def start(self, seat: LoopSeat) -> Runner:
        """
        Start the workers; return at once.

        A strategy with threads only takes a `Seat`. One with an event loop takes a `LoopSeat` and declares the
        capability `event_loop`.

        The first piece of work builds the service's instance, so constructor and hooks run where calls run.
        """


class Runner(Protocol):
    """The running workers of one replica."""

    @property
    def slots(self) -> int:
        """Maximum number of calls at once. The core sends no more."""

    @property
    def run_here(self) -> Callable[[Call], Any] | None:
        """For a strategy without workers: runs a call in the calling thread. None for all others."""

    def stats(self) -> RunnerStats:
        """What the workers are doing now."""

    def stop(self, grace: float) -> int:
        """
        End the workers; wait at most *grace* seconds for busy ones.

        Idempotent. Returns how many are still busy; each ends when its method ends.
        """
