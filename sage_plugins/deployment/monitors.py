"""The monitors of one service: what they are told, what they have counted, and the fence around them."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sage_plugins.host.recording import make_recorder
from sage_plugins.interfaces import SnapshotMerger
from sage_plugins.interfaces.control import OWN_METRICS
from sage_plugins.values import Event, ReplicaInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Monitor, Recorder, ServiceWatcher, WatchedReplica, WatchedService
    from sage_plugins.interfaces.families import Family
    from sage_plugins.values import Choice

__all__ = ["Watched", "Watchers"]


class Watched(NamedTuple):
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


class Watchers:
    """
    All monitors of a service, on the calling side.

    A monitor that raises hurts nothing but itself: its first fault is logged. All methods are safe from any thread.
    """

    def __init__(
        self,
        service: str,
        choices: Sequence[Choice],
        methods: tuple[str, ...],
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        """
        Make the monitors.

        Args:
            service: Name of the service.
            choices: Which monitors.
            methods: Names of the served methods, by index.
            listener: Told of every event, beside the monitors.
        """
        self._listener = listener  # taken away by the first thread in which it raises
        self._service = service
        self._monitors: tuple[tuple[Choice, Monitor], ...] = tuple((choice, choice.create()) for choice in choices)
        self._faulty: set[str] = set()  # guarded by _lock
        who = ReplicaInfo(service, None)
        self._recorders = {
            choice.id: make_recorder(choice, monitor, who, methods) for choice, monitor in self._monitors
        }
        self._writers = {id: recorder.writer() for id, recorder in self._recorders.items() if recorder is not None}
        self._writing = threading.RLock()  # writers are for one thread at a time
        #: Told of calls that were given up; replaced as a whole, under _lock.
        self._looking: tuple[tuple[Choice, Callable[[], None]], ...] = ()
        self._lock = threading.Lock()

    def attach(
        self,
        service: Callable[
            [Callable[[Callable[[], None]], None], Callable[[], Sequence[Mapping[str, Any]]]], WatchedService
        ],
        counts: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:
        """
        Let those that look by themselves look at the service.

        Args:
            service: `service(on_given_up, snapshots)` makes what one of them sees.
            counts: What all replicas have counted, as for `merge`, those included that left.
        """
        for choice, monitor in self._monitors:
            if hasattr(monitor, "attach"):  # as ServiceWatcher; to ask a Protocol takes a hundred times as long
                seen = service(partial(self._look, choice), partial(self._own, choice, counts))
                self._fenced(choice, cast("ServiceWatcher", monitor).attach, seen)

    def _own(self, choice: Choice, counts: Callable[[], Sequence[Mapping[str, Any]]]) -> Sequence[Mapping[str, Any]]:
        """The snapshots of one monitor's recorders, that of the calling side included."""
        recorder = self._recorders[choice.id]
        mine = None if recorder is None else self._fenced(choice, recorder.snapshot)
        own = [each[choice.id] for each in counts() if choice.id in each]
        return own if mine is None else [*own, mine]

    def _look(self, choice: Choice, look: Callable[[], None]) -> None:
        with self._lock:
            self._looking = (*self._looking, (choice, look))

    def count(self, method: int, outcome: int, wait_s: float, run_s: float) -> None:
        """A call ended on the calling side."""
        with self._writing:
            for choice, _ in self._monitors:
                if choice.id in self._writers:
                    self._fenced(choice, self._writers[choice.id], method, outcome, wait_s, run_s)

    def given_up(self) -> None:
        """A caller has given a call up, which may still run."""
        for choice, look in self._looking:
            self._fenced(choice, look)

    def refused(self, method: int, reason: str) -> None:
        """A call was not accepted."""
        for choice, monitor in self._monitors:
            self._fenced(choice, monitor.refused, method, reason)

    def tell(self, kind: str, reason: str, replica: str | None = None) -> None:
        """Something was decided."""
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
        One mapping for several of the form {monitor id: snapshot}; empty for monitors that cannot merge theirs.

        What replicas measured of themselves is merged, too, gauges left out.
        """
        merged: dict[str, Any] = {}
        measured = [each[OWN_METRICS] for each in snapshots if OWN_METRICS in each]
        if measured:
            from sage_plugins.interfaces.families import add_up, growing  # few services have any

            merged[OWN_METRICS] = growing(add_up(measured))
        for choice, monitor in self._monitors:
            own = [each[choice.id] for each in snapshots if choice.id in each]
            if own and isinstance(monitor, SnapshotMerger):
                whole = self._fenced(choice, monitor.merge, own)
                if whole is not None:
                    merged[choice.id] = whole
        return merged

    def summaries(self, snapshots: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """What each monitor makes of *snapshots*, mappings as for `merge`, and of its own on the calling side."""
        found = {}
        for choice, monitor in self._monitors:
            found[choice.id] = self._fenced(choice, monitor.summary, self._own(choice, lambda: snapshots)) or {}
        return found

    def families(self, snapshots: Sequence[Mapping[str, Any]], *, counting: bool = False) -> list[Family]:
        """
        What the monitors have for `/metrics`, of *snapshots*, mappings as for `merge`, and of their own.

        With *counting*, only that of monitors which are told of each call.
        """
        found: list[Family] = []
        for choice, monitor in self._monitors:
            if counting and self._recorders[choice.id] is None:
                continue
            families = getattr(monitor, "families", None)  # `MetricsExporter`; isinstance would take long
            if families is not None:
                own = self._own(choice, lambda: snapshots)
                found += self._fenced(choice, lambda ask, of: list(ask(of)), families, own) or ()
        return found

    def close(self) -> None:
        """The service has stopped."""
        for choice, monitor in self._monitors:
            recorder = self._recorders[choice.id]
            if recorder is not None:
                self._fenced(choice, _close, recorder)
            self._fenced(choice, monitor.close)

    def _fenced(self, choice: Choice, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What a monitor answers, or None: its fault must neither stop the service nor fill the log."""
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
    """Called inside the fence, so that a recorder without `close` cannot keep the service from stopping."""
    recorder.close()
