"""Taking over what an earlier process has left of a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.errors import ConfigError, DeployError
from sage_plugins.planning.environment_options import environment_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sage_plugins.interfaces import DetachingTarget, EarlierService
    from sage_plugins.planning.composition import Composition
    from sage_plugins.plugins.registry import Registry

__all__ = ["keeping_targets", "refuse_another"]


def keeping_targets(registry: Registry, options: Mapping[str, Mapping[str, Any]]) -> Iterator[DetachingTarget]:
    """
    A target of each plugin whose replicas can outlive the process that deploys them; who gets one closes it.

    Args:
        registry: The plugins.
        options: Options for the whole environment, by ID.

    Raises:
        ConfigError: The options are wrong.
    """
    seen = set()
    for (kind, _), entry in registry.entries().items():
        registration = entry.registration
        shared = registration.environment_options
        # Those that share their options for a whole environment share what they keep.
        if kind == "target" and "detaches" in registration.capabilities and (shared is None or shared.id not in seen):
            own_class = registration.options_class()
            own = None if own_class is None else own_class()
            if shared is None:
                yield registration.create(own)
                continue
            seen.add(shared.id)
            found, problems = environment_options(shared, options)
            if problems:
                raise ConfigError("\n".join(map(str, problems)), problems=problems)
            yield registration.create(own, found)


def refuse_another(composition: Composition, earlier: EarlierService) -> None:
    """
    See that the service that runs is the one that is to be deployed.

    Code is not compared: replicas go on with that which they were started with, until they are restarted.

    Raises:
        DeployError: It is configured otherwise.
    """
    from sage_plugins.config.origins import ARGUMENT
    from sage_plugins.planning.plan import changes, comparable
    from sage_plugins.planning.planner import describe

    before = composition._replace(factory=earlier.spec.factory, config=earlier.spec.config)
    old, new = (comparable(describe(each, lambda _: ARGUMENT)) for each in (before, composition))
    found = [f"{change.key} is {change.old!r:.100} there and {change.new!r:.100} here" for change in changes(old, new)]
    if found:
        msg = (
            f"service '{composition.name}' runs already, detached from the process that deployed it, with other "
            f"settings: {'; '.join(found)}. Take it over as it is with `Environment.adopt()`; then `apply()` has it "
            "run as it is configured here, and `drain()` stops it"
        )
        raise DeployError(msg, service=composition.name)
