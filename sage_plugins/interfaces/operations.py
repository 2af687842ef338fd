"""The operations on an environment that extensions, servers and commands may use."""

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
    An event with its number and time.

    Attributes:
        seq: Its number; counts up from 1 within an environment.
        time_s: Seconds since the epoch.
        event: What happened.
    """

    seq: int
    time_s: float
    event: Event


class LogLine(NamedTuple):
    """
    A log record of a service.

    Attributes:
        seq: Its number; counts up from 1 within an environment.
        time_s: Seconds since the epoch.
        level: Level of the record, such as `"INFO"`.
        service: Name of the service.
        message: The text, with its traceback if it has one.
        replica: ID of the replica, if one of its threads logged the record; otherwise None.
        request_id: ID of the request during which it was logged; None if there is none.
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
    The errors of one type that the methods of a service raised.

    Attributes:
        type: Name of the exception's class.
        count: How often it was raised in the present replicas.
        time_s: Time of a recent such error, in seconds since the epoch. The fields below describe this error. More may
            have happened within a second after it.
        message: Text of the error.
        method: Name of the method that raised it.
        request_id: ID of the request for which the method ran; None if there is none.
        traceback: Traceback of the error, as Python prints it.
    """

    type: str
    count: int  # type: ignore[assignment] # hides tuple.count, which nobody needs of it
    time_s: float
    message: str
    method: str
    request_id: str | None
    traceback: str


class Operations(Protocol):
    """
    An environment, for code that does not own it. `Environment` implements this. All methods are safe from any thread.
    """

    @property
    def name(self) -> str:
        """Name of the environment."""

    @property
    def id(self) -> str:
        """ID of the environment, unique across names and processes."""

    def status(self, service: str | None = None) -> dict[str, Any]:
        """
        Return all that is known about the services, as JSON values. Secrets are masked.

        Args:
            service: Name of one service, to get only that one if it exists; None for all.
        """

    def overview(self) -> dict[str, dict[str, Any]]:
        """
        Return the state of all services, by name, without asking a replica. Cheap enough to call repeatedly.

        Each service has a part of its `status`: `state`, `health`, `replicas` (`id`, `state`, `inflight`, `slots` and
        `abandoned` of each) and `replaced`. It also has `queue` (number of calls that wait) and `queue_capacity`. If it
        scales by load, it has `autoscale`: `wanted`, `min` and `max`. A service that cannot be composed, or that
        another process has deployed, looks the same as in `status`.
        """

    def metrics(self) -> dict[str, Families]:
        """
        Return the metrics of all services: `{service: {family name: family}}`. Cheaper than `status`.

        Counters and histograms never fall as long as the environment lives.
        """

    def counts(self) -> dict[str, Families]:
        """
        Return the part of `metrics` that comes from monitors that count calls. Cheap enough to call repeatedly.

        If its monitor has counted nothing since the last call, a family is the same object as before.
        """

    def service(self, name: str) -> ServiceHandle:
        """
        Return a handle that calls a service; starts nothing.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            ServiceStoppedError: The environment is closed.
        """

    def plan(self, *, reread: bool = False) -> DeploymentPlan:
        """
        Return what `apply` would do; starts nothing.

        Args:
            reread: True: plan for the present content of the files. False: for their content when they were loaded.

        Raises:
            PlanError, ConfigError, PluginError: A service cannot be composed.
        """

    def reload(self) -> None:
        """
        Read the environment's files again. Running services are unchanged until `apply`.

        Raises:
            ConfigError: A file has problems; the error has all of them. The earlier content of all files stays valid.
        """

    def apply(self, timeout: float | None = None) -> None:
        """
        Make the running services match the configuration.

        Args:
            timeout: Seconds for a service or a replica to become ready. None: `startup_timeout` for a new service,
                `update.progress_deadline` for a service that changes.

        Raises:
            PlanError, ConfigError, PluginError: A service cannot be composed; nothing was changed.
            DeployError: A service, or a new replica of it, did not become ready. The update was rolled back; with
                `update.auto_rollback: false`, it stopped where it was.
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
        Replace one replica of a service, or all replicas in turn.

        Args:
            name: Name of the service.
            replica: ID of the replica; None for all.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            DeployError: The service does not run or has no such replica, or a new one did not become ready.
        """

    def drain(self, name: str, timeout: float | None = None) -> None:
        """
        Let a service finish its accepted calls, then stop it.

        Args:
            name: Name of the service.
            timeout: Seconds for the accepted calls; None for the service's `drain_timeout`.

        Raises:
            ServiceNotFoundError: There is no service of that name.
        """

    def set_load_balancer(self, name: str, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Change the load balancer of a running service.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError, PluginError: The balancer refuses its options or cannot be made.
            DeployError: The service does not run.
        """

    def plugins(self) -> dict[str, Any]:
        """Return what plugins offer, which ones failed to load and why, and which are disabled; as JSON values."""

    def doctor(self) -> list[Finding]:
        """Run the checks of all plugins on this machine and this Python; return their findings. May take seconds."""

    def record_request(self, what: str, service: str | None = None) -> None:
        """
        Record an event that says who asked for a change. Call it before the change.

        Args:
            what: Who asked, and for what, in words.
            service: Name of the service; None if the change is about all.
        """

    def events(self, after: int = 0, service: str | None = None) -> Sequence[RecordedEvent]:
        """
        Return the events with numbers above *after*, of one service or of all, oldest first.

        The environment keeps the last 1,000.
        """

    def logs(self, after: int = 0, service: str | None = None) -> Sequence[LogLine]:
        """
        Return the log lines of services, in all processes, with numbers above *after*, oldest first.

        The environment keeps the last 10,000 since the first call of this method or the first start of an extension.
        """

    def errors(self, service: str) -> Sequence[MethodError]:
        """
        Return the errors that the methods of a service raised: the latest of each type, the most frequent type first.

        Returns at most 20 types. Asks replicas in other processes and waits at most 1 s. Messages and tracebacks are
        not masked: like logs, they show what the service put into them.

        Raises:
            ServiceNotFoundError: There is no service of that name.
        """

    def stacks(self, service: str, replica: str) -> str:
        """
        Return the stacks of all threads of a replica's process, as text. Works also while its methods hang.

        Raises:
            ServiceNotFoundError: There is no service of that name.
            DeployError: The service has no such replica, or the replica does not answer.
        """

    def nodes(self) -> list[dict[str, Any]]:
        """
        Return the nodes on which replicas run or may run, as JSON values. Asks clusters.

        Each node has `name` (`"this process"` for replicas in this process), `state` (`"alive"`, or `"unknown"` if its
        target does not know it), `cpu`, `gpu` and `memory` (free and total; None if unknown), `labels`, `replicas`
        (service, ID and state of each) and `refused` (why replicas were not placed there).
        """
