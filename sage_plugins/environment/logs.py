"""Keeps the log lines of an environment's services, from the first time that someone needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_plugins.environment.log_record import LogRecord
    from sage_plugins.environment.services import Services
    from sage_plugins.interfaces import LogLine

__all__ = ["Logs"]


class Logs:
    """The log lines of one environment's services. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._record: LogRecord | None = None  # guarded by Services.lock

    def keep(self) -> LogRecord:
        """Begin to keep lines, if that has not begun, and return the record."""
        with self._services.lock:
            if self._record is None:
                from sage_plugins.environment.log_record import LogRecord  # few environments need it

                self._record = LogRecord(lambda name: name in self._services.tasks)
            return self._record

    def after(self, seq: int, service: str | None) -> list[LogLine]:
        """As `Environment.logs`."""
        from sage_plugins.deployment.replicas.waiting import tell_logs

        record = self.keep()
        tell_logs([member for task in tuple(self._services.tasks.values()) for member in task.measuring.remote_members])
        return record.after(seq, service)

    def close(self) -> None:
        """Stop keeping lines."""
        if self._record is not None:
            self._record.close()
