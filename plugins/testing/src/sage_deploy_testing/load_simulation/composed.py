"""Composes the service to simulate from its configuration, without starting anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from sage_plugins.config.service_config import ServiceDeploymentConfig
from sage_plugins.errors import ServiceNotFoundError
from sage_plugins.planning.composition import compose
from sage_plugins.plugins.registry import Registry
from sage_plugins.service.factory import ServiceFactory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_plugins.environment.environment import Environment
    from sage_plugins.planning.composition import Composition
    from sage_plugins.values import Choice

__all__ = ["Config", "composed", "composition_in", "seeded", "slots_of"]

#: The types of configurations that `simulate` accepts.
Config = ServiceDeploymentConfig | Mapping[str, Any] | str | PathLike[str]


def composed(
    config: Config,
    service: str | None,
    service_class: type | None,
    methods: Iterable[str],
    registry: Registry | None,
) -> Composition:
    """
    Compose a service. Starts nothing.

    Args:
        config: A configuration, a mapping with the keys of a file's entry, or the path of a deployment file.
        service: Its name. For a file with only one service, it may be None.
        service_class: Its class, unless a file names it. None for a class with *methods*.
        methods: The methods of such a class, in addition to those that the configuration names.
        registry: The plugins. None for the installed ones.

    Raises:
        ConfigError, PlanError, UnknownPluginError, PluginError: The service cannot be composed.
        ServiceNotFoundError: The file has no such service, or it has several and none was named.
    """
    if isinstance(config, (str, os.PathLike)):
        from sage_plugins.environment.environment import Environment

        path = Path(config)
        with Environment(path.stem, registry=registry) as env:
            env.load_service_deployment_config(path)
            return composition_in(env, service)
    if not isinstance(config, ServiceDeploymentConfig):
        config = ServiceDeploymentConfig(**config)
    name = service or "service"
    served = dict.fromkeys([*methods, *config.methods])
    cls = service_class or type("SimulatedService", (), {each: _method(each) for each in served})
    found, finder = compose(ServiceFactory(name, cls), config, registry or Registry.discover())
    if found is None or finder.errors:
        raise finder.refusal()
    return found


def composition_in(env: Environment, service: str | None) -> Composition:
    """Compose a service of an environment that has loaded a file. As `composed`."""
    catalogue = env._services.catalogue  # noqa: SLF001 - it is the environment's own, and there is nothing public
    names = list(catalogue.names)
    if service is None and len(names) == 1:
        (service,) = names
    if service is None or service not in names:
        what = "it has several: name one of them" if service is None else f"it has no service {service!r}"
        msg = f"a simulation is of one service of the file, and {what}. There are: {', '.join(names) or 'none'}"
        raise ServiceNotFoundError(msg, service=service)
    return catalogue.compose(service, env.registry)[0]


def _method(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> None: ...

    method.__name__ = method.__qualname__ = name
    return method


def seeded(choice: Choice | None, seed: int) -> Choice | None:
    """Return *choice*. If it has an option `seed` that is None, set it."""
    if choice is None or not attrs.has(type(choice.options)) or getattr(choice.options, "seed", 0) is not None:
        return choice
    return choice._replace(options=attrs.evolve(choice.options, seed=seed))


def slots_of(composition: Composition) -> int:
    """
    Return how many calls one replica runs at once, as far as the configuration says.

    A strategy knows this only when it runs, so this repeats the rules of the strategies in `sage-deploy-threading`. A
    pool without a size has as many threads as it would have on this machine.
    """
    strategy, limits = composition.strategy, composition.limits
    capabilities = strategy.registration.capabilities
    if "one_at_a_time" in capabilities:
        return 1
    if "event_loop" in capabilities:
        return limits.max_concurrency
    if strategy.id == "multi":
        return limits.threads
    if limits.max_threads is not None:
        return limits.max_threads
    return limits.threads if limits.threads > 1 else min(32, (os.cpu_count() or 1) + 4)
