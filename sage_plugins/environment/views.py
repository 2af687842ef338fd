"""The methods of `Environment` that show its services: status, metrics, events, logs, nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.environment.event_record import EventRecord
from sage_plugins.errors import SageDeployError
from sage_plugins.values import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.deployment.measuring import Measuring
    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.environment.detached import DetachedStatus
    from sage_plugins.environment.logs import Logs
    from sage_plugins.environment.services import Services
    from sage_plugins.findings import Finding
    from sage_plugins.interfaces import LogLine, RecordedEvent
    from sage_plugins.interfaces.families import Families
    from sage_plugins.interfaces.operations import MethodError

__all__ = ["Views"]


class Views:
    """The methods of `Environment` that show its services. Thread-safe."""

    name: str
    id: str
    _services: Services
    _logs: Logs
    _detached: DetachedStatus

    def __init__(self, on_event: Callable[[Event], None] | None) -> None:
        """Begin to record events, and to call *on_event* with each."""
        self._events = EventRecord(on_event)

    def task(self, name: str) -> ServiceTask:
        """
        Return the task of a service; compose it if there is none. Starts nothing.

        Raises:
            ServiceNotFoundError: No such service.
            ServiceStoppedError: The environment was closed before the task was made.
            PlanError, ConfigError, UnknownPluginError, PluginError: The service cannot be composed.
        """
        return self._services.task(name)

    def get_service_status(self, name: str) -> dict[str, Any]:
        """
        Return a service's status.

        Returns:
            `service_name`, `state`, `deployment_config` (the object), `metrics` (a `ServiceMetrics`), `health`
            (`healthy`, `ready`, `replicas` and, if any, `missing`: which replicas are not ready and why), `replicas`
            (see below), `replaced` (replicas started for one that had ended, was unhealthy or was recycled),
            `own_metrics` (by name of the `ctx.metrics`, a dictionary for each set of labels, with its `value`),
            `monitors` (other monitors' reports, by ID) and, if the service scales by load, `autoscale` (`wanted`
            replicas, bounds `min` and `max`).

            A replica is a dictionary with `id`, `state`, `node`, `inflight`, `slots`, `abandoned`, `threads`, `pid`,
            `stats_age`, `error`, `since` (its start, in seconds since the epoch), `restarts` (earlier replicas in its
            place), `standby` (whether it is ready but waits until the serving replica goes), `history` (its last 20
            states, with time and reason), and `cpu` (busy cores) and `memory` (bytes) of its process, None if not
            measured.

            Asks all replicas in other processes at once, for at most 1 s. If one does not answer, its last known values
            are shown, with their age in seconds in `stats_age`; None if it has never answered, 0 for present values.

        Raises:
            ServiceNotFoundError: No such service.
        """
        return self.task(name).status()

    def status(self, service: str | None = None) -> dict[str, Any]:
        """
        Return the status of all services as JSON values, with secrets masked.

        Args:
            service: Name of the only wanted service; None for all. An unknown name gives no services.

        Returns:
            `environment` (its name), its `id`, and `services`: by name the result of `get_service_status`. One that
            cannot be composed has the `state` `"refused"` and the `error`. One that another process deployed for an
            environment of this name (see `Environment.adopt`) has only `service_name`, `state`, `health`, `replicas`
            and `held_by`: that process, empty for none. `problem`, if present, says why such services are not known.
        """
        from sage_plugins.environment.plain_status import plain, status_of

        found = status_of(self._services, self._detached, lambda task: plain(task.status()), service)
        return {"environment": self.name, "id": self.id, **found}

    def overview(self) -> dict[str, dict[str, Any]]:
        """
        Return the state of all services without asking replicas. Cheap enough to call repeatedly.

        Returns:
            By name a part of `status`: `state`, `health` (`ready`, `replicas`, `missing`), `replicas` (`id`, `state`,
            `inflight`, `slots`, `abandoned` of each) and `replaced`; also `queue` (waiting calls), `queue_capacity`
            and, if the service scales by load, `autoscale`. A service that cannot be composed, or that another process
            deployed, is as in `status`.
        """
        from sage_plugins.environment.plain_status import status_of

        found: dict[str, dict[str, Any]] = status_of(
            self._services, self._detached, lambda task: task.status_view.overview()
        )["services"]
        return found

    def metrics(self) -> dict[str, Families]:
        """
        Return the metrics of all services, for monitoring; costs a tenth of `status`.

        Counters and histograms never fall while the environment lives, even if services are replaced.

        Returns:
            By service its families, by name. A service that cannot be composed has only `sage_service_ready`, which is
            0.
        """
        from sage_plugins.deployment.measuring import not_composed

        return self._measured(lambda measuring: measuring.families(), not_composed)

    def counts(self) -> dict[str, Families]:
        """
        Return the part of `metrics` that counts calls. Cheap enough to call repeatedly.

        Returns:
            By service the families of monitors that count calls. A family is the same object as before if nothing was
            counted since. A service that cannot be composed has none.
        """
        return self._measured(lambda measuring: measuring.counts(), dict)

    def _measured(
        self, measure: Callable[[Measuring], Families], not_composed: Callable[[], Families]
    ) -> dict[str, Families]:
        found = {}
        for name in self._services.names:
            try:
                found[name] = self._services.measured(name, measure)
            except (SageDeployError, ValueError):
                found[name] = not_composed()
        return found

    def plugins(self) -> dict[str, Any]:
        """Return which plugins are loaded, failed to load and why, or are disabled; as plain values."""
        from sage_plugins.plugins.listing import listing

        return listing(self._services.registry)

    def doctor(self) -> list[Finding]:
        """Return the findings of all plugins' checks of this machine and Python; may take seconds."""
        from sage_plugins.plugins.listing import examine

        return examine(self._services.registry)

    def record_request(self, what: str, service: str | None = None) -> None:
        """
        Record an event `change_requested`, before the change is made.

        Args:
            what: Who requests which change, for people.
            service: The service's name; None if it concerns all.
        """
        self._events.tell(Event(service or "", "change_requested", what))

    def events(self, after: int = 0, service: str | None = None) -> list[RecordedEvent]:
        """
        Return the last events of the services, at most 1,000, oldest first.

        Args:
            after: Number of the last event that the caller knows; 0 for none.
            service: The service's name; None for all.
        """
        return self._events.after(after, service)

    def logs(self, after: int = 0, service: str | None = None) -> list[LogLine]:
        """
        Return the last log lines of the services, at most 10,000, oldest first.

        Lines are kept since the first call of this method or the first start of an extension. Asks replicas in other
        processes for theirs, for at most 1 s, and logs them in this process too.

        Args:
            after: Number of the last line that the caller knows; 0 for none.
            service: The service's name; None for all.
        """
        return self._logs.after(after, service)

    def errors(self, service: str) -> list[MethodError]:
        """
        Return the errors of a service's methods: the latest of each type, the most frequent type first.

        At most 20 types, from the present replicas. Asks replicas in other processes, for at most 1 s.

        Raises:
            ServiceNotFoundError: No such service.
        """
        return self.task(service).status_view.errors()

    def stacks(self, service: str, replica: str) -> str:
        """
        Return the stacks of all threads of a replica's process, as text; also while its methods hang.

        Raises:
            ServiceNotFoundError: No such service.
            DeployError: It has no such replica, or the replica does not answer.
        """
        return self.task(service).instances.stacks(replica)

    def nodes(self) -> list[dict[str, Any]]:
        """
        Return the nodes on which replicas of this environment run or may run, as plain values. Asks clusters.

        Returns:
            For each node `name` (`"this process"` for replicas in this process), `state` (`"alive"`, or `"unknown"` if
            its target does not know it), `cpu`, `gpu` and `memory` (free and total, in cores, GPUs and bytes; None if
            unknown), `labels`, `replicas` (service, ID and state) and `refused` (why replicas are not there, at most 50
            reasons).
        """
        from sage_plugins.deployment.replicas.nodes import nodes_of
        from sage_plugins.environment.services import NOT_RUNNING

        with self._services.lock:
            tasks = [task for task in self._services.tasks.values() if task.state not in NOT_RUNNING]
        return nodes_of(tasks)
