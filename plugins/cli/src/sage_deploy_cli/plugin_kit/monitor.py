"""The monitor `example_plugin`: counts failed calls by method."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sage_plugins import hookimpl
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.values import Outcome, Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sage_plugins.values import ReplicaInfo


class FailureRecorder:
    """Counts in the replica's process. Only snapshots are sent to the calling side."""

    def __init__(self, methods: tuple[str, ...]) -> None:
        self._methods = methods
        self._counters: list[Counter[str]] = []

    def writer(self) -> Callable[[int, int, float, float], None]:
        """Return the function that one worker calls after each call. It must be fast."""
        counter: Counter[str] = Counter()  # each worker has its own counter, so it needs no lock
        self._counters.append(counter)

        def record(method: int, outcome: int, _wait_s: float, _run_s: float) -> None:
            if outcome != Outcome.OK:
                counter[self._methods[method]] += 1

        return record

    def snapshot(self) -> Mapping[str, int]:
        """Return the counts so far."""
        return _sum(counter.copy() for counter in tuple(self._counters))

    def close(self) -> None:
        """Do nothing: the counts stay readable after the replica has stopped."""


class ExamplePlugin(QuietMonitor):
    """Adds up the counts of all replicas. `QuietMonitor` provides the other methods, which do nothing."""

    def __init__(self, _options: None = None) -> None:
        """Take no options."""

    def recorder(self, _who: ReplicaInfo, methods: tuple[str, ...]) -> FailureRecorder:
        """Return the recorder for one replica, or for the calling side."""
        return FailureRecorder(methods)

    def merge(self, snapshots: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
        """Return one snapshot with the sum of all counts. The core calls it for replicas that have left."""
        return _sum(snapshots)

    def summary(self, snapshots: Sequence[Mapping[str, int]]) -> Mapping[str, int]:
        """Return what the service's status shows under `monitors`."""
        return _sum(snapshots)


def _sum(snapshots: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in snapshots:
        total.update(each)
    return dict(total)


@hookimpl
def sage_register_monitors() -> list[Registration]:
    """Offer the monitor."""
    return [
        Registration(
            "example_plugin",
            ExamplePlugin,
            "Calls that failed, by method",
            capabilities=frozenset({"records_calls", "merges_counts"}),
        )
    ]
