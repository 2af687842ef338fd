"""Decides how a changed configuration is applied: in place, replica by replica, or by a second service."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from sage_plugins.resilience.rollout import RolloutSettings

if TYPE_CHECKING:
    from collections.abc import Collection

    from sage_plugins.planning.composition import Composition
    from sage_plugins.values import Choice

__all__ = ["UpdateKind", "UpdatePlan", "plan_update"]

#: Settings that can change without replacing a replica.
_IN_PLACE: Final = frozenset(
    {
        "drain_timeout",
        "load_balancer",
        "load_balancing",
        "replicas",
        "startup_timeout",
        "update",
        "user_config",
    }
)

#: Settings that only replicas use, when they start. The router, the handles or the monitors use all others.
_OF_REPLICAS: Final = frozenset(
    {
        "class",
        "cpu_cores",
        "gpu_count",
        "init",
        "max_concurrency",
        "max_replicas_per_node",
        "max_thread_count",
        "memory_mb",
        "node_selector",
        "spread",
        "target_nodes",
        "thread_count",
        "thread_pool_size",
        "threading_strategy",
    }
)


class UpdateKind(StrEnum):
    """How a change is applied to a running service."""

    IN_PLACE = "in place"
    """No replica is replaced."""

    ROLL = "roll"
    """Replicas are replaced a few at a time."""

    WHOLE = "whole"
    """A second service starts, and takes over when all its replicas are ready."""


class UpdatePlan(NamedTuple):
    """
    How a change is applied to one service.

    Attributes:
        kind: The kind of change.
        text: Description for people.
    """

    kind: UpdateKind
    text: str


def plan_update(
    keys: Collection[str], old: Composition | None, new: Composition, *, outlives: bool = False
) -> UpdatePlan:
    """
    Return how a service changes from *old* to *new*.

    Args:
        keys: The settings that differ, as in a plan, such as `"timeout"` or `"init.kwargs.backend"`.
        old: The running composition; None if another process runs it and only the settings are known.
        new: The configured composition.
        outlives: Whether the replicas outlive this process. A process that takes them over must find only one version.
    """
    fields = {_field_of(key, old, new) for key in keys}
    others = sorted(fields - _IN_PLACE - _OF_REPLICAS)
    why = ", ".join(others) or ("" if old is None else _difference(old, new))
    rolls = not _IN_PLACE.issuperset(fields) or ("user_config" in fields and (outlives or not _reconfigures(new)))
    if not why and not rolls:
        return UpdatePlan(UpdateKind.IN_PLACE, "changes in place: no replica is replaced")
    if not why and outlives:
        why = "its replicas outlive this process"
    if why:
        text = f"is replaced as a whole ({why}): the old one serves until all replicas of the new one are ready"
        return UpdatePlan(UpdateKind.WHOLE, text)
    settings = RolloutSettings.of(new.config.update)
    text = f"rolls replica by replica: surge {settings.max_surge}, unavailable {settings.max_unavailable}"
    if old is None and "class" in fields:
        text += ", if its class serves the same methods"
    return UpdatePlan(UpdateKind.ROLL, text)


def _field_of(key: str, old: Composition | None, new: Composition) -> str:
    """Return the field of *key*. For an option of a plugin, return the field that names the plugin."""
    field, _, rest = key.partition(".")
    if field != "options":
        return field
    id = rest.partition(".")[0]
    for each in (new, old):
        if each is not None:
            if id in {each.target.id, each.strategy.id}:
                return "threading_strategy"
            if each.balancer is not None and id == each.balancer.id:
                return "load_balancer"
    return f"options.{id}"


def _difference(old: Composition, new: Composition) -> str:
    """Return a difference that the router, the handles or the monitors would miss, as they read it once; "" if none."""
    if old.methods != new.methods:
        return "its methods"
    if _runs_here(old.strategy) is not _runs_here(new.strategy):
        return "threading_strategy"
    if _checks(old) != _checks(new):
        return "its health checks"
    return ""


def _runs_here(strategy: Choice) -> bool:
    return "in_callers_thread" in strategy.registration.capabilities


def _checks(composition: Composition) -> set[str]:
    cls = composition.factory.service_class
    return {hook for hook in ("check_health", "check_ready") if callable(getattr(cls, hook, None))}


def _reconfigures(new: Composition) -> bool:
    """Whether running replicas can take a changed `user_config`."""
    has_method = callable(getattr(new.factory.service_class, "reconfigure", None))
    return new.config.user_config is not None and has_method and not _runs_here(new.strategy)
