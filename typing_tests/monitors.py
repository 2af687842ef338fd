"""Type checkers accept third-party monitors that fit the protocols, and refuse those that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

from sage_plugins.interfaces import QuietMonitor, SnapshotMerger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.interfaces import (
        CallCounter,
        Monitor,
        Recorder,
        RecorderFactory,
        ServiceWatcher,
        WatchedService,
    )
    from sage_plugins.values import Event, ReplicaInfo


class _Calls:
    """A recorder without base class."""

    number = 0

    def writer(self) -> Callable[[int, int, float, float], None]:
        return self._record

    def _record(self, _method: int, _outcome: int, _wait_s: float, _run_s: float) -> None:
        self.number += 1

    def snapshot(self) -> Mapping[str, Any]:
        return {"number": self.number}

    def close(self) -> None:
        """Do nothing: counts stay readable."""


class _CallsForStatistics(_Calls):
    def counts(self) -> Mapping[str, int]:
        return {"request_count": self.number, "error_count": 0}


class _RecordsOnly:
    """The part that a replica's process needs."""

    def recorder(self, _who: ReplicaInfo, _methods: tuple[str, ...]) -> _Calls:
        return _Calls()


class _Plain(_RecordsOnly):
    """A monitor without our base class and without optional members."""

    def refused(self, method: int, reason: str) -> None: ...
    def event(self, event: Event) -> None: ...
    def summary(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return {"number": sum(each["number"] for each in snapshots)}

    def close(self) -> None: ...


class _Full(_Plain):
    """A monitor with both optional members."""

    def attach(self, service: WatchedService) -> None: ...
    def merge(self, snapshots: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return self.summary(snapshots)


class _Quiet(QuietMonitor):
    """A monitor that inherits the members that it does not use."""

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Recorder | None:  # noqa: ARG002
        return None if who.replica is None else _Calls()

    def event(self, event: Event) -> None: ...


class _AttachesToNothing(_Plain):
    def attach(self) -> None: ...


class _MergesTwo(_Plain):
    def merge(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**first, **second}


class _CountsInText(_Calls):
    def counts(self) -> str:
        return str(self.number)


class _Deaf(_RecordsOnly):
    """Lacks the members for the calling side."""


class _RecordsForNobody(_Plain):
    def recorder(self) -> _Calls:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Calls()


class _QuietButWrong(QuietMonitor):
    def event(self, kind: str, reason: str) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        ...


def a_strangers_monitor_fits() -> None:
    """Monitors fit with and without optional members, and with and without the base class."""
    factory: RecorderFactory = _RecordsOnly()
    monitor: Monitor = _Plain()
    monitor = _Full()
    monitor = _Quiet()
    watcher: ServiceWatcher = _Full()
    merger: SnapshotMerger = _Full()
    counter: CallCounter = _CallsForStatistics()
    print(factory, monitor, watcher, merger, counter)


def what_does_not_fit_is_refused() -> None:
    """Type checkers refuse a missing member and another signature."""
    monitor: Monitor = _Deaf()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    monitor = _RecordsForNobody()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    watcher: ServiceWatcher = _Plain()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    watcher = _AttachesToNothing()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    merger: SnapshotMerger = _Plain()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    merger = _MergesTwo()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    counter: CallCounter = _CountsInText()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(monitor, watcher, merger, counter, _QuietButWrong())


def an_optional_member_can_be_asked_for(monitor: Monitor) -> None:
    """After `isinstance`, an optional member has its type. The core and the suites ask this way."""
    if isinstance(monitor, SnapshotMerger):
        assert_type(monitor.merge([]), "Mapping[str, Any]")
