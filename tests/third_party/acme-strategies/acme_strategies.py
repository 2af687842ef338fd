"""The threading strategy `dedicated`: each replica has one thread, under a name of the user's choice."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import attrs

from sage_plugins import hookimpl
from sage_plugins.values import Registration, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Seat


@attrs.frozen
class DedicatedOptions:
    """
    Options of `dedicated`.

    Attributes:
        thread_name: What the thread is called, after the replica's id.
    """

    thread_name: str = attrs.field(default="acme", validator=attrs.validators.min_len(1))


class Dedicated:
    """One call at a time, always on the same thread."""

    def __init__(self, options: DedicatedOptions) -> None:
        self._options = options

    def start(self, seat: Seat) -> DedicatedRunner:
        """Start the thread; it builds the instance before its first call."""
        return DedicatedRunner(seat, self._options.thread_name)


class DedicatedRunner:
    """The thread of one replica."""

    slots = 1
    run_here: Callable[[Call], None] | None = None

    def __init__(self, seat: Seat, thread_name: str) -> None:
        self._seat = seat
        self._stopping = threading.Lock()
        self._stopped = False
        self._thread = seat.spawn(self._work, thread_name)

    def _work(self) -> None:
        get, execute = self._seat.get, self._seat.worker()
        while execute(get()):
            pass

    def stats(self) -> RunnerStats:
        """The one thread, until it has ended."""
        return RunnerStats(threads=int(self._thread.is_alive()))

    def stop(self, grace: float) -> int:
        """End the thread after the call that it runs; a call that stops its own service is not waited for."""
        with self._stopping:
            if not self._stopped:
                self._stopped = True
                self._seat.end_worker()
        if self._thread is threading.current_thread():
            return 0
        self._thread.join(grace)
        return int(self._thread.is_alive())


@hookimpl
def sage_register_threading_strategies() -> list[Registration]:
    """Offer `dedicated`."""
    return [
        Registration(
            "dedicated",
            Dedicated,
            "one thread under a name of your choice",
            options=DedicatedOptions,
            capabilities=frozenset({"ordered", "one_at_a_time", "releases_at_deadline"}),
        ),
    ]
