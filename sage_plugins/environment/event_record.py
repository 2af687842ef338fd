"""The event log of an environment: keeps its last events."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.interfaces import RecordedEvent
    from sage_plugins.values import Event

__all__ = ["EventRecord"]

#: Number of events that are kept, of all services together.
_EVENTS: Final = 1_000


class EventRecord:
    """The event log of one environment. From any thread."""

    def __init__(self, listener: Callable[[Event], None] | None) -> None:
        """Start empty. *listener* is called with every event too, until it raises."""
        self._listener = listener
        self._events: deque[tuple[int, float, Event]] = deque(maxlen=_EVENTS)
        self._seq = 0
        self._lock = threading.RLock()  # re-entrant, because a signal handler may stop a service meanwhile

    def tell(self, event: Event) -> None:
        """Record *event* and call the listener with it."""
        with self._lock:
            self._seq += 1
            self._events.append((self._seq, time.time(), event))
        listener = self._listener
        if listener is not None:
            try:
                listener(event)
            except Exception:
                self._listener = None
                logging.getLogger("sage_plugins").exception(
                    "service '%s': on_event raised and is left out", event.service
                )

    def after(self, seq: int, service: str | None) -> list[RecordedEvent]:
        """Return the events with numbers above *seq*, of one service or of all."""
        from sage_plugins.interfaces.operations import RecordedEvent  # few environments need it

        with self._lock:
            events = [each for each in self._events if each[0] > seq]
        return [RecordedEvent(*each) for each in events if service in {None, each[2].service}]
