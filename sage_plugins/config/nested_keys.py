"""
The keys of the mappings in a configuration, such as `methods`, `autoscale` and `retry`.

They are declared with `FieldInfo`, as the fields are, so all code that reads declarations reads these too.
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
    _count("size", "Maximum calls in a batch. Left out: the service's batch_size.", minimum=1),
    _duration(
        "wait",
        "Maximum wait for a batch to fill while a worker is idle, in seconds. Left out: the service's batch_wait.",
    ),
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
        doc="Maximum time of a call, in seconds; null: no limit. Left out: the service's timeout.",
    ),
    FieldInfo(
        name="max_concurrency",
        kind="integer",
        optional=True,
        minimum=1,
        maximum=MOST,
        doc="Maximum calls at once per replica; null or left out: the replica's slots.",
    ),
    FieldInfo(
        name="idempotent",
        kind="boolean",
        default=False,
        doc="Whether a call may run twice without harm; started calls may then be retried.",
    ),
    FieldInfo(
        name="batch",
        kind="batch",
        keys=BATCH_FIELDS,
        doc="Whether the method's batch method answers calls: true, or a mapping of size and wait.",
    ),
)

#: The keys of `autoscale`.
AUTOSCALE_FIELDS: Final = _keys(
    FieldInfo(
        name="policy",
        kind="string",
        default="target_ongoing",
        doc="ID of the autoscaler, which decides how many replicas the load needs.",
    ),
    _count("min", "Minimum replicas; 0: none while there are no calls.", 1),
    _count("initial", "Replicas at the start. Left out: min, but at least 1.", minimum=1),
    _count("max", "Maximum replicas.", 1, minimum=1),
    FieldInfo(
        name="target_ongoing_requests",
        kind="number",
        minimum=0,
        exclusive=True,
        maximum=float(MOST),
        doc="Target for waiting and running calls per replica, on average. Left out: a replica's slots, at least 2.",
    ),
    _duration("target_queue_wait", "Target for the mean wait in the queue, in seconds.", positive=True),
    _duration("upscale_delay", "How long more replicas must be needed before some start, in seconds.", 10.0),
    _duration("downscale_delay", "How long fewer replicas must be needed before some stop, in seconds.", 300.0),
    _share("upscale_factor", "Fraction of missing replicas to add per step, at least one.", 1.0),
    _share("downscale_factor", "Fraction of surplus replicas to remove per step, at least one.", 1.0),
    _duration("look_back", "Time over which the load is averaged, in seconds.", 30.0, positive=True),
    _share("tolerance", "Deviation from the target, as a fraction, that changes nothing.", 0.1),
    _duration(
        "scale_to_zero_delay",
        "Time without calls until the last replica stops, in seconds. Left out: downscale_delay.",
    ),
)

#: The keys of `retry`.
RETRY_FIELDS: Final = _keys(
    _count("max_attempts", "Maximum attempts of a call, including the first.", 3, minimum=1),
    _duration(
        "backoff",
        "Maximum random wait before the second attempt, in seconds; doubles each time, up to 1.",
        0.025,
    ),
    _share("budget", "Retries of all calls, as a fraction of the calls in the last 10 seconds.", 0.2),
    _count("min", "Retries beyond the budget in any 10 seconds.", 3),
    FieldInfo(
        name="on",
        kind="strings",
        default=(),
        doc="Exceptions of methods that cause retries: class names without module; subclasses count too.",
    ),
)

#: The keys of `hedge`.
HEDGE_FIELDS: Final = _keys(
    _duration(
        "delay",
        "Time until a second attempt, in seconds; p95: the time in which 95 % of the method's calls are answered.",
        0.0,
        positive=True,
    )._replace(default="p95", choices=("p95",)),
    _count("max", "Maximum second attempts of a call.", 1, minimum=1)._replace(maximum=1),
)

#: The keys of `circuit_breaker`.
BREAKER_FIELDS: Final = _keys(
    _count("failures", "Failures in a row that open the circuit breaker.", 5, minimum=1),
    _duration("window", "Time in which these failures must happen, in seconds.", 10.0, positive=True),
    _duration("open", "Time during which calls are refused, in seconds.", 10.0, positive=True),
    _count("probes", "Calls that go through after that; if all succeed, the circuit breaker closes.", 1, minimum=1),
)

#: The keys of `outlier`.
OUTLIER_FIELDS: Final = _keys(
    _count("consecutive", "Calls in a row that died or timed out after which a replica gets no calls.", 5, minimum=1),
    _duration("interval", "Time over which replicas' durations are compared, in seconds.", 10.0, positive=True),
    _duration("base_ejection", "Time without calls, in seconds; doubles each time.", 5.0, positive=True),
    _duration("max_ejection", "Maximum time without calls, in seconds.", 300.0, positive=True),
    FieldInfo(
        name="max_percent",
        kind="number",
        default=50.0,
        minimum=0,
        maximum=100,
        doc="Maximum percentage of replicas without calls; if more would have to go, all get calls.",
    ),
)

#: The keys of `recycle`.
RECYCLE_FIELDS: Final = _keys(
    _count("max_calls", "Calls after which a replica is replaced. Left out: no limit.", minimum=1),
    FieldInfo(
        name="max_memory_mb",
        kind="number",
        minimum=0,
        exclusive=True,
        maximum=float(MOST),
        unit="MiB",
        doc="Resident memory of its process that replaces a replica, in MiB. Left out: no limit.",
    ),
    _duration(
        "max_age",
        "Time ready after which a replica is replaced, in seconds. Left out: no limit.",
        positive=True,
    ),
)

#: The keys of `update`.
UPDATE_FIELDS: Final = _keys(
    _count(
        "max_surge",
        "Maximum replicas above the wanted number; draining ones do not count.",
        1,
    ),
    _count("max_unavailable", "Maximum replicas below the wanted number.", 0),
    _duration(
        "min_ready_s", "How long a new replica must be ready before it counts and an old one leaves, in seconds.", 0.0
    ),
    _duration(
        "progress_deadline",
        "Maximum time until a new replica is ready, in seconds; replaces startup_timeout.",
        600.0,
        positive=True,
    ),
    FieldInfo(
        name="auto_rollback",
        kind="boolean",
        default=True,
        doc="Whether the old version comes back if a new replica does not become ready; false: the update stops.",
    ),
)


# The policies of these mappings as values. They are pickled for other processes.


class RetryPolicy(NamedTuple):
    """The field `retry`; the attributes are its keys."""

    max_attempts: int = 3
    backoff: float = 0.025
    budget: float = 0.2
    min: int = 3
    on: tuple[str, ...] = ()

    def matches(self, error: BaseException) -> bool:
        """Whether `on` names the class of *error* or one of its base classes."""
        names = {cls.__name__ for cls in type(error).__mro__}
        # A RemoteError stands for an error whose class this process does not have.
        names.add(str(getattr(error, "type_name", "")).rpartition(".")[2])
        return not names.isdisjoint(self.on)


class BreakerPolicy(NamedTuple):
    """The field `circuit_breaker`; the attributes are its keys."""

    failures: int = 5
    window: float = 10.0
    open: float = 10.0
    probes: int = 1


class OutlierPolicy(NamedTuple):
    """The field `outlier`; the attributes are its keys."""

    consecutive: int = 5
    interval: float = 10.0
    base_ejection: float = 5.0
    max_ejection: float = 300.0
    max_percent: float = 50.0


class RecyclePolicy(NamedTuple):
    """The field `recycle`; the attributes are its keys. None: no limit."""

    max_calls: int | None = None
    max_memory_mb: float | None = None
    max_age: float | None = None


class HedgePolicy(NamedTuple):
    """The field `hedge`; the attributes are its keys."""

    delay: float | str = "p95"
    max: int = 1


class Policies(NamedTuple):
    """All these policies of one service, except `RecyclePolicy`; None for those not set."""

    retry: RetryPolicy | None = None
    breaker: BreakerPolicy | None = None
    outlier: OutlierPolicy | None = None
    hedge: HedgePolicy | None = None


def retry_policy(retry: Mapping[str, Any] | None, *, failover: bool) -> RetryPolicy | None:
    """Return the policy for the field *retry*. Without the field: the default policy if *failover*, else None."""
    return RetryPolicy(**retry) if retry is not None else RetryPolicy() if failover else None


def policies_of(config: ServiceDeploymentConfig) -> Policies:
    """Return the policies that *config* sets."""
    breaker = None if config.circuit_breaker is None else BreakerPolicy(**config.circuit_breaker)
    outlier = None if config.outlier is None else OutlierPolicy(**config.outlier)
    hedge = None if config.hedge is None else HedgePolicy(**config.hedge)
    return Policies(retry_policy(config.retry, failover=config.failover_enabled), breaker, outlier, hedge)
