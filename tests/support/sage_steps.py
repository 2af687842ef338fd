"""Steps of pipelines of SAGE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage.foundation import MapFunction, SinkFunction, SourceFunction
from sage.stream._runtime_kernel_types import StopSignal

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable


class Count(SourceFunction):
    """The source of the numbers from 1 to *last*, which is at its end then."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last
        self._given = 0

    def execute(self, data: Any = None) -> Any:
        if self._given == self._last:
            return StopSignal("counted")
        self._given += 1
        return self._given


class Do(MapFunction):
    """A step that does what it is told, with itself and the item."""

    def __init__(self, what: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self._what = what

    def execute(self, data: Any) -> Any:
        return self._what(self, data)


class Collect(SinkFunction):
    """The end of a pipeline: a list, and an event when it has as many items as *expected*."""

    def __init__(self, into: list[Any], expected: int = 0, full: threading.Event | None = None) -> None:
        super().__init__()
        self._into = into
        self._expected = expected
        self._full = full

    def execute(self, data: Any) -> None:
        self._into.append(data)
        if self._full is not None and len(self._into) == self._expected:
            self._full.set()
