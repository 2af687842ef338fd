"""The interfaces of threading strategies: the strategy, its runner, and the seat that it gets from the core."""

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
    """The core's interface for a strategy: the strategy's workers get their work here and execute it."""

    name: str
    """The replica's ID, such as `"kv#0"`."""

    limits: Limits
    """How many threads and coroutines the configuration allows."""

    get: Callable[[], Work | None]
    """Returns the next piece of work; blocks until there is one. None means: end this worker."""

    get_within: Callable[[float], Work | None]
    """As `get`, but blocks at most the given seconds; raises `queue.Empty` if no work came."""

    waiting: Callable[[], int]
    """Returns how many pieces of work no worker has taken yet; may be slightly out of date."""

    when_unattended: Callable[[Sequence[object], Callable[[], None]], None]
    """
    Registers a function that the core calls, from any thread, when work arrives while the given sequence is empty.

    For strategies whose threads may all end. The sequence has one item for each thread that waits for work, and the
    function starts a thread. Register before `Strategy.start` returns, or never.
    """

    worker: Callable[[], Callable[[Work | None], bool]]
    """
    Returns a function `execute` for one worker. Two threads must never use the same `execute` at once.

    `execute(work)` does one piece of work, up to waking its caller. Then it does the waiting calls that get the slot
    next. It never raises. `execute(None)` returns False: the worker must end. So a worker is `get, execute = seat.get,
    seat.worker()`, `for work in iter(get, None): execute(work)` and `execute(None)`.

    Pass work to `execute` as soon as you get it. If you hold it for some tenths of a second, the router may treat its
    slot as lost, see `docs/design/lost-slots.md`.
    """

    end_worker: Callable[[], None]
    """Makes one `get` return None. `Runner.stop` calls it once for each worker."""

    spawn: Callable[[Callable[[], None], str], Thread]
    """Starts a daemon thread. Its name is made of the replica's ID and the given string."""


class LoopSeat(Seat, Protocol):
    """
    The additional members of a seat for strategies with an event loop.

    The core gives every strategy a `LoopSeat`. Strategies that use only threads can ignore these members.
    """

    on_ready: Callable[[Callable[[], None]], None]
    """
    Registers a function that the core calls, from any thread, when work arrives after `get_nowait` found none.

    Register once, before `Strategy.start` returns. From then on, coroutines run on the strategy's loop, not in the
    workers' threads.
    """

    get_nowait: Callable[[], Work | None]
    """Returns the next piece of work, or None. After None, the function from `on_ready` is called for the next one."""

    starter: Callable[[Callable[[Work], None]], Callable[[Work], bool]]
    """
    Returns a function `start(work)`, which starts a piece of work as a task. Call it on the running loop.

    `start` returns False for work that must not run on a loop: a method that is not a coroutine. Give this work to a
    thread, with `worker()`. The argument is a function that takes such work if it gets the slot of earlier work.
    """

    steps_over: Callable[[], Awaitable[None]]
    """
    Waits, on the loop, until the running life-cycle steps of the replica have ended. Await it before the loop ends.
    """


class Strategy(Protocol):
    """Decides how a replica runs its calls. Each replica has its own object."""

    def start(self, seat: LoopSeat) -> Runner:
        """
        Start the workers; return at once.

        A strategy with an event loop uses the members of `LoopSeat` and declares the capability `event_loop`. A
        strategy with threads only needs a `Seat`.

        The first piece of work builds the service's instance. So the constructor and the hooks run in the same threads
        as the calls.
        """


class Runner(Protocol):
    """The running workers of one replica."""

    @property
    def slots(self) -> int:
        """Maximum number of calls at once. The core sends no more."""

    @property
    def run_here(self) -> Callable[[Call], Any] | None:
        """Runs a call in the calling thread, for a strategy without workers; None for all others."""

    def stats(self) -> RunnerStats:
        """Return what the workers are doing now."""

    def stop(self, grace: float) -> int:
        """
        End the workers; wait at most *grace* seconds for busy ones.

        Idempotent. Returns how many workers are still busy. Each of them ends when its method ends.
        """
