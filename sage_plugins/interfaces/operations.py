"""What can be done with a running environment, by whoever does not own it: extensions, servers, commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sage_plugins.findings import Finding
    from sage_plugins.interfaces.families import Families
    from sage_plugins.planning.plan import DeploymentPlan
    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.values import Event

__all__ = ["LogLine", "MethodError", "Operations", "RecordedEvent"]


class RecordedEvent(NamedTuple):
    """
    An event with its number.

    Attributes:
        seq: Counts up from 1 within an environment.
        time_s: Seconds since the epoch.
        event: What happened.
    """

    seq: int
    time_s: float
    event: Event


class LogLine(NamedTuple):
    """
    A record that a service has logged.

    Attributes:
        seq: Counts up from 1 within an environment.
        time_s: Seconds since the epoch.
        level: Such as `"INFO"`.
        service: Name of the service.
        message: The text, with its traceback if it has one.
        replica: ID of the replica, if one of its threads has logged it; else None.
        request_id: ID of the request on whose behalf it was logged; None if there is none.
    """

    seq: int
    time_s: float
    level: str
    service: str
    message: str
    replica: str | None = None
    request_id: str | None = None


class MethodError(NamedTuple):
    """
    What the methods of a service have raised, of one type.

    Attributes:
        type: Name of the exception's class.
        count: How often, in the replicas that there are now.
        time_s: Seconds since the epoch of the one that all below are about; there may have been more within a second.
        message: Its text.
        method: Name of the method that raised it.
        request_id: ID of the request on whose behalf the method ran; None if there is none.
        traceback: Its traceback, as Python prints it.
    """

    type: str
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs of it
    time_s: float
    message: str
    method: str
    request_id: str | None
    traceback: str


class Operations(Protocol):
    """An environment as others see it; `Environment` implements it. All methods are safe from any thread."""

    @property
    def name(self) -> str:
        """Name of the environment."""

    @property
    def id(self) -> str:
        """Tells it from every other environment, of whatever name and process."""

    def status(self, service: str | None = None) -> dict[str, Any]:
        """
        Everything about all services, as values that JSON has; secrets are masked.

        Args:
            service: Name of the only one that is wanted, if there is one of that name; None for all.
        """

    def overview(self) -> dict[str, dict[str, Any]]:
        """
        How all services are, by name, as far as is known without asking a replica: for who looks again and again.

        A part of what `status` has of each: `state`, `health`, `replicas` (`id`, `state`, `inflight`, `slots` and
        `abandoned` of each) and `replaced`; and `queue` (calls that wait) and `queue_capacity`. Of a service that
        scales by load also `autoscale`: `wanted`, `min` and `max`. Of one that cannot be composed, or that another
        process has deployed, the same as there.
        """

    def metrics(self) -> dict[str, Families]:
        """
        What is measured of all services: by name its metric families, by their names; cheaper than `status`.

        Counters and histograms never fall as long as the environment lives.
        """

    def counts(self) -> dict[str, Families]:
        """
        A part of `metrics`: what the monitors have that count calls. For who looks again and again.

        A family is the same object as before if its monitor has counted nothing since.
        """

    def service(self, name: str) -> ServiceHandle:
        """
        A handle that calls a service; starts nothing.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            ServiceStoppedError: The environment is closed.
        """

    def plan(self, *, reread: bool = False) -> DeploymentPlan:
        """
        What `apply` would do; starts nothing.

        Args:
            reread: Whether for what the files say now, rather than for what they said when they were loaded.

        Raises:
            PlanError, ConfigError, PluginError: A service cannot be composed.
        """

    def reload(self) -> None:
        """
        Read the environment's files again; what runs goes on until `apply`.

        Raises:
            ConfigError: With every problem of a file; then what they all said before counts.
        """

    def apply(self, timeout: float | None = None) -> None:
        """
        Make the running services match the configuration.

        Args:
            timeout: Seconds for a service, or a replica, to be ready; None for `startup_timeout` of a service that is
                new and `update.progress_deadline` of one that changes.

        Raises:
            PlanError, ConfigError, PluginError: A service cannot be composed; nothing was changed.
            DeployError: A service, or a new replica of it, did not become ready: it was rolled back, or stopped where
                it was if its `update` has `auto_rollback: false`.
        """

    def scale(self, name: str, replicas: int) -> None:
        """
        Set the number of replicas of a service.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            ConfigError: *replicas* is not 1 or more, or not within the bounds of `autoscale`.
            DeployError: The service does not run, or a new replica did not become ready.
        """

    def restart(self, name: str, replica: str | None = None) -> None:
        """
        Replace one replica of a service by a new one, or every one in turn.

        Args:
            name: Name of the service.
            replica: ID of the replica; None for all.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            DeployError: The service does not run or has no such replica, or a new one did not become ready.
        """

    def drain(self, name: str, timeout: float | None = None) -> None:
        """
        Have a service finish the calls that it has accepted, and stop.

        Args:
            name: Name of the service.
            timeout: Seconds for the accepted calls; None for the service's `drain_timeout`.

        Raises:
            ServiceNotFoundError: There is no service of that name.
        """

    def set_load_balancer(self, name: str, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Have another load balancer choose among the replicas of a service.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError, PluginError: The balancer refuses its options or cannot be made.
            DeployError: The service does not run.
        """

    def plugins(self) -> dict[str, Any]:
        """What the plugins offer, what did not load and why, and what is disabled; as values that JSON has."""

    def doctor(self) -> list[Finding]:
        """What the checks of all plugins find of this machine and this Python; may take seconds."""

    def record_request(self, what: str, service: str | None = None) -> None:
        """
        Have the events tell who asked for a change, before it is made.

        Args:
            what: Who asked, and for what, for a human.
            service: Name of the service; None if it is about all.
        """

    def events(self, after: int = 0, service: str | None = None) -> Sequence[RecordedEvent]:
        """
        The events with numbers above *after*, of one service or of all, the oldest first.

        The environment keeps the last 1,000.
        """

    def logs(self, after: int = 0, service: str | None = None) -> Sequence[LogLine]:
        """
        What services have logged, those in other processes too, with numbers above *after*, the oldest first.

        The environment keeps the last 10,000 since this was first called, or since it first started an extension.
        """

    def errors(self, service: str) -> Sequence[MethodError]:
        """
        What the methods of a service have raised, the latest of each type, the most frequent first.

        At most 20 types. Replicas in other processes are asked, for at most 1 s. Like logs, messages and tracebacks
        show what the service has put into them.

        Raises:
            ServiceNotFoundError: There is no service of that name.
        """

    def stacks(self, service: str, replica: str) -> str:
        """
        Where all threads of a replica's process are, as text; also while its methods hang.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            DeployError: It has no such replica, or that does not answer.
        """

    def nodes(self) -> list[dict[str, Any]]:
        """
        The nodes on which replicas run or may run, as values that JSON has; clusters are asked.

        Each has `name` (`"this process"` for replicas in this one), `state` (`"alive"`, or `"unknown"` if its target
        does not know of it), `cpu`, `gpu` and `memory` (free, total; None if unknown), `labels`, `replicas` (service,
        ID and state of each) and `refused` (why replicas are not there).
        """
