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
        seq: Number within the environment, from 1.
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
        seq: Number within the environment, from 1.
        time_s: Seconds since the epoch.
        level: Such as `"INFO"`.
        service: Its name.
        message: The text, with any traceback.
        replica: ID of the replica whose thread logged it, or None.
        request_id: ID of the request during which it was logged, or None.
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
    The errors of one type that a service's methods raised.

    Attributes:
        type: Name of the exception's class.
        count: How often it was raised in the present replicas.
        time_s: Seconds since the epoch of a recent one, which the next fields describe. More may have happened within a
            second after it.
        message: Its text.
        method: Its name.
        request_id: The request's ID, or None.
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
    """
    What an `Environment` offers to code that does not own it. Thread-safe.

    `service`, `scale`, `restart`, `drain`, `set_load_balancer`, `errors` and `stacks` raise ServiceNotFoundError for an
    unknown name.
    """

    @property
    def name(self) -> str:
        """The environment's name."""

    @property
    def id(self) -> str:
        """ID, unique across names and processes."""

    def status(self, service: str | None = None) -> dict[str, Any]:
        """Return all that is known about all services, or one if it exists, as JSON values. Secrets are masked."""

    def overview(self) -> dict[str, dict[str, Any]]:
        """
        Return the state of all services, by name, without asking a replica; cheap.

        Each has, as in `status`, `state`, `health`, `replaced` and `replicas` (`id`, `state`, `inflight`, `slots`,
        `abandoned`); `queue` (waiting calls) and `queue_capacity`; if it scales by load, `autoscale` (`wanted`, `min`,
        `max`). A service that cannot be composed, or that another process deployed, is as in `status`.
        """

    def metrics(self) -> dict[str, Families]:
        """
        Return the metrics of all services: `{service: {family name: family}}`. Cheaper than `status`.

        Counters and histograms never fall.
        """

    def counts(self) -> dict[str, Families]:
        """
        Return the part of `metrics` from monitors that count calls; cheap.

        A family without new counts is the same object as at the last call.
        """

    def service(self, name: str) -> ServiceHandle:
        """
        Return a handle that calls a service; start nothing.

        Raises:
            ServiceStoppedError: The environment is closed.
        """

    def plan(self, *, reread: bool = False) -> DeploymentPlan:
        """
        Return what `apply` would do; start nothing. With *reread*, for the present content of the files.

        Raises:
            PlanError, ConfigError, PluginError: A service cannot be composed.
        """

    def reload(self) -> None:
        """
        Read the environment's files again. Running services stay unchanged until `apply`.

        Raises:
            ConfigError: Files have problems; the error has all. The earlier content of all files stays valid.
        """

    def apply(self, timeout: float | None = None) -> None:
        """
        Make the running services match the configuration.

        *timeout*: seconds for a service or replica to become ready. None: `startup_timeout` for a new service,
        `update.progress_deadline` for a changed one.

        Raises:
            PlanError, ConfigError, PluginError: A service cannot be composed; nothing changed.
            DeployError: A service or replica did not become ready. The update was rolled back; with
                `update.auto_rollback: false`, it stopped where it was.
        """

    def scale(self, name: str, replicas: int) -> None:
        """
        Set a service's number of replicas.

        Raises:
            ConfigError: *replicas* is below 1, or outside the bounds of `autoscale`.
            DeployError: The service does not run, or a new replica did not become ready.
        """

    def restart(self, name: str, replica: str | None = None) -> None:
        """
        Replace one replica of a service, by ID, or all in turn.

        Raises:
            DeployError: The service does not run, has no such replica, or a new one did not become ready.
        """

    def drain(self, name: str, timeout: float | None = None) -> None:
        """Let a service finish accepted calls, for *timeout* seconds or its `drain_timeout`, then stop it."""

    def set_load_balancer(self, name: str, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Change a running service's load balancer.

        Raises:
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError, PluginError: The balancer refuses its options or cannot be made.
            DeployError: The service does not run.
        """

    def plugins(self) -> dict[str, Any]:
        """Return, as JSON values, what plugins offer, which failed to load and why, and which are disabled."""

    def doctor(self) -> list[Finding]:
        """Run all plugins' checks of this machine and Python; return the findings. May take seconds."""

    def record_request(self, what: str, service: str | None = None) -> None:
        """
        Record an event: who asks for a change, and for what, in words. Call it before the change.

        *service* None: about all.
        """

    def events(self, after: int = 0, service: str | None = None) -> Sequence[RecordedEvent]:
        """Return events numbered above *after*, of one service or all, oldest first; only the last 1,000 are kept."""

    def logs(self, after: int = 0, service: str | None = None) -> Sequence[LogLine]:
        """
        Return services' log lines, in all processes, numbered above *after*, oldest first.

        The last 10,000 are kept, since the first call of this method or the first start of an extension.
        """

    def errors(self, service: str) -> Sequence[MethodError]:
        """
        Return the errors of a service's methods: the latest of each type, the most frequent first, at most 20.

        Asks replicas in other processes, for at most 1 s. Messages and tracebacks are not masked.
        """

    def stacks(self, service: str, replica: str) -> str:
        """
        Return the stacks of all threads of a replica's process, as text, also while methods hang.

        Raises:
            DeployError: There is no such replica, or it does not answer.
        """

    def nodes(self) -> list[dict[str, Any]]:
        """
        Return the nodes on which replicas run or may run, as JSON values. Asks clusters.

        Each has `name` (`"this process"` for replicas here), `state` (`"alive"`, or `"unknown"` to its target), `cpu`,
        `gpu` and `memory` (free and total; None if unknown), `labels`, `replicas` (service, ID and state) and `refused`
        (why replicas were not placed there).
        """
