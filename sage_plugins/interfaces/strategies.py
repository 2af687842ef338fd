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
    """Where a strategy's workers get and execute work."""

    name: str
    """The replica's ID, such as `"kv#0"`."""

    limits: Limits
    """The threads and coroutines that it may use."""

    get: Callable[[], Work | None]
    """Waits for work and returns it; None: end this worker."""

    get_within: Callable[[float], Work | None]
    """As `get`, but raises `queue.Empty` after the given seconds without work."""

    waiting: Callable[[], int]
    """Returns how many pieces of work wait for a worker; may lag."""

    when_unattended: Callable[[Sequence[object], Callable[[], None]], None]
    """
    Registers a function to call, from any thread, when work arrives while the given sequence is empty.

    For strategies whose threads may all end: the sequence has an item for each waiting thread, the function starts one.
    Register before `Strategy.start` returns.
    """

    worker: Callable[[], Callable[[Work | None], bool]]
    """
    Returns `execute` for one worker. Two threads must never use the same one at once.

    `execute(work)` does the work, then the waiting calls that get its slot; it never raises. `execute(None)` returns
    False: the worker must end. A worker is `get, execute = seat.get, seat.worker()`, `for work in iter(get, None):
    execute(work)` and `execute(None)`.

    Execute work at once: after some tenths of a second, the router may treat its slot as lost
    (`docs/design/lost-slots.md`).
    """

    end_worker: Callable[[], None]
    """Makes one `get` return None. `Runner.stop` calls it once for each worker."""

    spawn: Callable[[Callable[[], None], str], Thread]
    """Starts a daemon thread, named after the replica's ID and the given string."""


class LoopSeat(Seat, Protocol):
    """A seat with members for event loops. Every strategy gets one."""

    on_ready: Callable[[Callable[[], None]], None]
    """
    Registers a function to call, from any thread, when work arrives after `get_nowait` found none.

    Register once, before `Strategy.start` returns. Coroutines then run on the strategy's loop.
    """

    get_nowait: Callable[[], Work | None]
    """Returns work, or None; the next work then calls the function of `on_ready`."""

    starter: Callable[[Callable[[Work], None]], Callable[[Work], bool]]
    """
    Returns `start(work)`, which starts work as a task. Call it on the running loop.

    `start` returns False if the method is not a coroutine: execute it in a thread, with `worker()`. The argument takes
    such work if it gets the slot of earlier work.
    """

    steps_over: Callable[[], Awaitable[None]]
    """Waits until running life-cycle steps have ended. Await it before the loop ends."""


class Strategy(Protocol):
    """Decides how a replica runs its calls. Each replica has its own object."""

    def start(self, seat: LoopSeat) -> Runner:
        """
        Start the workers; return at once.

        Declare the capability `event_loop` to use the members of `LoopSeat`. The first work builds the instance, so the
        constructor and the hooks run in the threads of the calls.
        """


class Runner(Protocol):
    """One replica's workers."""

    @property
    def slots(self) -> int:
        """Maximum calls at once. The core sends no more."""

    @property
    def run_here(self) -> Callable[[Call], Any] | None:
        """Runs a call in the calling thread; None for a strategy with workers."""

    def stats(self) -> RunnerStats:
        """Return what the workers do now."""

    def stop(self, grace: float) -> int:
        """
        End the workers; wait at most *grace* seconds for busy ones. Idempotent.

        Returns how many are still busy; each ends with its method.
        """
