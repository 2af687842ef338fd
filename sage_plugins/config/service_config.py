"""
`ServiceDeploymentConfig`: the configuration of one service, and the declarations of its fields.

Each field is declared once: its group in the YAML file, its type, its range, and the part that uses it. Its meaning is
in the class docstring, as in plugins' options classes. The checks, the configuration reference, the JSON schema, the
plan and `explain` read this through `fields`. `field_checks` checks single values, `nested_keys` has the keys of
mappings, `cross_rules` the rules between fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import attrs

from sage_plugins.config.cross_rules import BATCH_WAIT, DERIVED, HEALTH_CHECK_TIMEOUT, cross_problems
from sage_plugins.config.field_checks import (
    LONGEST,
    MOST,
    FieldInfo,
    attribute_docs,
    plain_string,
    unknown_key,
    value_problems,
)
from sage_plugins.config.nested_keys import (
    AUTOSCALE_FIELDS,
    BREAKER_FIELDS,
    HEDGE_FIELDS,
    METHOD_FIELDS,
    OUTLIER_FIELDS,
    RECYCLE_FIELDS,
    RETRY_FIELDS,
    UPDATE_FIELDS,
)
from sage_plugins.errors import ConfigError
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from sage_plugins.config.field_checks import Kind
    from sage_plugins.values import Problem

__all__ = [
    "GROUPS",
    "DeploymentTarget",
    "ServiceDeploymentConfig",
    "ThreadingStrategy",
    "checked",
    "completed",
    "field_problems",
    "fields",
    "group_of",
    "plain",
    "read_value",
    "refuse",
]


class DeploymentTarget(StrEnum):
    """IDs of the first-party targets, which decide where the replicas of a service run."""

    LOCAL = "local"
    PROCESS = "process"
    REMOTE_ANY = "remote_any"
    REMOTE_SPECIFIC = "remote_specific"
    CLUSTER_GROUP = "cluster_group"


class ThreadingStrategy(StrEnum):
    """IDs of the first-party threading strategies, which decide how a replica runs its calls."""

    SINGLE = "single"
    MULTI = "multi"
    POOL = "pool"
    ASYNC = "async"
    INLINE = "inline"


#: The groups of a service's entry in the YAML file, in the order in which they are documented.
GROUPS: Final = ("deployment", "resources", "performance", "health", "monitoring")

_THREADS: Final = 1024

#: The values of `overload`.
_OVERLOAD: Final = ("block", "reject", "shed_oldest", "priority")

#: The values of `timeout_strength`.
_STRENGTHS: Final = ("cooperative", "kill")

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

#: Name of the attribute `derived` in the constructor. It cannot be the name of a field.
_DERIVED: Final = "_derived"


def _field(
    group: str | None,
    kind: Kind,
    *,
    default: Any,
    optional: bool | None = None,
    above: float | None = None,
    **more: Any,
) -> Any:
    """Declare a field. It is optional if its default is None. *minimum* itself is allowed, *above* is not."""
    info = FieldInfo(
        name="",
        kind=kind,
        doc="",
        group=group,
        optional=default is None if optional is None else optional,
        default=default,
        exclusive=above is not None,
        **{"minimum": above, "maximum": {"integer": MOST, "number": LONGEST}.get(kind), **more},
    )
    return attrs.field(default=default, metadata={"info": info})


@attrs.frozen(kw_only=True, repr=False)
class ServiceDeploymentConfig:
    """
    The configuration of one service: target, threads, number of replicas, limits and monitors.

    Every field has a default. `ServiceDeploymentConfig()` is one replica in this process that runs one call at a time.
    Values are checked strictly (no `"4"`, `4.0` or `True` for an integer). Durations and sizes may have a unit, as in a
    file: `timeout="5s"`, `memory_mb="2Gi"`.

    The object is read-only: enum members become plain strings, lists become tuples, and mappings become read-only deep
    copies. Configs are compared by value and can be pickled. `attrs.evolve(config, timeout=5.0)` returns a changed
    copy.

    Plugin IDs are not checked here. `plan`, `validate` and `deploy` report IDs that are not installed, and run the
    plugins' own checks.

    Attributes:
        target: ID of the target, such as local or process: where replicas run.
        target_nodes: Names, IDs or addresses of nodes for replicas; only for targets that support it.
        node_selector: Labels that a replica's node needs; only for targets that support it.
        threading_strategy: ID of the threading strategy, such as single or pool: how a replica runs its calls.
        thread_count: Threads per replica under multi; initial threads under pool.
        max_thread_count: Another name for thread_pool_size.
        thread_pool_size: Maximum threads per replica under pool; under async, maximum helper threads for ordinary
            methods.
        max_concurrency: Maximum coroutines at once per replica under async; null: thread_count if above 1, else 100.
        replicas: Number of replicas.
        load_balancing: Whether all replicas get calls; false: only the first does. Left out: true if there can be
            several replicas or load_balancer is set.
        load_balancer: ID of the load balancer; null: the target's default, least_loaded in this process.
        failover_enabled: Whether another replica takes over from one that dies: standby replicas, and retries of
            idempotent calls.
        spread: How replicas are placed. spread: on as many nodes as possible; pack: on as few as possible.
        max_replicas_per_node: Maximum replicas on one node; null: no limit.
        cpu_cores: CPU cores reserved per replica; may be a fraction; 0: none. Advisory on local.
        memory_mb: Memory reserved per replica, in MiB (1024 * 1024 bytes). Advisory on local.
        gpu_count: GPUs reserved per replica; fractions only if the target can share a GPU.
        queue_size: Maximum waiting calls, per service and calling process; 0: a call needs a free slot at once.
        overload: What a full queue does. block: the call waits for room until its deadline; reject: it fails at once;
            shed_oldest: the call that has waited longest fails; priority: the call with the lowest priority fails, and
            waiting calls start by priority.
        timeout: Maximum time of a call, waiting included, in seconds; null: no limit.
        timeout_strength: What happens to a running call at its deadline. cooperative: its caller is released, but an
            ordinary method runs on; kill: its replica is killed and replaced, on targets that support it.
        queue_timeout: Maximum wait in the queue, in seconds, at most timeout; null: up to timeout.
        batch_size: Maximum calls in a batch; null or 1: no batching.
        batch_wait: Maximum wait for a batch to fill while a worker is idle, in seconds.
        startup_timeout: Maximum time until a replica is ready, in seconds.
        drain_timeout: Maximum time for a stopping replica to finish accepted calls, in seconds.
        health_check_interval: Time between health checks, in seconds.
        health_check_timeout: Maximum time of a health check, in seconds; at most health_check_interval. Left out: 5, or
            a shorter health_check_interval.
        failure_threshold: Failed health checks in a row that make a replica unhealthy.
        success_threshold: Passed health checks in a row that make it ready again.
        enable_metrics: Whether calls are counted and timed; false removes the monitor `metrics`.
        monitors: IDs of the service's monitors.
        autoscale: Scales replicas by load, in place of replicas: min, max, initial and more.
        retry: How failed calls of idempotent methods are retried.
        hedge: When an unanswered idempotent call also runs on another replica: delay, max.
        circuit_breaker: When a failing service refuses calls at once: failures, window, open, probes.
        outlier: When a replica that times out or is much slower than its peers gets no calls for a while; needs a load
            balancer.
        recycle: When a new replica replaces a healthy one: max_calls, max_memory_mb, max_age.
        update: How a change replaces replicas: max_surge, max_unavailable, min_ready_s, progress_deadline,
            auto_rollback.
        user_config: Passed as it is to the service's reconfigure(user_config).
        methods: Settings of single methods: timeout, max_concurrency, idempotent, batch.
        options: Options of the service's plugins, by plugin ID; each plugin checks its own.

    Raises:
        ConfigError: A field has an unknown name, a value is not valid, or values conflict. The message and `problems`
            have all problems.
    """

    # The fields in `DERIVED` that were not set. `attrs.evolve` passes this to the constructor, see there.
    if TYPE_CHECKING:  # hides the constructor's argument from checkers and editors
        derived: frozenset[str] = attrs.field(init=False)
    else:
        derived: frozenset[str] = attrs.field(default=frozenset(), eq=False, alias=_DERIVED)

    target: str = _field("deployment", "string", default="local", role="target")
    target_nodes: Sequence[str] | None = _field("deployment", "strings", default=None, role="target")
    node_selector: Mapping[str, str] | None = _field("deployment", "labels", default=None, role="target")
    threading_strategy: str = _field("deployment", "string", default="single", role="strategy")
    thread_count: int = _field("deployment", "integer", default=1, minimum=1, maximum=_THREADS, role="strategy")
    max_thread_count: int | None = _field(
        "deployment", "integer", default=None, minimum=1, maximum=_THREADS, role="strategy"
    )
    thread_pool_size: int | None = _field(
        "deployment", "integer", default=None, minimum=1, maximum=_THREADS, role="strategy"
    )
    max_concurrency: int | None = _field("deployment", "integer", default=None, minimum=1, role="strategy")
    replicas: int = _field("deployment", "integer", default=1, minimum=1)
    load_balancing: bool = _field("deployment", "boolean", default=False)
    load_balancer: str | None = _field("deployment", "string", default=None, role="balancer")
    failover_enabled: bool = _field("deployment", "boolean", default=False)
    spread: str = _field("deployment", "string", default="spread", choices=("spread", "pack"), role="target")
    max_replicas_per_node: int | None = _field("deployment", "integer", default=None, minimum=1, role="target")
    cpu_cores: float | None = _field("resources", "number", default=None, minimum=0, role="target")
    memory_mb: int | None = _field("resources", "integer", default=None, minimum=1, unit="MiB", role="target")
    gpu_count: float | None = _field("resources", "number", default=None, minimum=0, role="target")
    queue_size: int = _field("performance", "integer", default=1000, minimum=0)
    overload: str = _field("performance", "string", default="block", choices=_OVERLOAD)
    timeout: float | None = _field("performance", "number", default=30.0, optional=True, above=0, unit="seconds")
    timeout_strength: str = _field("performance", "string", default="cooperative", choices=_STRENGTHS)
    queue_timeout: float | None = _field("performance", "number", default=None, above=0, unit="seconds")
    batch_size: int | None = _field("performance", "integer", default=None, minimum=1)
    batch_wait: float = _field("performance", "number", default=BATCH_WAIT, minimum=0, unit="seconds")
    startup_timeout: float = _field("performance", "number", default=60.0, above=0, unit="seconds")
    drain_timeout: float = _field("performance", "number", default=30.0, minimum=0, unit="seconds")
    health_check_interval: float = _field("health", "number", default=10.0, above=0, unit="seconds", role="monitors")
    health_check_timeout: float = _field(
        "health", "number", default=HEALTH_CHECK_TIMEOUT, above=0, unit="seconds", role="monitors"
    )
    failure_threshold: int = _field("health", "integer", default=3, minimum=1, role="monitors")
    success_threshold: int = _field("health", "integer", default=2, minimum=1, role="monitors")
    enable_metrics: bool = _field("monitoring", "boolean", default=True, role="monitors")
    monitors: Sequence[str] = _field("monitoring", "strings", default=("metrics", "health", "events"), role="monitors")
    autoscale: Mapping[str, Any] | None = _field(None, "mapping", default=None, keys=AUTOSCALE_FIELDS)
    retry: Mapping[str, Any] | None = _field(None, "mapping", default=None, keys=RETRY_FIELDS)
    hedge: Mapping[str, Any] | None = _field(None, "mapping", default=None, keys=HEDGE_FIELDS)
    circuit_breaker: Mapping[str, Any] | None = _field(None, "mapping", default=None, keys=BREAKER_FIELDS)
    outlier: Mapping[str, Any] | None = _field(None, "mapping", default=None, keys=OUTLIER_FIELDS)
    recycle: Mapping[str, Any] | None = _field(None, "mapping", default=None, keys=RECYCLE_FIELDS)
    update: Mapping[str, Any] | None = _field(None, "mapping", default=None, keys=UPDATE_FIELDS)
    user_config: Mapping[str, Any] | None = _field(None, "mapping", default=None, role="service")
    methods: Mapping[str, Mapping[str, Any]] = _field(None, "methods", default=_NOTHING, keys=METHOD_FIELDS)
    options: Mapping[str, Mapping[str, Any]] = _field(None, "options", default=_NOTHING)

    # Configs may contain mappings, which have no hash.
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # Python's own way to say "not hashable"

    if not TYPE_CHECKING:  # checkers and editors use the signature that attrs makes from the fields

        def __init__(self, **given: Any) -> None:
            if _DERIVED in given:
                # From `attrs.evolve`, which passes the changes first and then the copied attributes in their order, so
                # `derived` is the first copy. Fields that were not set are derived again instead of copied.
                names = list(given)
                copied = set(names[names.index(_DERIVED) :])
                for name in copied.intersection(given.pop(_DERIVED)):
                    del given[name]
            values, problems = checked(given)
            if problems:
                refuse(type(self).__name__, problems)
            whole = completed(values)
            self.__attrs_init__(**whole, **{_DERIVED: DERIVED.keys() - values.keys()})

    def __repr__(self) -> str:
        """Show the fields that differ from their defaults. Secrets are masked."""
        from sage_plugins.config.secrets import masked

        changed = [
            f"{name}={masked(plain(value) if isinstance(value, Mapping) else value, name)!r}"
            for name, info in _FIELDS.items()
            if name not in self.derived and (value := getattr(self, name)) != info.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings cannot be pickled. Plain ones can, and the constructor makes them read-only again.
        return _rebuild, (
            type(self),
            {name: value for name, value in self.to_dict().items() if name not in self.derived},
        )

    @property
    def first_replicas(self) -> int:
        """Number of replicas at the start: `replicas`, or `autoscale.initial`, or `autoscale.min` (at least 1)."""
        if self.autoscale is None:
            return self.replicas
        fewest: int = self.autoscale.get("min", 1)
        initial: int | None = self.autoscale.get("initial")
        return max(1, fewest) if initial is None else initial

    @property
    def most_replicas(self) -> int:
        """Maximum replicas: `replicas`, or `autoscale.max`."""
        if self.autoscale is None:
            return self.replicas
        most: int = self.autoscale.get("max", self.first_replicas)
        return most

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain dictionaries, lists, strings and numbers; fit for JSON if `user_config` is."""
        return {name: plain(getattr(self, name)) for name in _FIELDS}


if not TYPE_CHECKING:
    # Make inspect and help() show all fields.
    _signature = inspect.signature(ServiceDeploymentConfig.__attrs_init__)
    ServiceDeploymentConfig.__init__.__signature__ = _signature.replace(
        parameters=[each for each in _signature.parameters.values() if each.name != _DERIVED]
    )


def _rebuild(cls: type[ServiceDeploymentConfig], values: dict[str, Any]) -> ServiceDeploymentConfig:
    return cls(**values)


def checked(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the given values in normal form, by field, and all errors in them."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        read, found = read_value(name, value)
        problems += found
        if not found:
            values[name] = _normal(_FIELDS[name], read)
    # Rules that read a wrong field are skipped, because they would only report it again.
    whole = completed(values, given.keys() - values.keys())
    problems += [problem for problem in cross_problems(whole) if problem.severity == "error"]
    return values, problems


def completed(values: Mapping[str, Any], bad: AbstractSet[str] = frozenset()) -> dict[str, Any]:
    """
    Return all fields: *values*, and for the others a derived value or the default.

    Args:
        values: The fields that were set, each valid on its own.
        bad: Fields with wrong values. They are left out, as are fields that derive from them.
    """
    whole = {name: info.default for name, info in _FIELDS.items() if name not in bad} | dict(values)
    for name, (follows, names) in DERIVED.items():
        if name in values or name in bad:
            continue
        if bad.isdisjoint(names):
            whole[name] = follows(*[whole[each] for each in names])
        else:
            del whole[name]
    return whole


def refuse(what: str, problems: Sequence[Problem]) -> NoReturn:
    """
    Raise the ConfigError that lists *problems* of *what*, such as `"ServiceDeploymentConfig"`.

    Raises:
        ConfigError: Always.
    """
    lines = [
        f"\n  {problem.key}: {problem.message}" + (f" ({problem.fix})" if problem.fix else "") for problem in problems
    ]
    raise ConfigError(f"{what} has {counted(len(problems), 'problem')}:" + "".join(lines), problems=problems)


# Normal form of one valid value.


def _frozen(value: Any) -> Any:
    """Return a deep, read-only copy. An earlier check limits the nesting."""
    if isinstance(value, Mapping):
        return MappingProxyType({plain_string(name): _frozen(child) for name, child in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple([_frozen(child) for child in value])
    return plain_string(value)


def plain(value: Any) -> Any:
    """Return the value with dictionaries for read-only mappings and lists for tuples, on all levels."""
    if isinstance(value, Mapping):
        return {name: plain(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child) for child in value]
    return value


def _normal(info: FieldInfo, value: Any) -> Any:
    if value is None:
        return None
    if info.kind == "number" and info.name != "gpu_count":
        return float(value)
    if info.kind == "integer":
        return int(value)
    return _frozen(value)


#: All fields, without their docs; `fields` adds these.
_FIELDS: Final[Mapping[str, FieldInfo]] = MappingProxyType(
    {
        each.name: each.metadata["info"]._replace(name=each.name)
        for each in attrs.fields(ServiceDeploymentConfig)
        if each.name != "derived"
    }
)


@cache
def fields() -> Mapping[str, FieldInfo]:
    """Return every field of `ServiceDeploymentConfig` by name, in the order of declaration."""
    docs = attribute_docs(ServiceDeploymentConfig)
    return MappingProxyType({name: info._replace(doc=docs.get(name, "")) for name, info in _FIELDS.items()})


def group_of(name: str) -> str | None:
    """
    Return the YAML group of a field; None if the field is at the service's own level.

    Raises:
        KeyError: No such field.
    """
    return _FIELDS[name].group


def field_problems(name: str, value: Any) -> list[Problem]:
    """
    Return all problems of one value on its own: unknown name (E101), type (E102), range (E103), nesting (E108).

    The key of a problem is the field's name, or a dotted path below it, such as `methods.get.timeout`.
    """
    info = _FIELDS.get(name)
    if info is None:
        return [unknown_key(name, name, _FIELDS)]
    return value_problems(info, name, value)


def read_value(name: str, value: Any) -> tuple[Any, list[Problem]]:
    """Return the value of one field with durations and sizes as numbers, and all its problems."""
    info = _FIELDS.get(name)
    if info is None:
        return value, [unknown_key(name, name, _FIELDS)]
    found: list[Problem] = []
    if (info.unit and isinstance(value, str)) or (info.keys and isinstance(value, Mapping)):
        from sage_plugins.config.units import without_units  # most configurations made in code have no units

        value, found = without_units(info, name, value)
    known = {problem.key for problem in found}
    return value, [*found, *(each for each in value_problems(info, name, value) if each.key not in known)]
