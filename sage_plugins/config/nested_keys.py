"""
The keys of the mappings that a configuration holds, such as those of `methods`, `autoscale` and `retry`.

Declared in the same words as the fields themselves, so that whoever reads a declaration reads these too.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.config.field_checks import LONGEST, MOST, FieldInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.config.service_config import ServiceDeploymentConfig

__all__ = [
    "AUTOSCALE_FIELDS",
    "BATCH_FIELDS",
    "BREAKER_FIELDS",
    "HEDGE_FIELDS",
    "METHOD_FIELDS",
    "OUTLIER_FIELDS",
    "RECYCLE_FIELDS",
    "RETRY_FIELDS",
    "UPDATE_FIELDS",
    "BreakerPolicy",
    "HedgePolicy",
    "OutlierPolicy",
    "Policies",
    "RecyclePolicy",
    "RetryPolicy",
    "policies_of",
    "retry_policy",
]


def _keys(*infos: FieldInfo) -> Mapping[str, FieldInfo]:
    return MappingProxyType({info.name: info for info in infos})


def _count(name: str, doc: str, default: int | None = None, *, minimum: int = 0) -> FieldInfo:
    return FieldInfo(name=name, kind="integer", doc=doc, default=default, minimum=minimum, maximum=MOST)


def _share(name: str, doc: str, default: float) -> FieldInfo:
    return FieldInfo(name=name, kind="number", doc=doc, default=default, minimum=0, maximum=1)


def _duration(name: str, doc: str, default: float | None = None, *, positive: bool = False) -> FieldInfo:
    return FieldInfo(
        name=name,
        kind="number",
        doc=doc,
        default=default,
        minimum=0,
        exclusive=positive,
        maximum=LONGEST,
        unit="seconds",
    )


#: The keys of `methods.<name>.batch`.
BATCH_FIELDS: Final = _keys(
    _count("size", "Most calls given to the batch method at once. Left out: the service's batch_size.", minimum=1),
    _duration("wait", "Longest wait for the batch to fill while a worker is idle, in seconds. Left out: batch_wait."),
)

#: The keys of `methods.<name>`.
METHOD_FIELDS: Final = _keys(
    FieldInfo(
        name="timeout",
        kind="number",
        optional=True,
        minimum=0,
        exclusive=True,
        maximum=LONGEST,
        unit="seconds",
        doc="Longest time of a call of this method, in seconds; null: no limit. Left out: as the service.",
    ),
    FieldInfo(
        name="max_concurrency",
        kind="integer",
        optional=True,
        minimum=1,
        maximum=MOST,
        doc="Most calls of this method at once in each replica; null or left out: the replica's slots.",
    ),
    FieldInfo(
        name="idempotent",
        kind="boolean",
        default=False,
        doc="Whether running a call twice does no harm, so that it may be tried again after it has started.",
    ),
    FieldInfo(
        name="batch",
        kind="batch",
        keys=BATCH_FIELDS,
        doc="Whether calls go through the method's batch method: true, or its own size and wait.",
    ),
)

#: The keys of `autoscale`.
AUTOSCALE_FIELDS: Final = _keys(
    FieldInfo(
        name="policy",
        kind="string",
        default="target_ongoing",
        doc="ID of the autoscaler, which says how many replicas the load needs.",
    ),
    _count("min", "Fewest replicas; 0: none while there are no calls.", 1),
    _count("initial", "Replicas at the start. Left out: min, or 1 if that is 0.", minimum=1),
    _count("max", "Most replicas.", 1, minimum=1),
    FieldInfo(
        name="target_ongoing_requests",
        kind="number",
        minimum=0,
        exclusive=True,
        maximum=float(MOST),
        doc="Calls that wait or run in each replica, on average, that scaling aims at. Left out: the calls that a "
        "replica runs at once, but at least 2.",
    ),
    _duration("target_queue_wait", "Mean wait in the queue that scaling aims at, in seconds.", positive=True),
    _duration("upscale_delay", "How long more replicas must be wanted before they start, in seconds.", 10.0),
    _duration("downscale_delay", "How long fewer replicas must be wanted before some stop, in seconds.", 300.0),
    _share("upscale_factor", "How far to go at once towards more replicas, as a fraction; at least one is added.", 1.0),
    _share("downscale_factor", "How far to go at once towards fewer, as a fraction; at least one is taken away.", 1.0),
    _duration("look_back", "Time over which the load is averaged, in seconds.", 30.0, positive=True),
    _share("tolerance", "Deviation from the aim that changes nothing, as a fraction.", 0.1),
    _duration(
        "scale_to_zero_delay",
        "Time without calls after which the last replica stops, in seconds. Left out: downscale_delay.",
    ),
)

#: The keys of `retry`.
RETRY_FIELDS: Final = _keys(
    _count("max_attempts", "Most attempts of one call, the first included.", 3, minimum=1),
    _duration("backoff", "Wait before the second attempt, in seconds; it doubles from one to the next.", 0.025),
    _share("budget", "Attempts beyond the first that all calls together may take, as a fraction of the calls.", 0.2),
    _count("min", "Attempts beyond the first that are allowed in any 10 seconds, whatever the budget.", 3),
    FieldInfo(
        name="on",
        kind="strings",
        default=(),
        doc="Classes of exceptions of the methods that are tried again, by their bare names; subclasses count too.",
    ),
)

#: The keys of `hedge`.
HEDGE_FIELDS: Final = _keys(
    _duration(
        "delay",
        "Time without an answer after which a call gets a second attempt, in seconds; p95: the time within which 95 % "
        "of the method's calls were answered.",
        0.0,
        positive=True,
    )._replace(default="p95", choices=("p95",)),
    _count("max", "Second attempts of one call.", 1, minimum=1)._replace(maximum=1),
)

#: The keys of `circuit_breaker`.
BREAKER_FIELDS: Final = _keys(
    _count("failures", "Failures in a row that open it.", 5, minimum=1),
    _duration("window", "Time within which these failures lie, in seconds.", 10.0, positive=True),
    _duration("open", "Time for which it refuses calls, in seconds.", 10.0, positive=True),
    _count("probes", "Calls that it lets through then; it closes when all of them succeed.", 1, minimum=1),
)

#: The keys of `outlier`.
OUTLIER_FIELDS: Final = _keys(
    _count("consecutive", "Calls in a row that time out at a replica before it gets none.", 5, minimum=1),
    _duration("interval", "Time over which the durations of replicas are compared, in seconds.", 10.0, positive=True),
    _duration("base_ejection", "Time without calls, in seconds; twice as long each next time.", 5.0, positive=True),
    _duration("max_ejection", "Longest time without calls, in seconds.", 300.0, positive=True),
    FieldInfo(
        name="max_percent",
        kind="number",
        default=50.0,
        minimum=0,
        maximum=100,
        doc="Most replicas without calls at once, in percent; if it had to be more, all get calls.",
    ),
)

#: The keys of `recycle`.
RECYCLE_FIELDS: Final = _keys(
    _count("max_calls", "Calls after which a replica is replaced. Left out: however many.", minimum=1),
    FieldInfo(
        name="max_memory_mb",
        kind="number",
        minimum=0,
        exclusive=True,
        maximum=float(MOST),
        unit="MiB",
        doc="Resident memory of its process at which a replica is replaced, in MiB. Left out: however much.",
    ),
    _duration("max_age", "Time since it got ready after which a replica is replaced, in seconds.", positive=True),
)

#: The keys of `update`.
UPDATE_FIELDS: Final = _keys(
    _count(
        "max_surge",
        "Most replicas beyond the wanted number while they are being replaced; those that drain do not count.",
        1,
    ),
    _count("max_unavailable", "Most replicas short of the wanted number while they are being replaced.", 0),
    _duration(
        "min_ready_s", "How long a new replica must be ready before it counts and an old one leaves, in seconds.", 0.0
    ),
    _duration(
        "progress_deadline",
        "Longest time until a new replica is ready, in seconds; it stands for startup_timeout during an update.",
        600.0,
        positive=True,
    ),
    FieldInfo(
        name="auto_rollback",
        kind="boolean",
        default=True,
        doc="Whether the old version comes back if a new replica does not become ready; false: the update stops there.",
    ),
)


# What they say of calls that fail, as values; other processes get them as they are.


class RetryPolicy(NamedTuple):
    """
    When a call is tried again: the field `retry`.

    Attributes:
        max_attempts: Most attempts of one call, the first included.
        backoff: Seconds before the second attempt, at most.
        budget: Further attempts of all calls, as a fraction of the calls.
        min: Further attempts that are allowed whatever the budget.
        on: Names of the classes of exceptions that are tried again.
    """

    max_attempts: int = 3
    backoff: float = 0.025
    budget: float = 0.2
    min: int = 3
    on: tuple[str, ...] = ()

    def matches(self, error: BaseException) -> bool:
        """Whether *error* is of a class that `on` names, or of a subclass."""
        names = {cls.__name__ for cls in type(error).__mro__}
        # One that stands for an error whose class is not known here.
        names.add(str(getattr(error, "type_name", "")).rpartition(".")[2])
        return not names.isdisjoint(self.on)


class BreakerPolicy(NamedTuple):
    """
    When a service that keeps failing is not called: the field `circuit_breaker`.

    Attributes:
        failures: Failures in a row that open it.
        window: Seconds within which they lie.
        open: Seconds for which it refuses calls.
        probes: Calls that it lets through then.
    """

    failures: int = 5
    window: float = 10.0
    open: float = 10.0
    probes: int = 1


class OutlierPolicy(NamedTuple):
    """
    When a replica gets no calls because it fails or is slow: the field `outlier`.

    Attributes:
        consecutive: Calls in a row that time out there.
        interval: Seconds over which durations are compared.
        base_ejection: Seconds without calls; twice as many each next time.
        max_ejection: Seconds without calls, at most.
        max_percent: Replicas without calls at once, at most.
    """

    consecutive: int = 5
    interval: float = 10.0
    base_ejection: float = 5.0
    max_ejection: float = 300.0
    max_percent: float = 50.0


class RecyclePolicy(NamedTuple):
    """
    When a replica is replaced by a fresh one although nothing is wrong with it: the field `recycle`.

    Attributes:
        max_calls: Calls that it has ended; None for however many.
        max_memory_mb: MiB of its process; None for however much.
        max_age: Seconds since it got ready; None for however long.
    """

    max_calls: int | None = None
    max_memory_mb: float | None = None
    max_age: float | None = None


class HedgePolicy(NamedTuple):
    """
    When a call gets a second attempt before the first has failed: the field `hedge`.

    Attributes:
        delay: Seconds without an answer, or `"p95"`.
        max: Second attempts of one call.
    """

    delay: float | str = "p95"
    max: int = 1


class Policies(NamedTuple):
    """
    All of one service.

    Attributes:
        retry: When a call is tried again; None for never.
        breaker: When no call is let through; None for never.
        outlier: When a replica gets no calls; None for never.
        hedge: When a call gets a second attempt; None for never.
    """

    retry: RetryPolicy | None = None
    breaker: BreakerPolicy | None = None
    outlier: OutlierPolicy | None = None
    hedge: HedgePolicy | None = None


def retry_policy(retry: Mapping[str, Any] | None, *, failover: bool) -> RetryPolicy | None:
    """The policy of a service with the field *retry*; None if it has none, and *failover* does not ask for one."""
    return RetryPolicy(**retry) if retry is not None else RetryPolicy() if failover else None


def policies_of(config: ServiceDeploymentConfig) -> Policies:
    """What *config* says."""
    breaker = None if config.circuit_breaker is None else BreakerPolicy(**config.circuit_breaker)
    outlier = None if config.outlier is None else OutlierPolicy(**config.outlier)
    hedge = None if config.hedge is None else HedgePolicy(**config.hedge)
    return Policies(retry_policy(config.retry, failover=config.failover_enabled), breaker, outlier, hedge)
