"""What services log, as lines on stderr: time, level, service and replica, message."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sage_deploy_cli.output import complain

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["log_lines"]

#: Where services log, each below it by its name, and extensions by their IDs.
_SERVICES: Final = "sage.service"
_EXTENSIONS: Final = "sage.extension"
#: A replica's threads are called by it: `kv#0-main`.
_REPLICA: Final = re.compile(r"(?P<service>.+)#\d+(?=-)")


_MESSAGE: Final = logging.Formatter("%(message)s")


class _Lines(logging.Handler):
    """Writes lines, unless a module of the user's has set up logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            complain(self.format(record))

    def format(self, record: logging.LogRecord) -> str:
        """Such as `14:03:22.123 warning kv#0: careful`, and a traceback below it."""
        moment = f"{_MESSAGE.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03}"
        return f"{moment} {record.levelname.lower()} {_who(record)}: {_MESSAGE.format(record)}"


def _who(record: logging.LogRecord) -> str:
    """The replica if one of its threads has logged, else the service; for what is no service's, the logger too."""
    replica = _REPLICA.match(record.threadName or "")
    service = record.name.removeprefix(f"{_EXTENSIONS}.").removeprefix(f"{_SERVICES}.")
    if service == record.name:
        return f"{replica[0]} {record.name}" if replica else record.name
    return replica[0] if replica and replica["service"] == service else service


@contextmanager
def log_lines(level: str) -> Iterator[None]:
    """
    Show what services log, at *level* and above, and warnings of other loggers in the same form.

    A module that sets up logging itself, with `logging.basicConfig` for instance, gets it all instead.
    """
    loggers, lines = [logging.getLogger(name) for name in (_SERVICES, _EXTENSIONS)], _Lines()
    before = [each.level for each in loggers], logging.lastResort
    lines.setLevel(level.upper())
    for each in loggers:
        each.setLevel(level.upper())
        each.addHandler(lines)
    # Python writes bare messages with this one where nobody has set up logging.
    logging.lastResort = lines
    try:
        yield
    finally:
        for each, its_level in zip(loggers, before[0], strict=True):
            each.removeHandler(lines)
            each.setLevel(its_level)
        logging.lastResort = before[1]
