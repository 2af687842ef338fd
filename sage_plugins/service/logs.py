"""Finds the replica and the request of a service's log record, and logs records from other processes here."""

from __future__ import annotations

import logging
import re
from typing import Final, NamedTuple

from sage_plugins.call.current import request_id
from sage_plugins.errors import text_of

__all__ = ["LOGGER", "MESSAGE", "RemoteLine", "is_told", "level_of", "replica_of", "request_of", "tell"]

#: Parent of all services' loggers: `ServiceContext.logger` is `sage.service.<name>`.
LOGGER: Final = "sage.service"

#: The names of a replica's threads begin with its ID: `kv#0-main`, `kv#0.2-pool-1`.
_REPLICA: Final = re.compile(r".+#\d+(?:\.\d+)?(?=-)")


class _MessageFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the text. If the message cannot be formatted, say why: a wrong log call must not fail its method."""
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - arguments may not fit, and a user's __str__ may do anything
            what = repr(record.msg) if isinstance(record.msg, str) else f"a {type(record.msg).__name__}"
            return f"{record.filename}:{record.lineno} logs {what}, which cannot be formatted: {text_of(error)}"


#: The formatter for records of services.
MESSAGE: Final = _MessageFormatter("%(message)s")


class RemoteLine(NamedTuple):
    """
    A log record of a replica's process, as it is sent to this process.

    Attributes:
        number: Counts up from 1 in the replica.
        time_s: Seconds since the epoch, by the replica's clock.
        level: Number of the level, such as `logging.INFO`.
        message: The text, with its traceback if it has one.
        request_id: As `LogLine.request_id`.
    """

    number: int
    time_s: float
    level: int
    message: str
    request_id: str | None


def replica_of(record: logging.LogRecord) -> str | None:
    """Return the ID of the replica whose thread logged *record*; None if no replica's thread did."""
    told: str | None = getattr(record, "sage_replica", None)
    if told is not None:
        return told
    found = _REPLICA.match(record.threadName or "")
    return None if found is None else found[0]


def request_of(record: logging.LogRecord) -> str | None:
    """Return the ID of the request during which *record* was logged. Call this in the thread that logs it."""
    if hasattr(record, "sage_request"):
        told: str | None = record.sage_request
        return told
    return request_id()


def is_told(record: logging.LogRecord) -> bool:
    """Whether *record* comes from another process, through `tell`."""
    return hasattr(record, "sage_replica")


def level_of(service: str) -> int:
    """Return the lowest level (as a number) at which this process logs records of *service*."""
    return logging.getLogger(f"{LOGGER}.{service}").getEffectiveLevel()


def tell(service: str, replica: str, line: RemoteLine) -> None:
    """Log in this process a record of a replica in another process."""
    logger = logging.getLogger(f"{LOGGER}.{service}")
    if logger.isEnabledFor(line.level):
        record = logger.makeRecord(
            logger.name,
            line.level,
            "",
            0,
            line.message,
            (),
            None,
            extra={"sage_replica": replica, "sage_request": line.request_id},
        )
        record.created = line.time_s
        record.msecs = (line.time_s % 1) * 1000
        logger.handle(record)
