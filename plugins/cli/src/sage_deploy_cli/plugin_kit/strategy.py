"""The threading strategy `example_plugin`: one thread for each replica, with a name of your choice."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import attrs

from sage_plugins import hookimpl
from sage_plugins.values import Explanation, Registration, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Seat


@attrs.frozen
class ExamplePluginOptions:
    """
    Options of `example_plugin`.

    Attributes:
        thread_name: The thread's name, after the replica's ID.
    """

    thread_name: str = attrs.field(default="worker", validator=attrs.validators.min_len(1))


class ExamplePlugin:
    """Runs one call at a time, always on the same thread."""

    def __init__(self, options: ExamplePluginOptions) -> None:
        self._options = options

    def start(self, seat: Seat) -> ExamplePluginRunner:
        """Start the thread. It builds the instance, then runs the calls."""
        return ExamplePluginRunner(seat, self._options.thread_name)


class ExamplePluginRunner:
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
        """Return the number of threads."""
        return RunnerStats(threads=int(self._thread.is_alive()))

    def stop(self, grace: float) -> int:
        """End the thread after its current call. Wait at most *grace* seconds; return how many threads still run."""
        with self._stopping:
            if not self._stopped:
                self._stopped = True
                self._seat.end_worker()
        if self._thread is threading.current_thread():  # a call stops its own service: a thread cannot wait for itself
            return 0
        self._thread.join(grace)
        return int(self._thread.is_alive())


def explain(_config: object, _options: ExamplePluginOptions) -> Iterator[Explanation]:
    """Say what a timeout can stop; the plan shows it."""
    yield Explanation("its caller is released; the method keeps the replica busy until it ends", "timeout")


@hookimpl
def sage_register_threading_strategies() -> list[Registration]:
    """Offer the strategy."""
    return [
        Registration(
            "example_plugin",
            ExamplePlugin,
            "One thread under a name of your choice",
            options=ExamplePluginOptions,
            explain=explain,
            capabilities=frozenset({"ordered", "one_at_a_time", "releases_at_deadline"}),
        )
    ]
