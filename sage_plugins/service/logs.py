"""What services log: where, and who a record is of."""

from __future__ import annotations

import logging
import re
from typing import Final, NamedTuple

from sage_plugins.call.current import request_id

__all__ = ["LOGGER", "RemoteLine", "is_told", "level_of", "replica_of", "request_of", "tell"]

#: Where `ServiceContext.logger` writes, each service below it by its name.
LOGGER: Final = "sage.service"

#: A replica's threads are called by it: `kv#0-main`, `kv#0.2-pool-1`.
_REPLICA: Final = re.compile(r".+#\d+(?:\.\d+)?(?=-)")


class RemoteLine(NamedTuple):
    """
    A record of a replica's process, as it travels.

    Attributes:
        number: Counts up from 1 in the replica.
        time_s: Seconds since the epoch, by its clock.
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
    """ID of the replica that has logged *record*; None if none of its threads did."""
    told: str | None = getattr(record, "sage_replica", None)
    if told is not None:
        return told
    found = _REPLICA.match(record.threadName or "")
    return None if found is None else found[0]


def request_of(record: logging.LogRecord) -> str | None:
    """ID of the request on whose behalf *record* was logged; asked where it is logged."""
    if hasattr(record, "sage_request"):
        told: str | None = record.sage_request
        return told
    return request_id()


def is_told(record: logging.LogRecord) -> bool:
    """Whether *record* was logged in another process, and here by `tell`."""
    return hasattr(record, "sage_replica")


def level_of(service: str) -> int:
    """Number of the level from which on this process takes what *service* logs."""
    return logging.getLogger(f"{LOGGER}.{service}").getEffectiveLevel()


def tell(service: str, replica: str, line: RemoteLine) -> None:
    """Log here what a replica in another process has logged there."""
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
