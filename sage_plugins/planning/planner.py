"""
Makes the deployment plan.

Making a plan starts nothing: it asks plugins to explain their decisions, and targets where replicas would run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

import attrs

from sage_plugins.config.nested_keys import RecyclePolicy, policies_of
from sage_plugins.errors import PluginError, text_of
from sage_plugins.planning.plan import Decision, DeploymentPlan, ReplicaPlan, ServicePlan, changes, comparable
from sage_plugins.planning.settings import settings_of
from sage_plugins.texts import counted
from sage_plugins.values import Explanation, Placed, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sage_plugins.config.origins import Origin
    from sage_plugins.deployment.updating.update_plan import UpdatePlan
    from sage_plugins.planning.catalogue import Catalogue
    from sage_plugins.planning.composition import Composition
    from sage_plugins.plugins.registry import Registry
    from sage_plugins.values import Choice, Problem, ReplicaSpec

__all__ = ["describe", "plan_all"]

_KINDS: Final = get_args(get_type_hints(Explanation)["kind"])


def plan_all(
    catalogue: Catalogue,
    registry: Registry,
    running: Mapping[str, Mapping[str, Any]],
    plan_update: Callable[[str, Composition, Collection[str]], UpdatePlan],
) -> DeploymentPlan:
    """
    Return the plan that makes the running services match *catalogue*.

    Args:
        catalogue: The configured services. It must not change meanwhile; use a snapshot.
        registry: The plugins.
        running: The running services by name, each from `comparable`.
        plan_update: `plan_update(service, new, keys)` returns how the changes of these settings are applied to a
            running service.

    Raises:
        PlanError, ConfigError, UnknownPluginError, PluginError: As `Environment.plan`.
    """
    names = catalogue.names
    services = [
        _plan_service(composition, warnings, catalogue.origin(name), plan_update, running.get(name))
        for name, (composition, warnings) in zip(names, catalogue.compose_all(names, registry), strict=True)
    ]
    gone = [ServicePlan(name, "remove", str(running[name].get("class", ""))) for name in running if name not in names]
    return DeploymentPlan((*services, *gone), tuple(catalogue.notes(registry)))


def _plan_service(
    composition: Composition,
    warnings: Sequence[Problem],
    origin: Callable[[str], Origin],
    plan_update: Callable[[str, Composition, Collection[str]], UpdatePlan],
    running: Mapping[str, Any] | None = None,
) -> ServicePlan:
    """
    Plan one service: ask its plugins to explain their decisions, and its target where the replicas would run.

    Args:
        composition: The service.
        warnings: Its warnings.
        origin: Returns the origin of the value at a path, such as `"timeout"`.
        plan_update: As for `plan_all`.
        running: The running service, from `comparable`; None if it does not run.

    Raises:
        PluginError: The `explain` of a plugin or the `place` of the target failed.
    """
    plan = attrs.evolve(describe(composition, origin), replicas=tuple(_places(composition)), warnings=tuple(warnings))
    if running is None:
        return plan
    found = tuple(changes(running, comparable(plan)))
    if not found:
        return attrs.evolve(plan, action="keep")
    update = plan_update(plan.name, composition, [change.key for change in found])
    return attrs.evolve(plan, action="change", changes=found, way=update.text)


def describe(composition: Composition, origin: Callable[[str], Origin]) -> ServicePlan:
    """
    Return the plan of one service, without asking its target where the replicas would run.

    Raises:
        PluginError: The `explain` of a plugin failed.
    """
    config = composition.config
    cls = composition.factory.service_class
    decisions = [
        _decision("target", composition.target, config),
        _decision("strategy", composition.strategy, config),
    ]
    if composition.balancer is not None:
        decisions.append(_decision("balancer", composition.balancer, config))
    if composition.autoscaler is not None:
        decisions.append(_scaling(composition.autoscaler, config))
    decisions += [_decision("monitor", choice, config) for choice in composition.monitors]
    said = [each for decision in decisions for each in decision.explanation]
    decisions.append(_queue(config))
    decisions += _guards(config)
    decisions += _recycling(config)
    return ServicePlan(
        name=composition.name,
        action="add",
        service_class=f"{cls.__module__}:{cls.__qualname__}",
        settings=tuple(settings_of(composition, origin)),
        decisions=tuple(
            attrs.evolve(each, explanation=tuple(line for line in each.explanation if line.kind != "timeout"))
            for each in decisions
        ),
        timeouts=tuple(_timeouts(composition, [each.text for each in said if each.kind == "timeout"])),
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


def _scaling(choice: Choice, config: Any) -> Decision:
    """Return the autoscaler's decision, with the limits and delays that the core adds."""
    from sage_plugins.resilience.autoscaling import AutoscaleSettings

    said = AutoscaleSettings.of(config.autoscale)
    own = _decision("autoscale", choice, config)
    bounds = f"{said.min} to {counted(said.max, 'replica')}, {said.initial} at the start"
    delays = f"more after {said.upscale_delay:g} s, fewer after {said.downscale_delay:g} s"
    if said.min == 0:
        delays += f", none after {said.scale_to_zero_delay:g} s without calls"
    lines = (Explanation(bounds, "enforced"), Explanation(delays), *own.explanation)
    return attrs.evolve(own, explanation=lines)


def _explanation(line: str | Explanation) -> Explanation:
    """
    Return a line from a plugin's `explain`.

    Raises:
        TypeError: It is neither a text nor an Explanation.
    """
    found = Explanation(line) if isinstance(line, str) else line
    if not isinstance(found, Explanation) or not isinstance(found.text, str) or found.kind not in _KINDS:
        raise TypeError(f"explain gave {line!r:.100}, which is neither a text nor an Explanation of a known kind")
    return found


def _guards(config: Any) -> Iterator[Decision]:
    """Yield the core's decisions about calls that fail."""
    retry, breaker, outlier, hedge = policies_of(config)
    if retry is not None:
        on = f" or {', '.join(retry.on)}" if retry.on else ""
        yield Decision(
            "retry",
            f"{retry.max_attempts} attempts",
            "",
            f"of idempotent calls after a death{on}; in any 10 s at most {retry.budget:g} x the calls + {retry.min} "
            f"more than the first ones, after up to {retry.backoff:g} s, then twice as long each time, up to 1 s",
            (),
        )
    if hedge is not None:
        p95 = hedge.delay == "p95"
        slow = "that take longer than 95 % of their method's" if p95 else f"without an answer after {hedge.delay:g} s"
        yield Decision(
            "hedge",
            "after p95" if p95 else f"after {hedge.delay:g} s",
            "",
            f"calls of idempotent methods {slow} get a second attempt on another replica that has a free slot, within "
            "the budget of retries",
            (),
        )
    if breaker is not None:
        yield Decision(
            "breaker",
            f"{breaker.failures} failures",
            "",
            f"in a row within {breaker.window:g} s have calls refused for {breaker.open:g} s; then {breaker.probes} "
            "may show that the service works",
            (),
        )
    if outlier is not None:
        yield Decision(
            "outlier",
            f"{outlier.consecutive} failures",
            "",
            f"in a row at a replica, or durations far above its peers' in {outlier.interval:g} s, leave it "
            f"without calls for {outlier.base_ejection:g} to {outlier.max_ejection:g} s; "
            f"at most {outlier.max_percent:g} % of them at a time",
            (),
        )


#: What a full queue does, by the value of `overload`.
_WHEN_FULL: Final = {
    "block": "makes callers wait",
    "reject": "refuses calls",
    "shed_oldest": "ends the call that has waited longest, for the new one",
    "priority": "ends the waiting call with the lowest priority, for one with a higher",
}


def _recycling(config: Any) -> Iterator[Decision]:
    """Yield the decision when healthy replicas are replaced, if the service recycles them."""
    if config.recycle is None:
        return
    said = RecyclePolicy(**config.recycle)
    limits = (
        None if said.max_calls is None else counted(said.max_calls, "call"),
        None if said.max_memory_mb is None else f"{said.max_memory_mb:g} MiB",
        None if said.max_age is None else f"{said.max_age:g} s",
    )
    what = " or ".join(filter(None, limits))
    how = "then a fresh replica starts in its place, and the old one stops once that is ready; one at a time"
    yield Decision("recycle", what, "", how, ())


def _queue(config: Any) -> Decision:
    full = f"a full queue {_WHEN_FULL[config.overload]}"
    limit = f"{counted(config.queue_size, 'call')} may wait, per calling process"
    return Decision("queue", config.overload, "", f"{limit}; {full}", (Explanation(limit, "enforced"),))


def _timeouts(composition: Composition, said: Sequence[str]) -> Iterator[str]:
    """Yield what a timeout can stop, in the strategy's words, or else from the strategy's capabilities."""
    timeout = composition.config.timeout
    own = [method for method in composition.methods if method.name in composition.config.methods]
    yield "no time limit" if timeout is None else f"{timeout:g} s from call to answer, waiting included"
    yield from (
        f"{method.name}: {'no time limit' if method.timeout == float('inf') else f'{method.timeout:g} s'}"
        for method in own
        if "timeout" in composition.config.methods[method.name]
    )
    yield "a call that still waits never starts"
    if composition.config.timeout_strength == "kill":
        yield "kill: the replica of a call that still runs is killed, and another one takes its place"
        yield "a coroutine or a generator first gets a second to stop"
        if "one_at_a_time" not in composition.strategy.registration.capabilities:
            yield "the other calls that run there end with ReplicaDiedError; idempotent ones may be retried"
    elif said:
        yield from said
    elif "releases_at_deadline" in composition.strategy.registration.capabilities:
        yield f"its caller is released; '{composition.strategy.id}' does not say whether the method stops"
    else:
        yield f"under '{composition.strategy.id}' a running method may hold its caller until it ends"


def _places(composition: Composition) -> list[ReplicaPlan]:
    target = composition.target
    specs = [composition.spec(index) for index in range(composition.config.first_replicas)]
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
    Return the plans of the replicas from the places that a target returned.

    Raises:
        ValueError: Number of places differs from the number of replicas.
        TypeError: A place is neither Placed nor Refused.
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
