"""Runs the monitors of one service: reports to them, collects their counts, and contains their errors."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sage_plugins.host.recording import make_monitor, make_recorder, make_writer
from sage_plugins.interfaces import SnapshotMerger
from sage_plugins.interfaces.control import OWN_METRICS
from sage_plugins.values import Event, ReplicaInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Monitor, Recorder, ServiceWatcher, WatchedReplica, WatchedService
    from sage_plugins.interfaces.families import Family
    from sage_plugins.values import Choice

__all__ = ["MonitoredService", "ServiceMonitors"]


class MonitoredService(NamedTuple):
    """The service as its monitors see it: `interfaces.WatchedService`."""

    name: str
    config: Any
    clock: Clock
    hooks: frozenset[str]
    replicas: Callable[[], Sequence[WatchedReplica]]
    environment: str | None
    count_queued: Callable[[], int]
    on_given_up: Callable[[Callable[[], None]], None]
    snapshots: Callable[[], Sequence[Mapping[str, Any]]]

    @property
    def queued(self) -> int:
        """Calls that wait for a slot."""
        return self.count_queued()


class ServiceMonitors:
    """
    All monitors of a service, on the calling side.

    An error of a monitor affects nothing else. Its first error is logged. Thread-safe.
    """

    def __init__(
        self,
        service: str,
        choices: Sequence[Choice],
        methods: tuple[str, ...],
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        self._listener = listener  # set to None when it raises
        self._service = service
        self._monitors: tuple[tuple[Choice, Monitor], ...] = tuple((choice, make_monitor(choice)) for choice in choices)
        self._faulty: set[str] = set()  # guarded by _lock
        who = ReplicaInfo(service, None)
        self._recorders = {
            choice.id: make_recorder(choice, monitor, who, methods) for choice, monitor in self._monitors
        }
        self._writers = {
            choice.id: make_writer(choice, recorder)
            for choice, _ in self._monitors
            if (recorder := self._recorders[choice.id]) is not None
        }
        self._writing = threading.RLock()  # only one thread at a time may use a writer
        #: Called when a caller gives up a call. Replaced as a whole, under _lock.
        self._give_up_listeners: tuple[tuple[Choice, Callable[[], None]], ...] = ()
        self._lock = threading.Lock()

    def attach(
        self,
        service: Callable[
            [Callable[[Callable[[], None]], None], Callable[[], Sequence[Mapping[str, Any]]]], WatchedService
        ],
        counts: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        """
        Give the service to the monitors that watch it: each `ServiceWatcher`.

        Args:
            service: `service(on_given_up, snapshots)` makes the view of the service for one monitor.
            counts: Returns the counts of all replicas, as for `merge`, including those that have left.
        """
        for choice, monitor in self._monitors:
            if hasattr(monitor, "attach"):  # a ServiceWatcher; isinstance of a Protocol is 100 times slower
                seen = service(partial(self._add_give_up_listener, choice), partial(self._snapshots_of, choice, counts))
                self._fenced(choice, cast("ServiceWatcher", monitor).attach, seen)

    def _snapshots_of(
        self, choice: Choice, counts: Callable[[], Sequence[Mapping[str, Any]]]
    ) -> Sequence[Mapping[str, Any]]:
        """Return the snapshots of one monitor's recorders, including the recorder on the calling side."""
        recorder = self._recorders[choice.id]
        mine = None if recorder is None else self._fenced(choice, recorder.snapshot)
        own = [each[choice.id] for each in counts() if choice.id in each]
        return own if mine is None else [*own, mine]

    def _add_give_up_listener(self, choice: Choice, listener: Callable[[], None]) -> None:
        with self._lock:
            self._give_up_listeners = (*self._give_up_listeners, (choice, listener))

    def count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        """Record a call that ended on the calling side."""
        with self._writing:
            for choice, _ in self._monitors:
                if choice.id in self._writers:
                    self._fenced(choice, self._writers[choice.id], method, outcome, wait_s, run_s)

    def given_up(self) -> None:
        """Report that a caller has given up a call, which may still run."""
        for choice, listener in self._give_up_listeners:
            self._fenced(choice, listener)

    def refused(self, method: int, reason: str) -> None:
        """Report that a call was not accepted."""
        for choice, monitor in self._monitors:
            self._fenced(choice, monitor.refused, method, reason)

    def tell(self, kind: str, reason: str, replica: str | None = None) -> None:
        """Send an event to the monitors and the listener."""
        event = Event(self._service, kind, reason, replica)
        for choice, monitor in self._monitors:
            self._fenced(choice, monitor.event, event)
        listener = self._listener
        if listener is not None:
            try:
                listener(event)
            except Exception:
                self._listener = None
                logging.getLogger("sage_plugins").exception(
                    "service '%s': on_event raised and is left out", self._service
                )

    def merge(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """
        Merge several mappings {monitor id: snapshot} into one. Leaves out monitors that are no `SnapshotMerger`.

        Also merges what replicas measured themselves, without gauges.
        """
        merged: dict[str, Any] = {}
        measured = [each[OWN_METRICS] for each in snapshots if OWN_METRICS in each]
        if measured:
            from sage_plugins.interfaces.families import add_up, growing  # few services measure themselves

            merged[OWN_METRICS] = growing(add_up(measured))
        for choice, monitor in self._monitors:
            own = [each[choice.id] for each in snapshots if choice.id in each]
            if own and isinstance(monitor, SnapshotMerger):
                whole = self._fenced(choice, monitor.merge, own)
                if whole is not None:
                    merged[choice.id] = whole
        return merged

    def summaries(self, snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Return each monitor's summary of *snapshots* (as for `merge`) and of its own counts on the calling side."""
        found = {}
        for choice, monitor in self._monitors:
            own = self._snapshots_of(choice, lambda: snapshots)
            found[choice.id] = self._fenced(choice, monitor.summary, own) or {}
        return found

    def families(self, snapshots: Sequence[Mapping[str, Any]], *, counting: bool = False) -> list[Family]:
        """
        Return the monitors' families for `/metrics`, from *snapshots* (as for `merge`) and their own counts.

        With *counting*, only those of monitors that count calls.
        """
        found: list[Family] = []
        for choice, monitor in self._monitors:
            if counting and self._recorders[choice.id] is None:
                continue
            families = getattr(monitor, "families", None)  # a MetricsExporter; isinstance is slow
            if families is not None:
                own = self._snapshots_of(choice, lambda: snapshots)
                found += self._fenced(choice, lambda ask, of: list(ask(of)), families, own) or ()
        return found

    def close(self) -> None:
        """Close all monitors and their recorders: the service has stopped."""
        for choice, monitor in self._monitors:
            recorder = self._recorders[choice.id]
            if recorder is not None:
                self._fenced(choice, _close, recorder)
            self._fenced(choice, monitor.close)

    def _fenced(self, choice: Choice, ask: Callable[..., Any], *arguments: Any) -> Any:
        """Call *ask*, or return None if it raises. An error must neither stop the service nor fill the log."""
        try:
            return ask(*arguments)
        except Exception:
            with self._lock:
                first = choice.id not in self._faulty
                self._faulty.add(choice.id)
            if first:
                logging.getLogger("sage_plugins").exception(
                    "service '%s': monitor '%s' from %s raised; further faults of it are not reported",
                    self._service,
                    choice.id,
                    choice.source,
                )
            return None


def _close(recorder: Recorder) -> None:
    """Close *recorder*. The attribute is looked up here, inside `_fenced`, in case the recorder has no `close`."""
    recorder.close()
