"""The errors that the methods of one replica raised, by type."""

from __future__ import annotations

import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sage_plugins.call.current import CARRIED
from sage_plugins.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextvars import Context

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces.operations import MethodError

__all__ = ["TYPES", "MethodErrors", "add_up"]

#: Types that are kept; the one whose latest error is the oldest makes room.
TYPES: Final = 20

#: Frames of a traceback, and characters of a message and of a traceback, that are kept.
_FRAMES: Final = 30
_MESSAGE: Final = 2_000
_TRACEBACK: Final = 16_000

#: Seconds for which a traceback is good enough for its type: making one takes longer than many a call.
_FRESH_S: Final = 1.0


class MethodErrors:
    """Counts errors by type, and has the text of a late one of each. From any thread."""

    def __init__(self) -> None:
        """Know of none yet."""
        self._found: dict[str, tuple[MethodError, float]] = {}  # with the time of its text; guarded by _lock
        self._lock = threading.RLock()  # re-entrant, because a signal handler may make a call that fails

    def note(self, call: Call, error: BaseException, context: Context | None = None) -> None:
        """
        A method raised; a fault in here reaches nobody.

        Args:
            call: What it answered.
            error: What it raised.
            context: That in which it ran; None for the one in which this is called.
        """
        with suppress(Exception):
            self._note(call, error, context)

    def _note(self, call: Call, error: BaseException, context: Context | None) -> None:
        from sage_plugins.interfaces.operations import MethodError  # few processes have errors

        wrapped = error if isinstance(error, RemoteError) and error.__traceback__ is None else None
        kind = type(error).__name__ if wrapped is None else wrapped.type_name
        now = time.monotonic()
        with self._lock:
            before, made_at = self._found.get(kind, (None, 0.0))
            if before is not None and now - made_at < _FRESH_S:
                self._found[kind] = before._replace(count=before.count + 1), made_at
                return
        carried = CARRIED.get() if context is None else context.get(CARRIED, {})
        latest = MethodError(
            kind,
            1,
            time.time(),
            (_text_of(error) if wrapped is None else wrapped.original_message)[:_MESSAGE],
            call.method.name,
            carried.get("request_id"),
            _trace_of(error, wrapped),
        )
        with self._lock:
            before, _ = self._found.pop(kind, (None, 0.0))
            self._found[kind] = latest if before is None else latest._replace(count=before.count + 1), now
            if len(self._found) > TYPES:
                del self._found[next(iter(self._found))]

    def latest(self) -> list[MethodError]:
        """The latest of each type."""
        with self._lock:
            return [error for error, _ in self._found.values()]


def add_up(replicas: Iterable[Sequence[MethodError]]) -> list[MethodError]:
    """Those of several replicas by type, the most frequent first, at most `TYPES`."""
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


def _trace_of(error: BaseException, wrapped: RemoteError | None) -> str:
    text = "".join(traceback.format_exception(error, limit=-_FRAMES)) if wrapped is None else wrapped.traceback_text
    return text[-_TRACEBACK:]
