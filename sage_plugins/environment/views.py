"""What is shown of the services of one environment: status, metrics, events, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.environment.event_record import EventRecord
from sage_plugins.errors import SageDeployError
from sage_plugins.values import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.deployment.measuring import Measuring
    from sage_plugins.deployment.task import ServiceTask
    from sage_plugins.environment.detached import Elsewhere
    from sage_plugins.environment.logs import Logs
    from sage_plugins.environment.services import Services
    from sage_plugins.findings import Finding
    from sage_plugins.interfaces import LogLine, RecordedEvent
    from sage_plugins.interfaces.families import Families
    from sage_plugins.interfaces.operations import MethodError

__all__ = ["Views"]


class Views:
    """The part of an environment that shows how its services do. All methods are safe from any thread."""

    name: str
    id: str
    _services: Services
    _logs: Logs
    _elsewhere: Elsewhere

    def __init__(self, on_event: Callable[[Event], None] | None) -> None:
        """Record the events from now on, and tell *on_event*."""
        self._events = EventRecord(on_event)

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
            each, see below), `replaced` (how many replicas were started in the place of one that had ended, was
            unhealthy or was recycled), `own_metrics` (what the class measures by `ctx.metrics`: by name, a dictionary
            for each set of labels, with its `value`) and `monitors` (what each other monitor reports, by its ID). Of a
            service that scales by load also `autoscale`: how many replicas are `wanted`, and the `min` and `max` of its
            bounds.

            A replica has `id`, `state`, `node`, `inflight`, `slots`, `abandoned`, `threads`, `pid`, `stats_age`,
            `error`, `since` (when it was started, in seconds since the epoch), `restarts` (how many were in its place
            before), `standby` (whether it waits for the one that serves to go), `history` (its last 20 states, each
            with its time and reason), and of its process `cpu` (cores that are busy) and `memory` (bytes), None if they
            are not measured.

            Replicas in other processes are asked, for at most 1 s, all at once. What one that does not answer counted
            and ran is what it said last, `stats_age` seconds ago; None if it has never answered. What it says now has
            an age of 0.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
        """
        return self.task(name).status()

    def status(self, service: str | None = None) -> dict[str, Any]:
        """
        All services at a glance, as plain values: `json.dumps` takes them, and secrets are masked.

        Args:
            service: Name of the only one that is wanted, if there is one of that name; None for all.

        Returns:
            `environment`, its `id`, and `services`: by name what `get_service_status` gives. A service that cannot be
            composed has a `state` of `"refused"` and the `error`. One that another process has deployed for an
            environment of this name, see `Environment.adopt`, has only `state`, `health`, `replicas` and `held_by`:
            that process, empty for none. `problem` says why such services are not known, if they are not.
        """
        from sage_plugins.environment.plain_status import plain, status_of

        found = status_of(self._services, self._elsewhere, lambda task: plain(task.status()), service)
        return {"environment": self.name, "id": self.id, **found}

    def overview(self) -> dict[str, dict[str, Any]]:
        """
        How all services are, as far as this process knows without asking: for who looks again and again.

        Returns:
            By name a part of what `status` has: `state`, `health` (`ready`, `replicas`, `missing`), `replicas` (`id`,
            `state`, `inflight`, `slots`, `abandoned` of each) and `replaced`; and `queue` (calls that wait) and
            `queue_capacity`. Of a service that scales by load also `autoscale`. Or as there, of a service that cannot
            be composed, or that another process has deployed.
        """
        from sage_plugins.environment.plain_status import status_of

        found: dict[str, dict[str, Any]] = status_of(
            self._services, self._elsewhere, lambda task: task.status_view.overview()
        )["services"]
        return found

    def metrics(self) -> dict[str, Families]:
        """
        What is measured of all services, for monitoring; a tenth of the price of `status`.

        Counters and histograms never fall as long as the environment lives, whatever becomes of a service.

        Returns:
            By the service's name its families, by their names. A service that cannot be composed has only
            `sage_service_ready`, which is 0.
        """
        from sage_plugins.deployment.measuring import not_composed

        return self._measured(lambda measuring: measuring.families(), not_composed)

    def counts(self) -> dict[str, Families]:
        """
        A part of `metrics`: for who looks again and again, beside `overview`.

        Returns:
            By the service's name what the monitors have that count calls. A family is the same object
            as before if its monitor has counted nothing since. A service that cannot be composed has none.
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
        """What the plugins of this environment offer, what did not load and why, what is disabled; as plain values."""
        from sage_plugins.plugins.listing import listing

        return listing(self._services.registry)

    def doctor(self) -> list[Finding]:
        """What the checks of all plugins find of this machine and this Python; may take seconds."""
        from sage_plugins.plugins.listing import examine

        return examine(self._services.registry)

    def record_request(self, what: str, service: str | None = None) -> None:
        """
        Have the events tell who asked for a change, before it is made.

        Args:
            what: Who asked, and for what, for a human.
            service: Name of the service; None if it is about all.
        """
        self._events.tell(Event(service or "", "change_requested", what))

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
        return self._logs.after(after, service)

    def errors(self, service: str) -> list[MethodError]:
        """
        What the methods of a service have raised, the latest of each type, the most frequent first.

        At most 20 types, of the replicas that there are now. Those in other processes are asked, for at most 1 s.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
        """
        return self.task(service).status_view.errors()

    def stacks(self, service: str, replica: str) -> str:
        """
        Where all threads of a replica's process are, as text; also while its methods hang.

        Raises:
            ServiceNotFoundError: No service of that name is registered.
            DeployError: It has no such replica, or that does not answer.
        """
        return self.task(service).instances.stacks(replica)

    def nodes(self) -> list[dict[str, Any]]:
        """
        The nodes on which replicas of this environment run or may run, as plain values.

        Clusters that its services use are asked.

        Returns:
            For each its `name`, `"this process"` for replicas in this one; `state`: `alive`, or `unknown` if its target
            does not know of it; `cpu`, `gpu` and `memory`: what is free and what there is, in cores, GPUs and bytes,
            None if that is not known; `labels`; `replicas`: service, ID and state of each; and `refused`: why replicas
            are not there, at most 50 reasons.
        """
        from sage_plugins.deployment.replicas.nodes import nodes_of
        from sage_plugins.environment.services import AT_REST

        with self._services.lock:
            tasks = [task for task in self._services.tasks.values() if task.state not in AT_REST]
        return nodes_of(tasks)
