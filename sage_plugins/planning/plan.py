"""The deployment plan: as values, as JSON, and as text for people. `planner` makes it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from sage_plugins.config.service_config import plain
from sage_plugins.planning.settings import Setting
from sage_plugins.texts import counted, one_line
from sage_plugins.values import Explanation, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


__all__ = [
    "Change",
    "Decision",
    "DeploymentPlan",
    "ReplicaPlan",
    "ServicePlan",
    "changes",
    "comparable",
]

Action = Literal["add", "change", "keep", "remove"]

#: Version of the plan's JSON. Increased when programs that read the old version would misunderstand the new one.
VERSION: Final = 1


@attrs.frozen
class Decision:
    """
    One decision about a service.

    Attributes:
        what: The subject. Plugins decide `"target"`, `"strategy"`, `"balancer"`, `"autoscale"` and `"monitor"`, the
            core `"queue"`, `"retry"`, `"hedge"`, `"breaker"`, `"outlier"` and `"recycle"`.
        id: The configured ID, or the default; for the core a short text.
        source: Distribution and version of the plugin; "" for the core.
        summary: What it does, in one line.
        explanation: What the plugin says about this service.
    """

    what: str
    id: str
    source: str
    summary: str
    explanation: tuple[Explanation, ...]


@attrs.frozen
class ReplicaPlan:
    """
    Where one replica will run.

    Attributes:
        id: The replica's ID.
        where: Name of the node, or `"this process"`; None if it cannot be placed.
        reason: Why there, or why nowhere.
        refused: Why not elsewhere: reason by node.
        rule: ID of the rule that refuses it, such as `"E802"`; "" for none.
    """

    id: str
    where: str | None
    reason: str
    refused: Mapping[str, str] = MappingProxyType({})
    rule: str = ""


@attrs.frozen
class Change:
    """
    A difference between the running service and the configured one.

    Attributes:
        key: Path of the difference, such as `"timeout"`, `"init.kwargs.backend"` or `"class"`.
        old: The running value; None if there is none.
        new: The configured value; None if there is none.
    """

    key: str
    old: Any
    new: Any


@attrs.frozen
class ServicePlan:
    """
    What will happen to one service.

    Attributes:
        name: The service's name.
        action: `"add"`: it will be started. `"change"`: it runs with different settings and will be changed. `"keep"`:
            it runs as configured. `"remove"`: it runs, is not configured any more, and will be stopped.
        service_class: Its class, as `module:name`.
        settings: Every configured value, with its origin and the part that uses it.
        decisions: Those of the plugins and of the core.
        replicas: Where each will run; empty for a service that will be stopped.
        timeouts: What a timeout can stop.
        methods: Names of the served methods.
        warnings: Warnings about the configuration.
        changes: The differences from the running service.
        way: How the changes are applied, in words: replica by replica, in place, or as a whole; "" without changes.
    """

    name: str
    action: Action
    service_class: str
    settings: tuple[Setting, ...] = ()
    decisions: tuple[Decision, ...] = ()
    replicas: tuple[ReplicaPlan, ...] = ()
    timeouts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()
    way: str = ""


@attrs.frozen
class DeploymentPlan:
    """
    What `deploy` and `apply` will do. `str(plan)` is for people, `to_json` for programs.

    Secrets, recognised by their names, and constructor arguments appear only as digests and types.

    Attributes:
        services: The services, in the order in which they start, then those that will be stopped.
        notes: Warnings about the files as a whole.
    """

    services: tuple[ServicePlan, ...]
    notes: tuple[Problem, ...] = ()

    @property
    def has_changes(self) -> bool:
        """Whether anything will be started, changed or stopped."""
        return any(service.action != "keep" for service in self.services)

    @property
    def unplaced(self) -> tuple[ReplicaPlan, ...]:
        """The replicas that cannot be placed."""
        return tuple(each for service in self.services for each in service.replicas if each.where is None)

    def essence(self) -> dict[str, dict[str, Any]]:
        """
        Return what will be done, by service, as plain values, without reasons and explanations.

        Plans with the same essence do the same.
        """
        found: dict[str, dict[str, Any]] = {}
        for service in self.services:
            does = {"action": service.action, "methods": ", ".join(service.methods)}
            found[service.name] = (
                does | {f"replica {each.id}": each.where for each in service.replicas} | comparable(service)
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, the same as in its JSON."""
        found: dict[str, Any] = json.loads(self.to_json())
        return found

    def to_json(self) -> str:
        """Return the plan as a JSON object. Its key `version` is that of the format."""
        return json.dumps({"version": VERSION, **_plain(self)}, indent=2, default=str)

    def text(self, *, all_settings: bool = False) -> str:
        """
        Return the plan for people, with a block for each service.

        Args:
            all_settings: Whether to show settings with default values too.
        """
        return _text(self, all_settings=all_settings)

    def summary(self) -> str:
        """Return the plan in short, for people: a line for each service, with its changes and warnings below."""
        return _summary(self)

    def __str__(self) -> str:
        """Return the plan for people, without settings that have their defaults."""
        return self.text()


def _plain(value: Any) -> Any:
    """Return objects as mappings of their attributes, on all levels."""
    if attrs.has(type(value)):
        return {each.name: _plain(getattr(value, each.name)) for each in attrs.fields(type(value))}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(child) for name, child in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): _plain(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return _stable(value)


def _stable(value: Any) -> Any:
    """Return the value for JSON, or a text for it that is the same in every process."""
    if isinstance(value, AbstractSet):
        return sorted((_plain(child) for child in value), key=str)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity or NaN, and NaN does not even equal itself
    texts = {getattr(type(value), name) for name in ("__repr__", "__str__")}
    if texts == {object.__repr__, object.__str__}:
        return f"an object of class {type(value).__name__}"  # its own text contains its address
    return value


# -- differences -------------------------------------------------------------------------------------------------------


def comparable(plan: ServicePlan) -> dict[str, Any]:
    """Return the parts of a service that can differ, by name, for `changes`."""
    found: dict[str, Any] = {"class": plan.service_class}
    found |= {_plugin_key(decision): decision.source for decision in plan.decisions if decision.source}
    found |= {setting.key: setting.digest or setting.value for setting in plan.settings}
    # Through JSON, because another process may have recorded the other side of the comparison.
    plain: dict[str, Any] = json.loads(json.dumps(_plain(found), default=str))
    return plain


def _plugin_key(decision: Decision) -> str:
    return f"{decision.what} '{decision.id}'"


def _is_plugin(key: str) -> bool:
    """Whether `_plugin_key` made *key*. Keys of settings begin with a field's name instead."""
    return " '" in key.partition(".")[0]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the differences between two services, each from `comparable`."""
    for name in {**new, **old}:
        if _is_plugin(name) and (name not in old or name not in new):
            continue  # the setting that names the plugin already shows it
        before, after = old.get(name), new.get(name)
        if before != after:
            yield Change(name, before, after)


# -- text for people ---------------------------------------------------------------------------------------------------

_SIGNS: Final = {"add": "+", "change": "~", "keep": " ", "remove": "-"}
#: Maximum number of places named in a line of a summary.
_PLACES: Final = 3
_LABELS: Final = {"decides": "", "enforced": "enforced: ", "advisory": "advisory: ", "timeout": ""}


def _text(plan: DeploymentPlan, *, all_settings: bool) -> str:
    """Return the plan for people: a block for each service, then the notes, then a line with the totals."""
    blocks = ["\n".join(_lines(service, all_settings=all_settings)) for service in plan.services]
    return "\n\n".join([*blocks, *(f"! {note}" for note in plan.notes), _total(plan)])


def _summary(plan: DeploymentPlan) -> str:
    lines = [line for service in plan.services for line in _short(service)]
    return "\n".join([*lines, *(f"! {note}" for note in plan.notes), "", _total(plan)])


def _short(service: ServicePlan) -> Iterator[str]:
    sign = _SIGNS[service.action]
    if service.action == "remove":
        yield f"{sign} {service.name}: runs, and is not configured any more"
        return
    chosen = {each.what: each.id for each in service.decisions}
    parts = [f"{chosen.get('target', '')}, {chosen.get('strategy', '')}", _where(service)]
    parts += [f"balanced by {chosen['balancer']}"] if "balancer" in chosen else []
    parts += ["runs as configured"] if service.action == "keep" else []
    yield f"{sign} {service.name}: {', '.join(parts)}"
    yield from (f"    ~ {one_line(each.key)}: {_value(each.old)} -> {_value(each.new)}" for each in service.changes)
    yield from _way(service)
    yield from (line for replica in service.replicas if replica.where is None for line in _replica(replica))
    yield from _warnings(service)


def _way(service: ServicePlan) -> Iterator[str]:
    if service.way:
        yield f"    > {one_line(service.way, 500)}"


def _where(service: ServicePlan) -> str:
    """Return how many replicas go to each place, in the order of the replicas."""
    places = [replica.where or "nowhere" for replica in service.replicas]
    names = list(dict.fromkeys(places))
    counts = [f"{places.count(name)} x {one_line(str(name), 40)}" for name in names]
    if len(names) == 1:
        counts = [one_line(str(names[0]), 40)]
    elif len(names) > _PLACES:
        counts = [*counts[:_PLACES], f"{len(names) - _PLACES} more places"]
    return f"{counted(len(places), 'replica')} -> {' and '.join(counts)}"


def _total(plan: DeploymentPlan) -> str:
    counts = {action: sum(service.action == action for service in plan.services) for action in _SIGNS}
    if counts["add"] == len(plan.services):
        replicas = sum(len(service.replicas) for service in plan.services)
        return f"Plan: {counted(counts['add'], 'service')}, {counted(replicas, 'replica')} to start."
    if counts["keep"] == len(plan.services):
        return f"Plan: nothing to do, {counted(counts['keep'], 'service')} as configured."
    words = f"{counts['add']} to start, {counts['change']} to change, {counts['remove']} to stop"
    return f"Plan: {words}, {counts['keep']} unchanged."


def _lines(service: ServicePlan, *, all_settings: bool) -> Iterator[str]:
    sign = _SIGNS[service.action]
    if service.action == "remove":
        yield f"{sign} {service.name}  ({one_line(service.service_class)}) runs, and is not configured any more"
        return
    same = " runs as configured" if service.action == "keep" else ""
    yield f"{sign} {service.name}  ({one_line(service.service_class)}){same}"
    for change in service.changes:
        yield f"    ~ {one_line(change.key)}: {_value(change.old)} -> {_value(change.new)}"
    yield from _way(service)
    for decision in service.decisions:
        yield from _decision(decision)
        if decision.what == "strategy":
            yield from _listed("timeout", service.timeouts)
    for replica in service.replicas:
        yield from _replica(replica)
    yield from _settings(service.settings, all_settings=all_settings)
    yield f"    {'methods':<9} {', '.join(map(one_line, service.methods)) or 'none'}"
    yield from _warnings(service)


def _decision(decision: Decision) -> Iterator[str]:
    by = f"  [{decision.source}]" if decision.source else ""
    yield f"    {decision.what:<9} {decision.id}{by}  {one_line(decision.summary, 500)}"
    shown = (each for each in decision.explanation if each.text not in decision.summary)
    yield from (f"    {'':<9}   - {_LABELS[each.kind]}{one_line(each.text, 500)}" for each in shown)


def _listed(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield f"    {title:<9} {lines[0]}"
    yield from (f"    {'':<9}   - {one_line(line, 500)}" for line in lines[1:])


def _replica(replica: ReplicaPlan) -> Iterator[str]:
    where = "nowhere" if replica.where is None else one_line(str(replica.where))
    mark = "!" if replica.where is None else " "
    rule = f"error {one_line(replica.rule)}: " if replica.rule else ""
    yield f"  {mark} {'replica':<9} {replica.id} -> {where}  ({rule}{one_line(str(replica.reason), 500)})"
    for node, reason in replica.refused.items():
        yield f"    {'':<9}   - not {one_line(str(node))}: {one_line(str(reason), 500)}"


def _settings(settings: Sequence[Setting], *, all_settings: bool) -> Iterator[str]:
    shown = [each for each in settings if all_settings or each.origin.source != "default"]
    title = "settings"
    keys = [one_line(each.key) for each in shown]
    key_width = max(map(len, keys), default=0)
    values = [_value(each.value) for each in shown]
    value_width = min(40, max(map(len, values), default=0))
    for setting, key, value in zip(shown, keys, values, strict=True):
        origin = one_line(str(setting.origin))
        yield f"    {title:<9} {key:<{key_width}} = {value:<{value_width}}  {origin}  [{setting.acts}]"
        title = ""
    others = len(settings) - len(shown)
    if others:
        yield f"    {title:<9} {'and ' if shown else ''}{others} with their defaults"


def _value(value: Any) -> str:
    """Return a value as it would be written in a file, on one line."""
    if isinstance(value, str):
        return one_line(value or "''", 60)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return one_line(f"[{', '.join(map(_value, plain(value)))}]", 60)
    return one_line(str(value), 60)


def _warnings(service: ServicePlan) -> Iterator[str]:
    return (f"    ! {one_line(str(warning), 1000)}" for warning in service.warnings)
