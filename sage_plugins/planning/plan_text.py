"""A plan as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.service_config import plain
from sage_plugins.texts import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sage_plugins.planning.plan import Decision, DeploymentPlan, ReplicaPlan, ServicePlan
    from sage_plugins.planning.settings import Setting

__all__ = ["plan_text"]

_SIGNS: Final = {"add": "+", "change": "~", "keep": " ", "remove": "-"}
_LABELS: Final = {"decides": "", "enforced": "enforced: ", "advisory": "advisory: ", "timeout": ""}


def plan_text(plan: DeploymentPlan, *, all_settings: bool) -> str:
    """The plan for people: a block for each service, then notes, then a line with the numbers."""
    blocks = ["\n".join(_lines(service, all_settings=all_settings)) for service in plan.services]
    return "\n\n".join([*blocks, *(f"! {note}" for note in plan.notes), _total(plan)])


def _total(plan: DeploymentPlan) -> str:
    counts = {action: sum(service.action == action for service in plan.services) for action in _SIGNS}
    if counts["add"] == len(plan.services):
        replicas = sum(len(service.replicas) for service in plan.services)
        return f"Plan: {_count(counts['add'], 'service')}, {_count(replicas, 'replica')} to start."
    if counts["keep"] == len(plan.services):
        return f"Plan: nothing to do, {_count(counts['keep'], 'service')} as configured."
    words = f"{counts['add']} to start, {counts['change']} to replace, {counts['remove']} to stop"
    return f"Plan: {words}, {counts['keep']} unchanged."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _lines(service: ServicePlan, *, all_settings: bool) -> Iterator[str]:
    sign = _SIGNS[service.action]
    if service.action == "remove":
        yield f"{sign} {service.name}  ({one_line(service.service_class)}) runs, and is not configured any more"
        return
    same = " runs as configured" if service.action == "keep" else ""
    yield f"{sign} {service.name}  ({one_line(service.service_class)}){same}"
    for change in service.changes:
        yield f"    ~ {one_line(change.key)}: {_value(change.old)} -> {_value(change.new)}"
    for decision in service.decisions:
        yield from _decision(decision)
        if decision.what == "strategy":
            yield from _listed("time-out", service.time_outs)
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
    """A value as one would write it in the file, on one line."""
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
