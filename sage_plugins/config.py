"""
How one service is deployed: `ServiceDeploymentConfig`, its fields, and the rules that the core itself checks.

Each field is declared once, with its group in the YAML file, its type, its range and its meaning; the checks below, the
configuration reference, the JSON schema and `explain` all read that one declaration through `fields`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NoReturn

import attrs

from sage_plugins.errors import ConfigError
from sage_plugins.spelling import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "BATCH_FIELDS",
    "GROUPS",
    "METHOD_FIELDS",
    "DeploymentTarget",
    "FieldInfo",
    "ServiceDeploymentConfig",
    "ThreadingStrategy",
    "cross_problems",
    "field_problems",
    "fields",
    "group_of",
    "plain",
    "shown",
    "unknown_key",
]


class DeploymentTarget(StrEnum):
    """IDs of the first-party targets: where the replicas of a service run."""

    LOCAL = "local"
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

Kind = Literal["integer", "number", "boolean", "string", "strings", "labels", "mapping", "methods", "batch", "options"]

_KIND_WORDS: Final[Mapping[Kind, str]] = {
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "string": "string",
    "strings": "list of strings",
    "labels": "mapping of strings to strings",
    "mapping": "mapping",
    "methods": "mapping of method names to mappings",
    "batch": "true or a mapping of size and wait",
    "options": "mapping of plugin IDs to mappings",
}

#: Ceiling of integers without one of their own: they travel as JSON and into C integers.
_MOST: Final = 2**31 - 1
#: Ceiling of durations, about 30 years: the operating system's locks overflow on a longer wait.
_LONGEST: Final = 1e9
_THREADS: Final = 1024
#: Deepest nesting of a mapping's contents; the file reader has the same limit.
_DEEPEST: Final = 32
#: Unknown keys beyond so many get no suggestion: nobody reads them, and finding one takes a fraction of a millisecond.
_SUGGESTIONS: Final = 20
_SHOWN: Final = 60


@attrs.frozen(kw_only=True)
class FieldInfo:
    """
    Everything there is to know about one configuration field, apart from its value.

    Attributes:
        name: Name of the field, in Python and in YAML.
        group: The group in the YAML file, or None if the field stands at the service's own level.
        kind: What kind of value it takes.
        optional: Whether None (`null`) is a value of its own.
        default: The value if none is given.
        minimum: Smallest number allowed, or None.
        maximum: Largest number allowed, or None.
        exclusive: Whether the minimum itself is not allowed.
        choices: The strings allowed, or empty for any.
        doc: Meaning in one line, with the unit.
    """

    name: str
    kind: Kind
    doc: str
    group: str | None = None
    optional: bool = False
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive: bool = False
    choices: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """The type in words, such as `"integer or null"`."""
        return _KIND_WORDS[self.kind] + (" or null" if self.optional else "")

    @property
    def range(self) -> str:
        """The values allowed, in words, such as `"1 to 1024"`; empty if the type says it all."""
        if self.choices:
            return " or ".join(self.choices)
        if self.minimum is None:
            return ""
        if self.maximum is not None and self.maximum not in {_MOST, _LONGEST}:
            return f"{self.minimum:g} to {self.maximum:g}"
        return f"more than {self.minimum:g}" if self.exclusive else f"{self.minimum:g} or more"


def shown(value: object) -> str:  # noqa: PLR0911 - one return for each kind of value
    """A value as a message shows it: on one line, of bounded length, spelled as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # str() refuses integers of more than some thousand digits.
        return str(int(value)) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"  # noqa: PLR2004 - more digits than anybody reads
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        text = str.__str__(value)
        return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"an object of class {type(value).__name__}"


def unknown_key(key: str, word: str, candidates: Iterable[str], *, suggest: bool = True) -> Problem:
    """The E101 for *word* at *key*, with the nearest of the *candidates*."""
    near = did_you_mean(word, candidates) if suggest else None
    return Problem("E101", key, f"unknown key {shown(word)}", f"did you mean {near!r}?" if near else "")


# Checks of one value. Each gets a field and a raw value and returns problems; none raises and none changes the value.


def _wrong_type(info: FieldInfo, key: str, value: object, fix: str = "") -> list[Problem]:
    if info.kind == "boolean":
        words = "true or false"
    elif info.kind == "batch":
        words = info.type
    else:
        words = f"{'an' if info.type[0] in 'aeiou' else 'a'} {info.type}"
    return [Problem("E102", key, f"must be {words}, got {shown(value)}", fix)]


def _range_problems(info: FieldInfo, key: str, value: float) -> list[Problem]:
    low, high = info.minimum, info.maximum
    if low is not None and (value < low or (info.exclusive and value == low)):
        allowed = f"more than {low:g}" if info.exclusive else f"{low:g} or more"
    elif high is not None and value > high:
        allowed = f"{high:.0f} or less"
    else:
        return []
    fix = "null means no limit" if value <= 0 and info.name == "timeout" else ""
    return [Problem("E103", key, f"must be {allowed}, got {shown(value)}", fix)]


def _is_number_text(value: object) -> bool:
    if not isinstance(value, str) or len(value) > _SHOWN:
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _integer(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if isinstance(value, bool) or not isinstance(value, int):
        return _wrong_type(info, key, value, "write the number without quotes" if _is_number_text(value) else "")
    return _range_problems(info, key, value)


def _number(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _wrong_type(info, key, value, "write the number without quotes" if _is_number_text(value) else "")
    if isinstance(value, float) and not math.isfinite(value):
        fix = "null means no limit" if info.optional else ""
        return [Problem("E102", key, f"must be a finite number, got {shown(value)}", fix)]
    return _range_problems(info, key, value)


def _boolean(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if isinstance(value, bool):
        return []
    fix = ""
    if isinstance(value, str):
        word = str.__str__(value).lower()
        if word in {"yes", "on", "y", "true"}:
            fix = "write true"
        elif word in {"no", "off", "n", "false"}:
            fix = "write false"
    return _wrong_type(info, key, value, fix)


def _string(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    value = _plain_string(value)
    if not isinstance(value, str):
        return _wrong_type(info, key, value, "put it in quotes" if isinstance(value, (bool, int, float)) else "")
    if info.choices and value not in info.choices:
        near = did_you_mean(value, info.choices)
        fix = f"did you mean {near!r}?" if near else ""
        return [Problem("E103", key, f"must be {info.range}, got {shown(value)}", fix)]
    if not value or value != value.strip():
        return [Problem("E103", key, f"must not be empty or have spaces around it, got {shown(value)}")]
    return []


def _strings(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if not isinstance(value, (list, tuple)):
        fix = f"write [{value}]" if isinstance(value, str) and value.isidentifier() else ""
        return _wrong_type(info, key, value, fix)
    item = FieldInfo(name=info.name, kind="string", doc="")
    found = [problem for index, text in enumerate(value) for problem in _string(item, f"{key}.{index}", text)]
    if not found and info.name == "monitors":
        plain_items = [_plain_string(text) for text in value]
        found += [
            Problem("E103", f"{key}.{index}", f"names {text!r} a second time", "remove it")
            for index, text in enumerate(plain_items)
            if text in plain_items[:index]
        ]
    return found


def _labels(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value)
    item = FieldInfo(name=info.name, kind="string", doc="")
    found: list[Problem] = []
    for label, text in value.items():
        if not isinstance(label, str):
            found.append(_key_problem(key, label))
        else:
            found += _string(item, f"{key}.{label}", text)
    return found


def _key_problem(key: str, found: object) -> Problem:
    return Problem("E102", key, f"keys must be strings, got {shown(found)}", "put it in quotes")


def _mapping(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    """Check that it is a mapping with string keys all the way down; what the keys mean is checked elsewhere."""
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value)
    found: list[Problem] = []
    # Not recursive: contents given in code may be deep, or contain themselves.
    pending: list[tuple[str, Any, int]] = [(key, value, 1)]
    while pending:
        path, node, depth = pending.pop()
        if depth > _DEEPEST and isinstance(node, (Mapping, list, tuple)):
            return [*found, Problem("E108", key, f"is nested more than {_DEEPEST} levels deep")]
        if isinstance(node, Mapping):
            found += [_key_problem(path, name) for name in node if not isinstance(name, str)]
            pending += [(f"{path}.{name}", child, depth + 1) for name, child in node.items() if isinstance(name, str)]
        elif isinstance(node, (list, tuple)):
            pending += [(f"{path}.{index}", child, depth + 1) for index, child in enumerate(node)]
    return found


def _options(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    found = _mapping(info, key, value)
    if not found:
        each = FieldInfo(name=info.name, kind="mapping", doc="")
        for name, child in value.items():
            if not isinstance(child, Mapping):
                found += _wrong_type(each, f"{key}.{name}", child)
    return found


def _members(
    declared: Mapping[str, FieldInfo], key: str, value: Mapping[Any, Any], *, before: int = 0
) -> list[Problem]:
    """Check a mapping of declared keys; *before*: how many problems there are already."""
    found: list[Problem] = []
    for name, child in value.items():
        if not isinstance(name, str):
            found.append(_key_problem(key, name))
        elif name in declared:
            found += _value_problems(declared[name], f"{key}.{name}", child)
        else:
            found.append(unknown_key(f"{key}.{name}", name, declared, suggest=before + len(found) < _SUGGESTIONS))
    return found


def _methods(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value)
    found: list[Problem] = []
    for name, child in value.items():
        path = f"{key}.{name}" if isinstance(name, str) else key
        if not isinstance(name, str):
            found.append(_key_problem(key, name))
        elif not name.isidentifier():
            found.append(Problem("E103", path, f"{shown(name)} is not the name of a method"))
        elif name.startswith("_"):
            found.append(Problem("E103", path, f"{shown(name)} is private, and private methods are not served"))
        elif not isinstance(child, Mapping):
            fix = f"keys: {', '.join(METHOD_FIELDS)}"
            found.append(Problem("E102", path, f"must be a mapping, got {shown(child)}", fix))
        else:
            found += _members(METHOD_FIELDS, path, child, before=len(found))
    return found


def _batch(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if value is True:
        return []
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value, "leave the key out for no batching" if value is False else "")
    return _members(BATCH_FIELDS, key, value)


_CHECKS: Final[Mapping[Kind, Callable[[FieldInfo, str, Any], list[Problem]]]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
    "strings": _strings,
    "labels": _labels,
    "mapping": _mapping,
    "methods": _methods,
    "batch": _batch,
    "options": _options,
}


def _value_problems(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if value is None and info.optional:
        return []
    return _CHECKS[info.kind](info, key, value)


# Normal form of one valid value.


def _plain_string(value: Any) -> Any:
    """The plain string of an enum member or of any other string; every other value as it is."""
    if isinstance(value, Enum):
        value = value.value
    return str.__str__(value) if isinstance(value, str) else value


def _frozen(value: Any) -> Any:
    """A deep, read-only copy; the nesting is bounded by the check before it."""
    if isinstance(value, Mapping):
        return MappingProxyType({_plain_string(name): _frozen(child) for name, child in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple([_frozen(child) for child in value])
    return _plain_string(value)


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


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def _field(  # noqa: PLR0913 - a declaration has as many parts as it has
    group: str | None,
    kind: Kind,
    doc: str,
    *,
    default: Any,
    optional: bool | None = None,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """One field; optional if the default is None, *minimum* is allowed itself and *above* is not."""
    if maximum is None and kind in {"integer", "number"}:
        maximum = _MOST if kind == "integer" else _LONGEST
    return attrs.field(
        default=default,
        metadata={
            "group": group,
            "kind": kind,
            "doc": doc,
            "optional": default is None if optional is None else optional,
            "minimum": minimum if above is None else above,
            "maximum": maximum,
            "exclusive": above is not None,
            "choices": choices,
        },
    )


@attrs.frozen(kw_only=True, repr=False)
class ServiceDeploymentConfig:
    """
    How one service is deployed: where, on which threads, how many replicas, within which limits, and who watches.

    Every field has a default; `ServiceDeploymentConfig()` is one replica in this process that runs one call at a time.
    Values are checked strictly (no `"4"`, `4.0` or `True` for an integer) and become read-only: enum members become
    plain strings, lists tuples, mappings read-only deep copies. The config is compared by value and can be pickled;
    `attrs.evolve(config, timeout=5.0)` gives a changed copy.

    Plugin IDs are accepted as they are: `plan`, `validate` and `deploy` say whether they are installed, and check what
    a target or a strategy asks of its own fields.

    Raises:
        ConfigError: Values are not valid, do not go together, or have an unknown name; the message lists all of them,
            `problems` has them one by one.
    """

    target: str = _field(
        "deployment", "string", "ID of the target: where the replicas run (local, remote_any, ...).", default="local"
    )
    target_nodes: Sequence[str] | None = _field(
        "deployment",
        "strings",
        "Names, IDs or addresses of the nodes that may hold replicas, for targets that take them.",
        default=None,
    )
    node_selector: Mapping[str, str] | None = _field(
        "deployment",
        "labels",
        "Labels that a node must have to hold a replica, for targets that take them.",
        default=None,
    )
    threading_strategy: str = _field(
        "deployment",
        "string",
        "ID of the threading strategy: how a replica runs its calls (single, ...).",
        default="single",
    )
    thread_count: int = _field(
        "deployment",
        "integer",
        "Threads of each replica: all of them under multi, those kept warm under pool.",
        default=1,
        minimum=1,
        maximum=_THREADS,
    )
    max_thread_count: int | None = _field(
        "deployment",
        "integer",
        "Most threads of each replica under pool; another name for thread_pool_size.",
        default=None,
        minimum=1,
        maximum=_THREADS,
    )
    thread_pool_size: int | None = _field(
        "deployment",
        "integer",
        "Most threads of each replica under pool; under async, of the helper pool for synchronous methods.",
        default=None,
        minimum=1,
        maximum=_THREADS,
    )
    max_concurrency: int | None = _field(
        "deployment",
        "integer",
        "Coroutines of each replica at once under async; null: thread_count if above 1, else 100.",
        default=None,
        minimum=1,
    )
    replicas: int = _field("deployment", "integer", "Number of replicas of the service.", default=1, minimum=1)
    load_balancing: bool = _field(
        "deployment",
        "boolean",
        "Whether calls are spread over all replicas; if not, only the first serves.",
        default=False,
    )
    load_balancer: str | None = _field(
        "deployment",
        "string",
        "ID of the load balancer if load_balancing is on; null: the target's default (least_loaded in process).",
        default=None,
    )
    failover_enabled: bool = _field(
        "deployment",
        "boolean",
        "Whether another replica takes over: hot standby, and retry of idempotent calls.",
        default=False,
    )
    spread: str = _field(
        "deployment",
        "string",
        "How remote replicas are placed: over as many nodes as possible, or on as few.",
        default="spread",
        choices=("spread", "pack"),
    )
    max_replicas_per_node: int | None = _field(
        "deployment", "integer", "Most replicas of the service on one node; null: no limit.", default=None, minimum=1
    )
    cpu_cores: float | None = _field(
        "resources",
        "number",
        "CPU cores reserved for each replica, fractions allowed; 0 places it without reserving. Advisory on local.",
        default=None,
        minimum=0,
    )
    memory_mb: int | None = _field(
        "resources",
        "integer",
        "Memory reserved for each replica, in MiB (1024 * 1024 bytes). Advisory on local.",
        default=None,
        minimum=1,
    )
    gpu_count: float | None = _field(
        "resources",
        "number",
        "GPUs reserved for each replica; a fraction only where the target can share a GPU.",
        default=None,
        minimum=0,
    )
    queue_size: int = _field(
        "performance",
        "integer",
        "Most calls that wait, per service and calling process; 0: a call needs a free slot at once.",
        default=1000,
        minimum=0,
    )
    overload: str = _field(
        "performance",
        "string",
        "What a call to a full queue does: wait for room until its deadline, or fail at once.",
        default="block",
        choices=("block", "reject"),
    )
    timeout: float | None = _field(
        "performance",
        "number",
        "Longest time of a call from end to end, waiting included, in seconds; null: no limit.",
        default=30.0,
        optional=True,
        above=0,
    )
    queue_timeout: float | None = _field(
        "performance",
        "number",
        "Longest wait of a call in the queue, within timeout, in seconds; null: as long as timeout allows.",
        default=None,
        above=0,
    )
    batch_size: int | None = _field(
        "performance",
        "integer",
        "Most calls given to a batch method at once; null or 1: no batching.",
        default=None,
        minimum=1,
    )
    batch_wait: float = _field(
        "performance",
        "number",
        "Longest wait for a batch to fill while a worker is idle, in seconds.",
        default=0.01,
        minimum=0,
    )
    startup_timeout: float = _field(
        "performance", "number", "Longest time until a replica is ready, in seconds.", default=60.0, above=0
    )
    drain_timeout: float = _field(
        "performance",
        "number",
        "Longest time that a stopping replica gives to calls it has accepted, in seconds.",
        default=30.0,
        minimum=0,
    )
    health_check_interval: float = _field(
        "health", "number", "Time from one health check to the next, in seconds.", default=10.0, above=0
    )
    health_check_timeout: float = _field(
        "health",
        "number",
        "Longest time of one health check, in seconds; at most health_check_interval.",
        default=5.0,
        above=0,
    )
    failure_threshold: int = _field(
        "health", "integer", "Failed health checks in a row that make a replica unhealthy.", default=3, minimum=1
    )
    success_threshold: int = _field(
        "health",
        "integer",
        "Passed health checks in a row that make an unhealthy replica ready again.",
        default=2,
        minimum=1,
    )
    enable_metrics: bool = _field(
        "monitoring",
        "boolean",
        "Whether calls are counted and timed; without it `metrics` among the monitors is left out.",
        default=True,
    )
    monitors: Sequence[str] = _field(
        "monitoring", "strings", "IDs of the monitors that watch the service.", default=("metrics",)
    )
    autoscale: Mapping[str, Any] | None = _field(
        None, "mapping", "Scaling by load: min, max, initial and more; takes the place of replicas.", default=None
    )
    retry: Mapping[str, Any] | None = _field(
        None, "mapping", "How failed calls of idempotent methods are tried again.", default=None
    )
    update: Mapping[str, Any] | None = _field(
        None, "mapping", "How a changed configuration replaces running replicas.", default=None
    )
    user_config: Mapping[str, Any] | None = _field(
        None,
        "mapping",
        "Passed to the service's own reconfigure(user_config); the core does not read it.",
        default=None,
    )
    methods: Mapping[str, Mapping[str, Any]] = _field(
        None, "methods", "Per method: timeout, max_concurrency, idempotent, batch.", default=_NOTHING
    )
    options: Mapping[str, Mapping[str, Any]] = _field(
        None,
        "options",
        "Options of the plugins that the service uses, by plugin ID; each plugin checks its own.",
        default=_NOTHING,
    )

    # Equal configs may hold mappings, which have no hash.
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # Python's own way to say "not hashable"

    if not TYPE_CHECKING:  # checkers and editors see the signature that attrs makes from the fields

        def __init__(self, **given: Any) -> None:
            values, problems = _checked(given)
            if problems:
                _refuse(type(self).__name__, problems)
            self.__attrs_init__(**values)

    def __repr__(self) -> str:
        """Only what differs from the defaults."""
        changed = [
            f"{name}={plain(value)!r}" if isinstance(value, Mapping) else f"{name}={value!r}"
            for name, info in _FIELDS.items()
            if (value := getattr(self, name)) != info.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings do not pickle; plain ones do, and become read-only again in the constructor.
        return _rebuild, (type(self), self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values: dictionaries, lists, strings and numbers, fit for JSON if `user_config` is."""
        return {name: plain(getattr(self, name)) for name in _FIELDS}


if not TYPE_CHECKING:
    # What inspect and help() follow to the signature with all the fields.
    ServiceDeploymentConfig.__init__.__wrapped__ = ServiceDeploymentConfig.__attrs_init__


def _rebuild(cls: type[ServiceDeploymentConfig], values: dict[str, Any]) -> ServiceDeploymentConfig:
    return cls(**values)


def _checked(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The given values in normal form, and every error in them."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    whole = {name: info.default for name, info in _FIELDS.items()}
    for name, value in given.items():
        found = field_problems(name, value)
        problems += found
        if found:
            # A cross-field rule would only repeat what is said already.
            whole.pop(name, None)
        else:
            values[name] = whole[name] = _normal(_FIELDS[name], value)
    problems += [problem for problem in cross_problems(whole) if problem.severity == "error"]
    return values, problems


def _refuse(what: str, problems: Sequence[Problem]) -> NoReturn:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [
        f"\n  {problem.key}: {problem.message}" + (f" ({problem.fix})" if problem.fix else "") for problem in problems
    ]
    raise ConfigError(f"{what} has {count}:" + "".join(lines), problems=problems)


_FIELDS: Final[Mapping[str, FieldInfo]] = MappingProxyType(
    {
        attribute.name: FieldInfo(name=attribute.name, default=attribute.default, **attribute.metadata)
        for attribute in attrs.fields(ServiceDeploymentConfig)
    }
)

#: The keys of `methods.<name>`.
METHOD_FIELDS: Final[Mapping[str, FieldInfo]] = MappingProxyType(
    {
        info.name: info
        for info in (
            FieldInfo(
                name="timeout",
                kind="number",
                optional=True,
                minimum=0,
                exclusive=True,
                maximum=_LONGEST,
                doc="Longest time of a call of this method, in seconds; null: no limit. Left out: as the service.",
            ),
            FieldInfo(
                name="max_concurrency",
                kind="integer",
                optional=True,
                minimum=1,
                maximum=_MOST,
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
                doc="Whether calls go through the method's batch method: true, or its own size and wait.",
            ),
        )
    }
)

#: The keys of `methods.<name>.batch`.
BATCH_FIELDS: Final[Mapping[str, FieldInfo]] = MappingProxyType(
    {
        info.name: info
        for info in (
            FieldInfo(
                name="size",
                kind="integer",
                minimum=1,
                maximum=_MOST,
                doc="Most calls given to the batch method at once. Left out: the service's batch_size.",
            ),
            FieldInfo(
                name="wait",
                kind="number",
                minimum=0,
                maximum=_LONGEST,
                doc="Longest wait for the batch to fill while a worker is idle, in seconds. Left out: batch_wait.",
            ),
        )
    }
)


def fields() -> Mapping[str, FieldInfo]:
    """Every field of `ServiceDeploymentConfig` by name, in the order of its declaration."""
    return _FIELDS


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
    return _value_problems(info, name, value)


# Rules between fields. Each gets the values of the fields that it names, all of them valid on their own.


def _can_be_several(replicas: int, autoscale: Mapping[str, Any] | None) -> bool:
    if autoscale is None:
        return replicas > 1
    most = autoscale.get("max")
    # Anything but a number that rules it out is checked with autoscale itself.
    return not isinstance(most, int) or most > 1


def _replicas_serve(
    replicas: int,
    load_balancing: bool,  # noqa: FBT001 - the value of a field
    failover_enabled: bool,  # noqa: FBT001 - the value of a field
    autoscale: Mapping[str, Any] | None,
) -> Iterable[Problem]:
    several = _can_be_several(replicas, autoscale)
    if autoscale is None and replicas > 1 and not load_balancing and not failover_enabled:
        yield Problem(
            "E402",
            "replicas",
            f"is {replicas}, but without load_balancing and failover_enabled only the first replica would ever serve",
            "set load_balancing: true or failover_enabled: true",
        )
    if load_balancing and not several:
        yield Problem("W11", "load_balancing", "has nothing to balance with one replica", "set replicas to 2 or more")
    if failover_enabled and not several:
        yield Problem(
            "W08", "failover_enabled", "with one replica only restarts it after a failure", "set replicas to 2 or more"
        )


def _fixed_or_scaled(replicas: int, autoscale: Mapping[str, Any] | None) -> Iterable[Problem]:
    # The default, 1, cannot be told from no value, and does no harm.
    if autoscale is not None and replicas != 1:
        fix = "remove replicas; autoscale.initial says with how many to start"
        yield Problem("E404", "replicas", f"is fixed at {replicas}, but autoscale decides the number", fix)


def _scale_in_order(autoscale: Mapping[str, Any] | None) -> Iterable[Problem]:
    bounds = [
        (name, value)
        for name in ("min", "initial", "max")
        if isinstance(value := (autoscale or {}).get(name), int) and not isinstance(value, bool)
    ]
    for (low, low_value), (high, high_value) in itertools.pairwise(bounds):
        if low_value > high_value:
            yield Problem(
                "E405",
                f"autoscale.{high}",
                f"must be at least autoscale.{low} ({shown(low_value)}), got {shown(high_value)}",
            )


def _check_in_time(health_check_timeout: float, health_check_interval: float) -> Iterable[Problem]:
    if health_check_timeout > health_check_interval:
        yield Problem(
            "E603",
            "health_check_timeout",
            f"must be at most health_check_interval ({health_check_interval:g} s), got {health_check_timeout:g} s",
            f"set health_check_timeout: {health_check_interval:g}",
        )


def _wait_in_time(queue_timeout: float | None, timeout: float | None) -> Iterable[Problem]:
    if queue_timeout is not None and timeout is not None and queue_timeout > timeout:
        yield Problem(
            "E605",
            "queue_timeout",
            f"must be at most timeout ({timeout:g} s), got {queue_timeout:g} s",
            "lower it, or remove it: timeout covers the wait",
        )


def _batch_in_time(
    batch_wait: float, batch_size: int | None, timeout: float | None, methods: Mapping[str, Mapping[str, Any]]
) -> Iterable[Problem]:
    # Without batching nothing waits; a value of one's own is checked all the same, for it will be used one day.
    used = (batch_size or 1) > 1 or batch_wait != _FIELDS["batch_wait"].default
    if used and timeout is not None and batch_wait >= timeout:
        yield Problem("E503", "batch_wait", f"must be less than timeout ({timeout:g} s), got {batch_wait:g} s")
    for name, method in methods.items():
        batch = method.get("batch")
        limit = method.get("timeout", timeout)
        if batch is None or limit is None:
            continue
        own = isinstance(batch, Mapping) and "wait" in batch
        wait = batch["wait"] if own else batch_wait
        # The service's own wait against the service's own timeout is said above.
        if wait >= limit and (own or "timeout" in method or not used):
            key = "timeout"
            if own:
                key = f"methods.{name}.batch.wait"
            elif "timeout" in method:
                key = f"methods.{name}.timeout"
            message = f"the wait for a batch of {name} ({wait:g} s) must be less than its timeout ({limit:g} s)"
            yield Problem("E503", key, message)


def _drain_in_time(drain_timeout: float, timeout: float | None) -> Iterable[Problem]:
    if timeout is None or drain_timeout < timeout:
        longest = "have no time limit" if timeout is None else f"may take {timeout:g} s"
        fix = "" if timeout is None else f"set drain_timeout: {timeout:g}"
        message = f"is {drain_timeout:g} s, but calls {longest}: stopping a replica may cut calls off"
        yield Problem("W03", "drain_timeout", message, fix)


_CROSS_RULES: Final[Sequence[tuple[Callable[..., Iterable[Problem]], tuple[str, ...]]]] = (
    (_replicas_serve, ("replicas", "load_balancing", "failover_enabled", "autoscale")),
    (_fixed_or_scaled, ("replicas", "autoscale")),
    (_scale_in_order, ("autoscale",)),
    (_check_in_time, ("health_check_timeout", "health_check_interval")),
    (_wait_in_time, ("queue_timeout", "timeout")),
    (_batch_in_time, ("batch_wait", "batch_size", "timeout", "methods")),
    (_drain_in_time, ("drain_timeout", "timeout")),
)


def cross_problems(values: Mapping[str, Any]) -> list[Problem]:
    """
    Everything wrong between the core's own fields, errors and warnings.

    Args:
        values: All fields by name, each valid on its own. A rule is left out if a field that it reads is missing, so
            that a field already found wrong is not reported twice.
    """
    return [
        problem
        for rule, names in _CROSS_RULES
        if all(name in values for name in names)
        for problem in rule(*[values[name] for name in names])
    ]
