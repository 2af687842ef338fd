"""Counts the errors that the methods of one replica raised, by type."""

from __future__ import annotations

import threading
import time
import traceback
from typing import TYPE_CHECKING, Final

from sage_plugins.call.current import CARRIED
from sage_plugins.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextvars import Context

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces.operations import MethodError

__all__ = ["TYPES", "MethodErrors", "add_up"]

#: Maximum number of types. If there are more, the type whose latest error is the oldest is dropped.
TYPES: Final = 20

#: Maximum number of frames of a traceback, and of characters of a message and of a traceback.
_FRAMES: Final = 30
_MESSAGE: Final = 2_000
_TRACEBACK: Final = 16_000

#: Seconds for which the last traceback of a type is reused: making a traceback takes longer than many calls.
_FRESH_S: Final = 1.0


class _OfType:
    """The errors of one type."""

    __slots__ = ("count", "latest", "made_at")

    def __init__(self, latest: MethodError, made_at: float, count: int) -> None:
        self.latest = latest
        self.made_at = made_at
        self.count = count


class MethodErrors:
    """Counts errors by type, and keeps the text of a recent error of each type. Thread-safe."""

    def __init__(self) -> None:
        self._found: dict[str, _OfType] = {}  # guarded by _lock
        self._lock = threading.RLock()  # re-entrant, because a signal handler may make a call that fails

    def note(self, call: Call, error: BaseException, context: Context | None = None) -> None:
        """
        Count an error of a method; never raises.

        Args:
            call: The call that the method answered.
            error: The exception that it raised.
            context: The context in which the method ran; None for the present context.
        """
        try:
            wrapped = error if isinstance(error, RemoteError) and error.__traceback__ is None else None
            kind = type(error).__name__ if wrapped is None else wrapped.type_name
            now = time.monotonic()
            with self._lock:
                before = self._found.get(kind)
                if before is not None and now - before.made_at < _FRESH_S:
                    before.count += 1
                    return
            latest = _described(call, kind, error, wrapped, context)
            with self._lock:
                before = self._found.pop(kind, None)
                self._found[kind] = _OfType(latest, now, 1 if before is None else before.count + 1)
                if len(self._found) > TYPES:
                    del self._found[next(iter(self._found))]
        except Exception:  # noqa: BLE001 - the caller still waits for its answer
            return

    def latest(self) -> list[MethodError]:
        """Return the latest error of each type."""
        with self._lock:
            return [each.latest._replace(count=each.count) for each in self._found.values()]


def _described(
    call: Call, kind: str, error: BaseException, wrapped: RemoteError | None, context: Context | None
) -> MethodError:
    from sage_plugins.interfaces.operations import MethodError  # few processes have errors

    carried = CARRIED.get() if context is None else context.get(CARRIED, {})
    text = _text_of(error) if wrapped is None else wrapped.original_message
    trace = "".join(traceback.format_exception(error, limit=-_FRAMES)) if wrapped is None else wrapped.traceback_text
    request = carried.get("request_id")
    return MethodError(kind, 1, time.time(), text[:_MESSAGE], call.method.name, request, trace[-_TRACEBACK:])


def add_up(replicas: Iterable[Sequence[MethodError]]) -> list[MethodError]:
    """Merge the errors of several replicas by type, the most frequent type first; return at most `TYPES`."""
    found: dict[str, MethodError] = {}
    for errors in replicas:
        for each in errors:
            other = found.get(each.type)
            if other is None:
                found[each.type] = each
            else:
                later = max(each, other, key=lambda error: error.time_s)
                found[each.type] = later._replace(count=each.count + other.count)
    return sorted(found.values(), key=lambda error: -error.count)[:TYPES]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a user's __str__ may do anything
        return "<its text cannot be read>"
