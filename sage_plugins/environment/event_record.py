"""The last events of an environment, for those who look at it later."""

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

#: Events that are kept, of all services together.
_EVENTS: Final = 1_000


class EventRecord:
    """The last events of an environment. From any thread."""

    def __init__(self, listener: Callable[[Event], None] | None) -> None:
        """Remember nothing yet; *listener* is told of every event too, until it raises."""
        self._listener = listener
        self._events: deque[tuple[int, float, Event]] = deque(maxlen=_EVENTS)
        self._seq = 0
        self._lock = threading.RLock()  # re-entrant because a signal handler may stop a service meanwhile

    def tell(self, event: Event) -> None:
        """Remember *event*, and tell the listener."""
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
        """Those with numbers above *seq*, of one service or of all."""
        from sage_plugins.interfaces.operations import RecordedEvent  # few look

        with self._lock:
            events = [each for each in self._events if each[0] > seq]
        return [RecordedEvent(*each) for each in events if service in {None, each[2].service}]
