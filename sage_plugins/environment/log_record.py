"""Keeps the last log lines of an environment's services."""

from __future__ import annotations

import logging
import threading
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Final

from sage_plugins.interfaces.operations import LogLine
from sage_plugins.service.logs import LOGGER, LineHandler, replica_of, request_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LogRecord"]

#: Number of lines that are kept, of all services together.
_LINES: Final = 10_000


class LogRecord(LineHandler):
    """A logging handler that keeps the last lines of services in this process. From any thread."""

    def __init__(self, is_ours: Callable[[str], bool]) -> None:
        """
        Keep all lines that services log from now on, until `close`.

        Args:
            is_ours: Returns whether the environment has a service of the given name. It must take no lock, because a
                thread that holds any lock may log a line.
        """
        super().__init__()
        self._is_ours = is_ours
        self._lines: deque[LogLine] = deque(maxlen=_LINES)
        self._numbers = count(1)
        self._guard = threading.RLock()
        logging.getLogger(LOGGER).addHandler(self)

    def take(self, record: logging.LogRecord) -> None:
        """Keep a line, if it is from a service of this environment."""
        service = record.name.removeprefix(f"{LOGGER}.")
        if self._is_ours(service):
            said = record.levelname, service, self.format(record), replica_of(record), request_of(record)
            with self._guard:
                self._lines.append(LogLine(next(self._numbers), record.created, *said))

    def after(self, seq: int, service: str | None) -> list[LogLine]:
        """Return the lines with numbers above *seq*, of one service or of all."""
        with self._guard:
            lines = list(self._lines)
        return [each for each in lines if each.seq > seq and service in {None, each.service}]

    def close(self) -> None:
        """Stop keeping lines."""
        logging.getLogger(LOGGER).removeHandler(self)
        super().close()
