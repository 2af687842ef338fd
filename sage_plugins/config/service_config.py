"""
How one service is deployed: `ServiceDeploymentConfig`, its fields, and the rules that the core itself checks.

Each field is declared once, with its group in the YAML file, its type, its range and the part that uses it. The class's
docstring has its meaning, as in the options classes of plugins. The checks, the configuration reference, the JSON
schema, the plan and `explain` read this declaration through `fields`. `field_checks` has the rules for each type,
`nested_keys` the keys of mappings, and `cross_rules` the rules between fields.
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
    """IDs of the first-party targets: where the replicas of a service run."""

    LOCAL = "local"
    PROCESS = "process"
    REMOTE_ANY = "remote_any"
    REMOTE_SPECIFIC = "remote_specific"
    CLUSTER_GROUP = "cluster_group"


class ThreadingStrategy(StrEnum):
    """IDs of the first-party threading strategies: how a replica runs its calls."""

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

#: What the constructor calls the attribute `derived`; no field has such a name.
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
    """One field; optional if the default is None, *minimum* is allowed itself and *above* is not."""
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
    How one service is deployed: where, on which threads, how many replicas, within which limits, and who watches.

    Every field has a default; `ServiceDeploymentConfig()` is one replica in this process that runs one call at a time.
    Values are checked strictly (no `"4"`, `4.0` or `True` for an integer). Durations and sizes may have a unit, as in a
    file: `timeout="5s"`, `memory_mb="2Gi"`. Values become read-only: enum members become plain strings, lists tuples,
    mappings read-only deep copies. The config is compared by value and can be pickled; `attrs.evolve(config,
    timeout=5.0)` gives a changed copy.

    Plugin IDs are accepted as they are: `plan`, `validate` and `deploy` say whether they are installed, and check what
    a target or a strategy asks of its own fields.

    Attributes:
        target: ID of the target: where replicas run, such as local, process or remote_any.
        target_nodes: Names, IDs or addresses of nodes that may hold replicas; only for targets that support it.
        node_selector: Labels that a node needs to hold a replica; only for targets that support it.
        threading_strategy: ID of the threading strategy: how a replica runs its calls, such as single or pool.
        thread_count: Threads of each replica under multi; initial threads under pool.
        max_thread_count: Maximum threads of each replica under pool; another name for thread_pool_size.
        thread_pool_size: Maximum threads of each replica under pool; under async, maximum helper threads for ordinary
            methods.
        max_concurrency: Maximum coroutines that each replica runs at once under async; null: thread_count if it is
            above 1, else 100.
        replicas: Number of replicas of the service.
        load_balancing: Whether calls are spread over all replicas; false: only the first replica serves. Left out: true
            if there can be several replicas or load_balancer is set.
        load_balancer: ID of the load balancer; null: the target's default, least_loaded in this process.
        failover_enabled: Whether another replica takes over from one that dies: standby replicas, and retries of
            idempotent calls.
        spread: How replicas are placed on nodes. spread: on as many nodes as possible; pack: on as few as possible.
        max_replicas_per_node: Maximum replicas of the service on one node; null: no limit.
        cpu_cores: CPU cores reserved for each replica; fractions are allowed; 0: none. Advisory on local.
        memory_mb: Memory reserved for each replica, in MiB (1024 * 1024 bytes). Advisory on local.
        gpu_count: GPUs reserved for each replica; fractions only if the target can share a GPU.
        queue_size: Maximum waiting calls, for each service and calling process; 0: a call needs a free slot at once.
        overload: What happens when the queue is full. block: the call waits for room until its deadline; reject: it
            fails at once; shed_oldest: the call that has waited longest fails; priority: the call with the lowest
            priority fails, and waiting calls start by priority.
        timeout: Maximum time of a call from end to end, waiting included, in seconds; null: no limit.
        timeout_strength: What happens to a running call at its deadline. cooperative: its caller is released, and an
            ordinary method runs on; kill: its replica is killed and replaced, on targets that support it.
        queue_timeout: Maximum wait of a call in the queue, in seconds, at most timeout; null: as long as timeout
            allows.
        batch_size: Maximum calls given to a batch method at once; null or 1: no batching.
        batch_wait: Maximum wait for a batch to fill while a worker is idle, in seconds.
        startup_timeout: Maximum time until a replica is ready, in seconds.
        drain_timeout: Maximum time for a stopping replica to finish accepted calls, in seconds.
        health_check_interval: Time from one health check to the next, in seconds.
        health_check_timeout: Maximum time of a health check, in seconds; at most health_check_interval. Left out: 5, or
            health_check_interval if that is shorter.
        failure_threshold: Failed health checks in a row after which a replica is unhealthy.
        success_threshold: Passed health checks in a row after which an unhealthy replica is ready again.
        enable_metrics: Whether calls are counted and timed; false removes `metrics` from the monitors.
        monitors: IDs of the monitors that watch the service.
        autoscale: Scales the number of replicas by load, in place of replicas: min, max, initial and more.
        retry: How failed calls of idempotent methods are retried.
        hedge: When an unanswered call of an idempotent method also runs on another replica: delay, max.
        circuit_breaker: When calls are refused at once because the service keeps failing: failures, window, open,
            probes.
        outlier: When a replica that times out or is much slower than its peers gets no calls for a while; needs a load
            balancer.
        recycle: When a healthy replica is replaced by a new one: max_calls, max_memory_mb, max_age.
        update: How replicas are replaced after a change: max_surge, max_unavailable, min_ready_s, progress_deadline,
            auto_rollback.
        user_config: Passed to the service's reconfigure(user_config); the core does not read it.
        methods: Settings of single methods: timeout, max_concurrency, idempotent, batch.
        options: Options of the service's plugins, by plugin ID; each plugin checks its own.

    Raises:
        ConfigError: Values are not valid, do not go together, or have an unknown name; the message lists all of them,
            `problems` has them one by one.
    """

    # The names of the fields in `DERIVED` that nobody has set. `attrs.evolve` hands it to the constructor: see there.
    if TYPE_CHECKING:  # checkers and editors need not know that
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

    # Equal configs may hold mappings, which have no hash.
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # Python's own way to say "not hashable"

    if not TYPE_CHECKING:  # checkers and editors see the signature that attrs makes from the fields

        def __init__(self, **given: Any) -> None:
            if _DERIVED in given:
                # From `attrs.evolve`. It puts what it copies behind what it was told, in the order of the fields, so
                # this comes before all other copies. What nobody has set is not copied, but derived once more.
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
        """Only what differs from the defaults; secrets are masked."""
        from sage_plugins.config.secrets import masked

        changed = [
            f"{name}={masked(plain(value) if isinstance(value, Mapping) else value, name)!r}"
            for name, info in _FIELDS.items()
            if name not in self.derived and (value := getattr(self, name)) != info.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings do not pickle; plain ones do, and become read-only again in the constructor.
        return _rebuild, (
            type(self),
            {name: value for name, value in self.to_dict().items() if name not in self.derived},
        )

    @property
    def first_replicas(self) -> int:
        """How many replicas a service starts with: `replicas`, or what `autoscale` says."""
        if self.autoscale is None:
            return self.replicas
        fewest: int = self.autoscale.get("min", 1)
        initial: int | None = self.autoscale.get("initial")
        return max(1, fewest) if initial is None else initial

    @property
    def most_replicas(self) -> int:
        """How many replicas a service may have: `replicas`, or what `autoscale` says."""
        if self.autoscale is None:
            return self.replicas
        most: int = self.autoscale.get("max", self.first_replicas)
        return most

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values: dictionaries, lists, strings and numbers, fit for JSON if `user_config` is."""
        return {name: plain(getattr(self, name)) for name in _FIELDS}


if not TYPE_CHECKING:
    # What inspect and help() show: all the fields.
    _signature = inspect.signature(ServiceDeploymentConfig.__attrs_init__)
    ServiceDeploymentConfig.__init__.__signature__ = _signature.replace(
        parameters=[each for each in _signature.parameters.values() if each.name != _DERIVED]
    )


def _rebuild(cls: type[ServiceDeploymentConfig], values: dict[str, Any]) -> ServiceDeploymentConfig:
    return cls(**values)


def checked(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The given values in normal form, by field, and every error in them."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        read, found = read_value(name, value)
        problems += found
        if not found:
            values[name] = _normal(_FIELDS[name], read)
    # A cross-field rule would only repeat what is said already of a field that is wrong on its own.
    whole = completed(values, given.keys() - values.keys())
    problems += [problem for problem in cross_problems(whole) if problem.severity == "error"]
    return values, problems


def completed(values: Mapping[str, Any], bad: AbstractSet[str] = frozenset()) -> dict[str, Any]:
    """
    All fields: those in *values*, and for the others what follows from these, or else their default.

    Args:
        values: What was set, each field valid on its own.
        bad: Fields that were set wrongly. They are left out, and so is what would follow from them.
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
    """A deep, read-only copy; the nesting is bounded by the check before it."""
    if isinstance(value, Mapping):
        return MappingProxyType({plain_string(name): _frozen(child) for name, child in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple([_frozen(child) for child in value])
    return plain_string(value)


def plain(value: Any) -> Any:
    """The value with dictionaries for its read-only mappings and lists for its tuples, all the way down."""
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


#: Without what only documents say.
_FIELDS: Final[Mapping[str, FieldInfo]] = MappingProxyType(
    {
        each.name: each.metadata["info"]._replace(name=each.name)
        for each in attrs.fields(ServiceDeploymentConfig)
        if each.name != "derived"
    }
)


@cache
def fields() -> Mapping[str, FieldInfo]:
    """Every field of `ServiceDeploymentConfig` by name, in the order of its declaration."""
    docs = attribute_docs(ServiceDeploymentConfig)
    return MappingProxyType({name: info._replace(doc=docs.get(name, "")) for name, info in _FIELDS.items()})


def group_of(name: str) -> str | None:
    """
    The YAML group of a field, or None if the field stands at the service's own level.

    Raises:
        KeyError: There is no such field.
    """
    return _FIELDS[name].group


def field_problems(name: str, value: Any) -> list[Problem]:
    """
    Everything wrong with one value on its own: unknown name (E101), type (E102), range (E103), nesting (E108).

    A problem's key is the field's name, or the dotted path below it, such as `methods.get.timeout`.
    """
    info = _FIELDS.get(name)
    if info is None:
        return [unknown_key(name, name, _FIELDS)]
    return value_problems(info, name, value)


def read_value(name: str, value: Any) -> tuple[Any, list[Problem]]:
    """The value of one field with a number for each duration and size in it, and everything wrong with it."""
    info = _FIELDS.get(name)
    if info is None:
        return value, [unknown_key(name, name, _FIELDS)]
    found: list[Problem] = []
    if (info.unit and isinstance(value, str)) or (info.keys and isinstance(value, Mapping)):
        from sage_plugins.config.units import without_units  # most configurations made in code have no units

        value, found = without_units(info, name, value)
    known = {problem.key for problem in found}
    return value, [*found, *(each for each in value_problems(info, name, value) if each.key not in known)]
