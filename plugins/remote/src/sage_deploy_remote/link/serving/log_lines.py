"""Keeps the log lines of a replica until the deploying process asks for them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from itertools import count
from typing import Final

from sage_plugins.service.logs import LOGGER, MESSAGE, RemoteLine, is_told, replica_of, request_of

__all__ = ["LogLines"]

#: The logger of all services of this process.
_ALL: Final = logging.getLogger(LOGGER)

#: Number of lines to keep; older ones are dropped.
_LINES: Final = 1_000


class LogLines(logging.Handler):
    """The last log lines of one replica. Thread-safe."""

    def __init__(self, service: str, replica: str) -> None:
        super().__init__()
        self.setFormatter(MESSAGE)
        self._replica = replica
        self._logger = logging.getLogger(f"{LOGGER}.{service}")
        self._lines: deque[RemoteLine] = deque(maxlen=_LINES)
        self._numbers = count(1)
        self._guard = threading.RLock()
        self._sets_level = False

    def begin(self) -> None:
        """
        Keep what is logged from now on.

        Unless code in this process has set a level, log from level INFO on until `after` gives another level.
        """
        self._sets_level = _ALL.level == logging.NOTSET
        self._set_level(min(logging.INFO, _ALL.getEffectiveLevel()))
        self._logger.addHandler(self)

    def end(self) -> None:
        """Keep no further lines; `after` still returns those that were kept. Idempotent."""
        self._logger.removeHandler(self)
        self._set_level(logging.NOTSET)
        self._sets_level = False

    def _set_level(self, level: int) -> None:
        if self._sets_level:
            _ALL.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, unless another replica logged it."""
        if replica_of(record) in {None, self._replica} and not is_told(record):
            message = self.format(record)
            with self._guard:
                self._lines.append(
                    RemoteLine(next(self._numbers), record.created, record.levelno, message, request_of(record))
                )

    def after(self, number: int, level: int) -> list[RemoteLine]:
        """Return the kept lines with numbers above *number*; from now on, log from *level* on."""
        self._set_level(level)
        with self._guard:
            return [line for line in self._lines if line.number > number]
