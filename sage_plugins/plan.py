"""What will happen and which plugin decided it, before anything happens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from sage_plugins.values import Placed, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sage_plugins.task import Composition
    from sage_plugins.values import Choice

__all__ = ["Decision", "DeploymentPlan", "ServicePlan", "plan_service"]


@attrs.frozen
class Decision:
    """
    One thing that was decided about a service.

    Attributes:
        what: `"target"`, `"strategy"`, `"balancer"` or `"monitor"`.
        id: The ID that the configuration names, or the default.
        source: Distribution and version of the plugin, or "" if no plugin was asked.
        summary: What it does, in one line.
        explanation: What it says about this service.
    """

    what: str
    id: str
    source: str
    summary: str
    explanation: tuple[str, ...]


@attrs.frozen
class ServicePlan:
    """
    What will happen to one service.

    Attributes:
        name: Name of the service.
        service_class: Its class, as `module:name`.
        decisions: Who decides what.
        replicas: For each replica its id, where it will run and why.
        methods: Names of the served methods.
        warnings: What will not be as one might think.
    """

    name: str
    service_class: str
    decisions: tuple[Decision, ...]
    replicas: tuple[tuple[str, str, str], ...]
    methods: tuple[str, ...]
    warnings: tuple[Problem, ...]


@attrs.frozen
class DeploymentPlan:
    """
    What `deploy` will do; `str(plan)` is for people, `to_json` for programs.

    Attributes:
        services: The services, in the order in which they start.
        notes: What concerns the file as a whole.
    """

    services: tuple[ServicePlan, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The plan as a JSON object."""
        return json.dumps(attrs.asdict(self), indent=2)

    def __str__(self) -> str:
        """The plan as text, a block for each service."""
        blocks = ["\n".join(_lines(service)) for service in self.services]
        count = "1 service" if len(self.services) == 1 else f"{len(self.services)} services"
        replicas = sum(len(service.replicas) for service in self.services)
        total = f"Plan: {count}, {'1 replica' if replicas == 1 else f'{replicas} replicas'} to start."
        return "\n\n".join([*blocks, *self.notes, total])


def _lines(service: ServicePlan) -> Iterator[str]:
    yield f"+ {service.name}  ({service.service_class})"
    for decision in service.decisions:
        by = f"  [{decision.source}]" if decision.source else ""
        yield f"    {decision.what:<9} {decision.id}{by}  {decision.summary}"
        yield from (f"    {'':<9}   - {line}" for line in decision.explanation)
    for replica, where, why in service.replicas:
        yield f"    {'replica':<9} {replica} -> {where}  ({why})"
    yield f"    {'methods':<9} {', '.join(service.methods) or 'none'}"
    yield from (f"    ! {warning}" for warning in service.warnings)


def plan_service(composition: Composition, warnings: Sequence[Problem]) -> ServicePlan:
    """Describe *composition*: ask its plugins to explain themselves, and its target where the replicas go."""
    config = composition.config
    cls = composition.factory.service_class
    decisions = [
        _decision("target", composition.target, config),
        _decision("strategy", composition.strategy, config),
    ]
    if composition.balancer is not None:
        decisions.append(_decision("balancer", composition.balancer, config))
    decisions.extend(_decision("monitor", choice, config) for choice in composition.monitors)
    bound = f"{config.queue_size} calls may wait; a full queue "
    bound += "refuses calls" if config.overload == "reject" else "makes callers wait"
    limit = "no time limit" if config.timeout is None else f"{config.timeout:g} s from call to answer"
    decisions.append(Decision("queue", config.overload, "", bound, (limit,)))
    specs = [composition.spec(index) for index in range(config.replicas)]
    target = composition.target.create()
    try:
        places = target.place(specs)
    finally:
        target.close()
    return ServicePlan(
        name=composition.name,
        service_class=f"{cls.__module__}:{cls.__qualname__}",
        decisions=tuple(decisions),
        replicas=tuple(
            (spec.id, (place.node or "this process") if isinstance(place, Placed) else "nowhere", place.reason)
            for spec, place in zip(specs, places, strict=True)
        ),
        methods=tuple(method.name for method in composition.methods),
        warnings=tuple(warnings),
    )


def _decision(what: str, choice: Choice, config: Any) -> Decision:
    registration = choice.registration
    explanation = () if registration.explain is None else tuple(registration.explain(config, choice.options))
    return Decision(what, choice.id, choice.source, registration.summary, explanation)
