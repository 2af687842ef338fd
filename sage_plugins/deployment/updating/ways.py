"""Which changes of a configuration reach a service in place, replica by replica, or by a new service beside the old."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from sage_plugins.resilience.rollout import RolloutSettings

if TYPE_CHECKING:
    from collections.abc import Collection

    from sage_plugins.planning.composition import Composition
    from sage_plugins.values import Choice

__all__ = ["Way", "WayKind", "way_of"]

#: Settings that are changed without replacing what runs.
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

#: Settings of which only replicas that start know. All others are read by the router, the handles or the monitors too.
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


class WayKind(StrEnum):
    """How a change reaches a service that runs."""

    IN_PLACE = "in place"
    """No replica is replaced."""

    ROLL = "roll"
    """Replicas are replaced a few at a time."""

    WHOLE = "whole"
    """A new service starts beside the old one, and takes over when all its replicas are ready."""


class Way(NamedTuple):
    """
    One of them, for one service.

    Attributes:
        kind: Which.
        text: It, for people.
    """

    kind: WayKind
    text: str


def way_of(keys: Collection[str], old: Composition | None, new: Composition, *, outlives: bool = False) -> Way:
    """
    How a service comes from *old* to *new*.

    Args:
        keys: The settings that are different, as a plan has them, such as `"timeout"` or `"init.kwargs.backend"`.
        old: What runs; None if another process runs it and only the settings are known.
        new: What is configured.
        outlives: Whether the replicas outlive this process. Whoever takes them over has to find one version only.
    """
    fields = {_field_of(key, old, new) for key in keys}
    others = sorted(fields - _IN_PLACE - _OF_REPLICAS)
    why = ", ".join(others) or ("" if old is None else _difference(old, new))
    rolls = not _IN_PLACE.issuperset(fields) or ("user_config" in fields and (outlives or not _reconfigures(new)))
    if not why and not rolls:
        return Way(WayKind.IN_PLACE, "changes in place: no replica is replaced")
    if not why and outlives:
        why = "its replicas outlive this process"
    if why:
        text = f"is replaced as a whole ({why}): the old one serves until all replicas of the new one are ready"
        return Way(WayKind.WHOLE, text)
    settings = RolloutSettings.of(new.config.update)
    text = f"rolls replica by replica: surge {settings.max_surge}, unavailable {settings.max_unavailable}"
    if old is None and "class" in fields:
        text += ", if its class serves the same methods"
    return Way(WayKind.ROLL, text)


def _field_of(key: str, old: Composition | None, new: Composition) -> str:
    """The field that says what *key* says; for the options of a plugin, the one that names the plugin."""
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
    """What is different that the router, the handles or the monitors have learnt when the service began; "" if none."""
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
    """Whether replicas that run can take a changed `user_config`."""
    has_method = callable(getattr(new.factory.service_class, "reconfigure", None))
    return new.config.user_config is not None and has_method and not _runs_here(new.strategy)
