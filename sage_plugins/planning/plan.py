"""
What will happen, who decided it and why, before anything happens.

Making a plan starts nothing: plugins are asked to explain themselves, targets where replicas would go.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_type_hints

import attrs

from sage_plugins.errors import PluginError, text_of
from sage_plugins.planning.settings import Setting, settings_of
from sage_plugins.values import Explanation, Placed, Problem, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sage_plugins.config.origins import Origin
    from sage_plugins.planning.composition import Composition
    from sage_plugins.values import Choice, ReplicaSpec

__all__ = [
    "Change",
    "Decision",
    "DeploymentPlan",
    "ReplicaPlan",
    "ServicePlan",
    "changes",
    "comparable",
    "describe",
    "plan_service",
]

Action = Literal["add", "change", "keep", "remove"]

_KINDS: Final = get_args(get_type_hints(Explanation)["kind"])

#: Version of the plan as JSON: it grows when a reader of older plans would misunderstand a newer one.
VERSION: Final = 1


@attrs.frozen
class Decision:
    """
    One thing that was decided about a service.

    Attributes:
        what: `"target"`, `"strategy"`, `"balancer"`, `"monitor"`, or `"queue"`, which the core decides.
        id: The ID that the configuration names, or the default.
        source: Distribution and version of the plugin, or "" if no plugin was asked.
        summary: What it does, in one line.
        explanation: What it says about this service.
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
        id: The replica's id.
        where: The node, or `"this process"`; None if the target can place it nowhere.
        reason: Why there, or why nowhere.
        refused: Why not elsewhere: reason by node.
        rule: Id of the rule by which there is no place, such as `"E802"`; "" if there is one, or for none.
    """

    id: str
    where: str | None
    reason: str
    refused: Mapping[str, str] = MappingProxyType({})
    rule: str = ""


@attrs.frozen
class Change:
    """
    A difference between what runs and what is configured.

    Attributes:
        key: What is different, such as `"timeout"`, `"init.kwargs.backend"` or `"class"`.
        old: What runs; None if that has no such thing.
        new: What is configured; None if that has no such thing.
    """

    key: str
    old: Any
    new: Any


@attrs.frozen
class ServicePlan:
    """
    What will happen to one service.

    Attributes:
        name: Name of the service.
        action: `"add"`: it will be started. `"change"`: it runs otherwise, and will be replaced. `"keep"`: it runs as
            configured. `"remove"`: it runs, is not configured any more, and will be stopped.
        service_class: Its class, as `module:name`.
        settings: Every value of its configuration, with who set it and who acts on it.
        decisions: Who decides what.
        replicas: Where each replica will run; empty for a service that is to be removed.
        time_outs: What the end of a call's time can stop.
        methods: Names of the served methods.
        warnings: What will not be as one might think.
        changes: What is different from what runs.
    """

    name: str
    action: Action
    service_class: str
    settings: tuple[Setting, ...] = ()
    decisions: tuple[Decision, ...] = ()
    replicas: tuple[ReplicaPlan, ...] = ()
    time_outs: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    changes: tuple[Change, ...] = ()


@attrs.frozen
class DeploymentPlan:
    """
    What `deploy` and `apply` will do; `str(plan)` is for people, `to_json` for programs.

    Secrets, going by their names, and arguments of constructors are in it by a digest and their type only.

    Attributes:
        services: The services, in the order in which they start; those that will be stopped come last.
        notes: What concerns the file as a whole.
    """

    services: tuple[ServicePlan, ...]
    notes: tuple[Problem, ...] = ()

    @property
    def has_changes(self) -> bool:
        """Whether anything will be started, replaced or stopped."""
        return any(service.action != "keep" for service in self.services)

    @property
    def unplaced(self) -> tuple[ReplicaPlan, ...]:
        """The replicas for which there is no place."""
        return tuple(each for service in self.services for each in service.replicas if each.where is None)

    def essence(self) -> dict[str, dict[str, Any]]:
        """
        What will be done, by service, as plain values, without reasons and without what is only said of it.

        Two plans with the same essence do the same.
        """
        found: dict[str, dict[str, Any]] = {}
        for service in self.services:
            does = {"action": service.action, "methods": ", ".join(service.methods)}
            found[service.name] = (
                does | {f"replica {each.id}": each.where for each in service.replicas} | comparable(service)
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, as they stand in its JSON."""
        found: dict[str, Any] = json.loads(self.to_json())
        return found

    def to_json(self) -> str:
        """The plan as a JSON object; its key `version` tells readers whether they understand it."""
        return json.dumps({"version": VERSION, **_plain(self)}, indent=2, default=str)

    def text(self, *, all_settings: bool = False) -> str:
        """
        The plan for people, a block for each service.

        Args:
            all_settings: Show the settings that have their defaults, too.
        """
        from sage_plugins.planning.plan_text import plan_text  # imported here: programs do without it

        return plan_text(self, all_settings=all_settings)

    def __str__(self) -> str:
        """The plan for people, without what has its default."""
        return self.text()


def _plain(value: Any) -> Any:
    """Objects as mappings of their attributes, all the way down."""
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
    """What JSON has for the value, or a text of it, the same in every process."""
    if isinstance(value, AbstractSet):
        return sorted((_plain(child) for child in value), key=str)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers, and one of them equals nothing, itself included
    texts = {getattr(type(value), name) for name in ("__repr__", "__str__")}
    if texts == {object.__repr__, object.__str__}:
        return f"an object of class {type(value).__name__}"  # its text would have its address in it
    return value


def plan_service(
    composition: Composition,
    warnings: Sequence[Problem],
    origin: Callable[[str], Origin],
    running: Mapping[str, Any] | None = None,
) -> ServicePlan:
    """
    Say what will happen to a service: ask its plugins to explain themselves, and its target where the replicas go.

    Args:
        composition: The service.
        warnings: What was found doubtful about it.
        origin: Who set the value at a path, such as `"timeout"`.
        running: What `describe` said of the service that runs, or None if none does.

    Raises:
        PluginError: A plugin fails to explain itself, or its target to say where the replicas go.
    """
    plan = attrs.evolve(describe(composition, origin), replicas=tuple(_places(composition)), warnings=tuple(warnings))
    if running is None:
        return plan
    found = tuple(changes(running, comparable(plan)))
    return attrs.evolve(plan, action="change" if found else "keep", changes=found)


def describe(composition: Composition, origin: Callable[[str], Origin]) -> ServicePlan:
    """
    What a service is, without asking where its replicas go.

    Raises:
        PluginError: A plugin fails to explain itself.
    """
    config = composition.config
    cls = composition.factory.service_class
    decisions = [
        _decision("target", composition.target, config),
        _decision("strategy", composition.strategy, config),
    ]
    if composition.balancer is not None:
        decisions.append(_decision("balancer", composition.balancer, config))
    decisions += [_decision("monitor", choice, config) for choice in composition.monitors]
    said = [each for decision in decisions for each in decision.explanation]
    decisions.append(_queue(config))
    return ServicePlan(
        name=composition.name,
        action="add",
        service_class=f"{cls.__module__}:{cls.__qualname__}",
        settings=tuple(settings_of(composition, origin)),
        decisions=tuple(
            attrs.evolve(each, explanation=tuple(line for line in each.explanation if line.kind != "timeout"))
            for each in decisions
        ),
        time_outs=tuple(_time_outs(composition, [each.text for each in said if each.kind == "timeout"])),
        methods=tuple(method.name for method in composition.methods),
    )


def _decision(what: str, choice: Choice, config: Any) -> Decision:
    registration = choice.registration
    explanation: tuple[Explanation, ...] = ()
    if registration.explain is not None:
        try:
            explanation = tuple(map(_explanation, registration.explain(config, *choice.settings)))
        except Exception as error:
            msg = f"{what} '{choice.id}' from {choice.source} failed to explain itself: {text_of(error)}"
            raise PluginError(msg) from error
    return Decision(what, choice.id, choice.source, str(registration.summary), explanation)


def _explanation(line: str | Explanation) -> Explanation:
    """
    A line that a plugin gave.

    Raises:
        TypeError: It is none.
    """
    found = Explanation(line) if isinstance(line, str) else line
    if not isinstance(found, Explanation) or not isinstance(found.text, str) or found.kind not in _KINDS:
        raise TypeError(f"explain gave {line!r:.100}, which is neither a text nor an Explanation of a known kind")
    return found


def _queue(config: Any) -> Decision:
    full = "a full queue " + ("refuses calls" if config.overload == "reject" else "makes callers wait")
    limit = f"{config.queue_size} calls may wait, per calling process"
    return Decision("queue", config.overload, "", f"{limit}; {full}", (Explanation(limit, "enforced"),))


def _time_outs(composition: Composition, said: Sequence[str]) -> Iterator[str]:
    """What the end of a call's time can stop; the strategy knows, and for one that is silent its capabilities do."""
    timeout = composition.config.timeout
    own = [method for method in composition.methods if method.name in composition.config.methods]
    yield "no time limit" if timeout is None else f"{timeout:g} s from call to answer, waiting included"
    yield from (
        f"{method.name}: {'no time limit' if method.timeout == float('inf') else f'{method.timeout:g} s'}"
        for method in own
        if "timeout" in composition.config.methods[method.name]
    )
    yield "a call that still waits never starts"
    if said:
        yield from said
    elif "releases_at_deadline" in composition.strategy.registration.capabilities:
        yield f"its caller is released; '{composition.strategy.id}' does not say whether the method stops"
    else:
        yield f"under '{composition.strategy.id}' a running method may hold its caller until it ends"


def _places(composition: Composition) -> list[ReplicaPlan]:
    target = composition.target
    specs = [composition.spec(index) for index in range(composition.config.replicas)]
    try:
        opened = target.create()
        try:
            places: Sequence[Placed | Refused] = list(opened.place(specs))
        finally:
            opened.close()
        return _placed(specs, places)
    except Exception as error:
        msg = f"target '{target.id}' from {target.source} failed to say where replicas go: {text_of(error)}"
        raise PluginError(msg) from error


def _placed(specs: Sequence[ReplicaSpec], places: Sequence[Placed | Refused]) -> list[ReplicaPlan]:
    """
    What a target says of where the replicas go.

    Raises:
        ValueError: It says that of more or fewer than there are.
        TypeError: It says something else.
    """
    if len(places) != len(specs):
        raise ValueError(f"place gave {len(places)} places for {len(specs)} replicas")
    return [_place(spec.id, place) for spec, place in zip(specs, places, strict=True)]


def _place(replica: str, place: Placed | Refused) -> ReplicaPlan:
    if isinstance(place, Placed):
        return ReplicaPlan(replica, place.node or "this process", place.reason, dict(place.refused))
    if isinstance(place, Refused):
        return ReplicaPlan(replica, None, place.reason, dict(place.nodes), str(place.rule))
    raise TypeError(f"place gave {place!r:.100}, which is neither Placed nor Refused")


# -- differences -------------------------------------------------------------------------------------------------------


def comparable(plan: ServicePlan) -> dict[str, Any]:
    """What of a service can differ, by name."""
    found: dict[str, Any] = {"class": plan.service_class}
    found |= {_plugin_key(decision): decision.source for decision in plan.decisions if decision.source}
    found |= {setting.key: setting.digest or setting.value for setting in plan.settings}
    # As another process would read it.
    plain: dict[str, Any] = json.loads(json.dumps(_plain(found), default=str))
    return plain


def _plugin_key(decision: Decision) -> str:
    return f"{decision.what} '{decision.id}'"


def _is_plugin(key: str) -> bool:
    """Whether `_plugin_key` made it; the keys of settings begin with a field's name."""
    return " '" in key.partition(".")[0]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """What is different between two services, each as `comparable` gives it."""
    for name in {**new, **old}:
        if _is_plugin(name) and (name not in old or name not in new):
            continue  # the setting that names the plugin says it
        before, after = old.get(name), new.get(name)
        if before != after:
            yield Change(name, before, after)
