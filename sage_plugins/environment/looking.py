"""What is shown of the services of one environment: status, metrics, events, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.environment.event_record import EventRecord
from sage_plugins.errors import SageDeployError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.environment.log_record import LogRecord
    from sage_plugins.environment.services import Services
    from sage_plugins.interfaces import LogLine, RecordedEvent
    from sage_plugins.interfaces.families import Families
    from sage_plugins.values import Event

__all__ = ["Looking"]


class Looking:
    """The part of an environment that shows how its services do. All methods are safe from any thread."""

    name: str
    id: str
    _services: Services

    def __init__(self, on_event: Callable[[Event], None] | None) -> None:
        """Record the events from now on, and tell *on_event*."""
        self._events = EventRecord(on_event)
        self._logs: LogRecord | None = None  # made when somebody asks; guarded by Services.lock

    def task(self, name: str) -> ServiceTask:
        """
        The task of a service, composed when first asked for; starts nothing.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            ServiceStoppedError: The environment was closed before the task was made.
            PlanError, ConfigError, UnknownPluginError, PluginError: The service cannot be composed.
        """
        return self._services.task(name)

    def get_service_status(self, name: str) -> dict[str, Any]:
        """
        A service at a glance.

        Returns:
            `service_name`, `state`, `deployment_config` (the object), `metrics` (a `ServiceMetrics`), `health`
            (`healthy`, `ready` of `replicas`, and if any are, which are `missing` and why), `replicas` (a dictionary
            each: id, state, node, inflight, slots, threads, pid, stats_age, error), `replaced` (how many replicas were
            started in the place of one that had ended or was unhealthy), `own_metrics` (what the class measures by
            `ctx.metrics`: by name, a dictionary for each set of labels, with its `value`) and `monitors` (what each
            other monitor reports, by its ID).

            Replicas in other processes are asked, for at most 1 s, all at once. What one that does not answer counted
            and ran is what it said last, `stats_age` seconds ago; None if it has never answered. What it says now has
            an age of 0.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
        """
        return self.task(name).status()

    def status(self) -> dict[str, Any]:
        """
        All services at a glance, as plain values: `json.dumps` takes them, and secrets are masked.

        Returns:
            `environment`, its `id`, and `services`: by name what `get_service_status` gives. A service that cannot be
            composed has a `state` of `"refused"` and the `error`.
        """
        from sage_plugins.environment.plain_status import plain

        services = {}
        for name in self._services.names:
            try:
                services[name] = plain(self.task(name).status())
            except (SageDeployError, ValueError) as error:
                services[name] = {"service_name": name, "state": "refused", "error": str(error)}
        return {"environment": self.name, "id": self.id, "services": services}

    def metrics(self) -> dict[str, Families]:
        """
        What is measured of all services, for monitoring; a tenth of the price of `status`.

        Counters and histograms never fall as long as the environment lives, whatever becomes of a service.

        Returns:
            By the service's name its families, by their names. A service that cannot be composed has only
            `sage_service_ready`, which is 0.
        """
        from sage_plugins.deployment.measuring import not_composed

        found = {}
        for name in self._services.names:
            try:
                found[name] = self._services.measured(name)
            except (SageDeployError, ValueError):
                found[name] = not_composed()
        return found

    def events(self, after: int = 0, service: str | None = None) -> list[RecordedEvent]:
        """
        The last events of the services, at most 1,000, the oldest first.

        Args:
            after: Number of the last event that is known already; 0 for none.
            service: Name of the service; None for all.
        """
        return self._events.after(after, service)

    def logs(self, after: int = 0, service: str | None = None) -> list[LogLine]:
        """
        What the services have logged, at most the last 10,000 lines, the oldest first.

        Lines are kept from the first call of this method on, or from the start of the first extension. Replicas in
        other processes are asked for theirs, for at most 1 s; these are logged here, too.

        Args:
            after: Number of the last line that is known already; 0 for none.
            service: Name of the service; None for all.
        """
        from sage_plugins.deployment.replicas.waiting import tell_logs

        record = self._record_logs()
        tell_logs([member for task in tuple(self._services.tasks.values()) for member in task.measuring.elsewhere])
        return record.after(after, service)

    def _record_logs(self) -> LogRecord:
        with self._services.lock:
            if self._logs is None:
                from sage_plugins.environment.log_record import LogRecord  # few look

                self._logs = LogRecord(lambda name: name in self._services.tasks)
            return self._logs

    def _close_logs(self) -> None:
        if self._logs is not None:
            self._logs.close()
