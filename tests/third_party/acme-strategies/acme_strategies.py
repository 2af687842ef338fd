"""
The threading strategy `dedicated`: each replica has one thread, whose name the user chooses.

Also the autoscaler `steady`, which keeps a share of the slots free.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import attrs

from sage_plugins import hookimpl
from sage_plugins.values import Registration, RunnerStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Seat
    from sage_plugins.interfaces.autoscalers import Load


@attrs.frozen
class DedicatedOptions:
    """
    Options of `dedicated`.

    Attributes:
        thread_name: What the thread is called, after the replica's id.
    """

    thread_name: str = attrs.field(default="acme", validator=attrs.validators.min_len(1))


class Dedicated:
    """Runs one call at a time, always on the same thread."""

    def __init__(self, options: DedicatedOptions) -> None:
        self._options = options

    def start(self, seat: Seat) -> DedicatedRunner:
        """Start the thread. It builds the instance, then runs the calls."""
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
        """Return the number of threads."""
        return RunnerStats(threads=int(self._thread.is_alive()))

    def stop(self, grace: float) -> int:
        """End the thread after its call, wait at most *grace* seconds, and return how many threads still run."""
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


@attrs.frozen
class SteadyOptions:
    """
    Options of `steady`.

    Attributes:
        busy: Share of the slots that should be taken.
    """

    busy: float = attrs.field(default=0.7, validator=[attrs.validators.gt(0), attrs.validators.le(1)])


class Steady:
    """Wants as many replicas as the current calls need, plus a share of free slots."""

    def __init__(self, options: SteadyOptions) -> None:
        self._busy = options.busy

    def decide(self, load: Load) -> int:
        """
        Return the number of replicas that *load* needs.

        While no replica is ready, the slots of one replica are unknown, so the number stays.
        """
        if not load.ready or not load.slots:
            return load.replicas
        slots_of_one = load.slots / load.ready
        return max(1, math.ceil((load.ongoing + load.queued) / (slots_of_one * self._busy)))


@hookimpl
def sage_register_autoscalers() -> list[Registration]:
    """Offer `steady`."""
    return [Registration("steady", Steady, "keeps a share of the slots free", options=SteadyOptions)]
