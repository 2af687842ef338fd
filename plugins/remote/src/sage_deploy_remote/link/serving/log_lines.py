"""What a replica has logged in its process, until the process that deployed it asks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from itertools import count
from typing import Final

from sage_plugins.service.logs import LOGGER, RemoteLine, is_told, replica_of, request_of

__all__ = ["LogLines"]

#: The logger of all services of this process.
_ALL: Final = logging.getLogger(LOGGER)

#: Lines that are kept.
_LINES: Final = 1_000


class LogLines(logging.Handler):
    """The last lines of one replica. From any thread."""

    def __init__(self, service: str, replica: str) -> None:
        """Keep nothing yet."""
        super().__init__()
        self._replica = replica
        self._logger = logging.getLogger(f"{LOGGER}.{service}")
        self._lines: deque[RemoteLine] = deque(maxlen=_LINES)
        self._numbers = count(1)
        self._guard = threading.RLock()
        self._sets_level = False

    def begin(self) -> None:
        """Keep what is logged from now on, from level INFO until `after` says another, if nobody here has set one."""
        self._sets_level = _ALL.level == logging.NOTSET
        self._set_level(min(logging.INFO, _ALL.getEffectiveLevel()))
        self._logger.addHandler(self)

    def end(self) -> None:
        """Keep no more; what is there can be asked for. Idempotent."""
        self._logger.removeHandler(self)
        self._set_level(logging.NOTSET)
        self._sets_level = False

    def _set_level(self, level: int) -> None:
        if self._sets_level:
            _ALL.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, unless another replica has logged it."""
        if replica_of(record) in {None, self._replica} and not is_told(record):
            message = self.format(record)
            with self._guard:
                self._lines.append(
                    RemoteLine(next(self._numbers), record.created, record.levelno, message, request_of(record))
                )

    def after(self, number: int, level: int) -> list[RemoteLine]:
        """Those with higher numbers; from now on those from *level* on are logged."""
        self._set_level(level)
        with self._guard:
            return [line for line in self._lines if line.number > number]
