"""Writes the log records of services to stderr: time, level, service and replica, message."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sage_deploy_cli.output import complain, progress
from sage_plugins.service.logs import LOGGER, LineHandler, replica_of, request_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["log_lines"]

#: Logger of all extensions. Each extension logs to a child logger named after its ID.
_EXTENSIONS: Final = "sage.extension"
_MESSAGE: Final = logging.Formatter("%(message)s")


class _Lines(LineHandler):
    """Writes log lines, unless one of the user's modules has set up logging itself."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def take(self, record: logging.LogRecord) -> None:
        """Write *record*."""
        if logging.getLogger().handlers:
            return
        if self._as_json:
            progress(self._object(record))
        else:
            complain(self.format(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return a line such as `14:03:22.123 warning kv#0: careful`, followed by any traceback."""
        moment = f"{_MESSAGE.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03}"
        request = request_of(record)
        asked = "" if request is None else f" [{request}]"
        return f"{moment} {record.levelname.lower()} {_who(record)}{asked}: {_MESSAGE.format(record)}"

    @staticmethod
    def _object(record: logging.LogRecord) -> str:
        content = {
            "time": record.created,
            "level": record.levelname.lower(),
            "service": _named(record),
            "replica": replica_of(record),
            "request_id": request_of(record),
            "message": _MESSAGE.format(record),
        }
        return json.dumps(content, default=str)


def _named(record: logging.LogRecord) -> str:
    """Return the service or the extension that logged, or the logger's name if it is neither."""
    return record.name.removeprefix(f"{_EXTENSIONS}.").removeprefix(f"{LOGGER}.")


def _who(record: logging.LogRecord) -> str:
    """
    Return who logged: the replica, if one of its threads logged for its own service, else the service.

    A record of any other logger gets the logger's name, after the replica if there is one.
    """
    replica, service = replica_of(record), _named(record)
    if service == record.name:
        return f"{replica} {record.name}" if replica else record.name
    return replica if replica and replica.rpartition("#")[0] == service else service


@contextmanager
def log_lines(level: str, form: str = "text") -> Iterator[None]:
    """
    Show log records of services at *level* and above, and warnings of other loggers in the same form.

    If a module sets up logging itself, for instance with `logging.basicConfig`, its handlers get all records instead.

    Args:
        level: A level name such as `"info"`.
        form: `"text"`, or `"json"` for one JSON object a line.
    """
    loggers, lines = [logging.getLogger(name) for name in (LOGGER, _EXTENSIONS)], _Lines(as_json=form == "json")
    before = [each.level for each in loggers], logging.lastResort
    lines.setLevel(level.upper())
    for each in loggers:
        each.setLevel(level.upper())
        each.addHandler(lines)
    # Python uses this handler if nobody has set up logging. Its own one writes only the message.
    logging.lastResort = lines
    try:
        yield
    finally:
        for each, its_level in zip(loggers, before[0], strict=True):
            each.removeHandler(lines)
            each.setLevel(its_level)
        logging.lastResort = before[1]
