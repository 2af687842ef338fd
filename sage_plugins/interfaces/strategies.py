"""How a replica runs calls: the strategy, its runner, and the seat that the core gives it."""

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
    """What the core gives a strategy: where its workers fetch work and how they do it."""

    name: str
    """The replica's id, such as `"kv#0"`."""

    limits: Limits
    """How many threads or coroutines the configuration allows."""

    get: Callable[[], Work | None]
    """The next piece of work; blocks until there is one. None ends this worker."""

    get_within: Callable[[float], Work | None]
    """`get` for at most so many seconds; raises `queue.Empty` if there was no work."""

    waiting: Callable[[], int]
    """Pieces of work in the seat that no worker has fetched yet; may lag."""

    when_unattended: Callable[[Sequence[object], Callable[[], None]], None]
    """
    Have a function called, from any thread, after work has come while the sequence given was empty.

    For strategies whose threads may all end: the sequence has an item for each thread that waits for work, and the
    function starts one. Called before `Strategy.start` returns, or not at all.
    """

    worker: Callable[[], Callable[[Work | None], bool]]
    """
    Gives a worker its `execute`, which must never be used by two threads at once.

    `execute(work)` does one piece of work, from claiming it to releasing its caller, and the waiting calls that get its
    slot afterwards. It never raises, and is False for None: then the worker ends. So a worker is
    `get, execute = seat.get, seat.worker()`, `for work in iter(get, None): execute(work)` and `execute(None)`.
    Work that was fetched goes to `execute` at once: the router may take the slot of work for lost that is kept back for
    some tenths of a second, see `docs/design/lost-slots.md`.
    """

    end_worker: Callable[[], None]
    """Make one `get` return None; used by `Runner.stop`, once for each worker."""

    spawn: Callable[[Callable[[], None], str], Thread]
    """Start a daemon thread, named after the replica and the string given."""


class LoopSeat(Seat, Protocol):
    """
    What a seat also has for strategies with an event loop.

    Every seat that the core gives is one. Strategies with threads alone need not know that.
    """

    on_ready: Callable[[Callable[[], None]], None]
    """
    Have a function called, from any thread, when there is work and the loop has found none before. Called once, before
    `Strategy.start` returns: coroutines run on the strategy's loop then, not in the workers' own threads.
    """

    get_nowait: Callable[[], Work | None]
    """The next piece of work, or None: then the function given to `on_ready` tells of the next."""

    starter: Callable[[Callable[[Work], None]], Callable[[Work], bool]]
    """
    Gives, on the running loop, its `start(work)`, which starts a piece of work as a task and is False for work that
    must not run on a loop: a method that is no coroutine. That is done by a thread, with `worker()`. The argument takes
    such work when it follows on other.
    """

    steps_over: Callable[[], Awaitable[None]]
    """Wait, on the loop, for the steps of the replica's life that were started; before it ends."""


class Strategy(Protocol):
    """How a replica runs its calls: one object for each replica."""

    def start(self, seat: LoopSeat) -> Runner:
        """
        Start the workers; returns at once.

        A strategy with threads alone takes a `Seat`. One with an event loop takes a `LoopSeat` and declares the
        capability `event_loop`.

        The first piece of work that they fetch builds the service's instance, so constructor and hooks run where calls
        run.
        """


class Runner(Protocol):
    """The running workers of one replica."""

    @property
    def slots(self) -> int:
        """Calls at once, at most. The core sends no more."""

    @property
    def run_here(self) -> Callable[[Call], Any] | None:
        """For a strategy without workers: runs a call in the calling thread. None for all others."""

    def stats(self) -> RunnerStats:
        """What the workers do at the moment."""

    def stop(self, grace: float) -> int:
        """
        End the workers, waiting for those at work at most *grace* seconds.

        Idempotent. Returns how many are still at work: they end when their method does.
        """
