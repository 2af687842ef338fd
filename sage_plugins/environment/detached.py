"""Finds services that outlive the process that deployed them, and checks before this process takes one over."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import ConfigError, DeployError, SageDeployError
from sage_plugins.planning.environment_options import environment_options
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sage_plugins.environment.services import Services
    from sage_plugins.interfaces import DetachingTarget, EarlierService, Keeper, KeptService
    from sage_plugins.planning.composition import Composition
    from sage_plugins.plugins.registry import Registry

__all__ = ["DetachedStatus", "check_same_settings", "keeping_targets"]

#: Seconds between a failed look and the next one.
_LOOK_AGAIN_S: Final = 5.0


def keeping_targets(registry: Registry, options: Mapping[str, Mapping[str, Any]]) -> Iterator[DetachingTarget]:
    """
    Yield a target of each plugin whose replicas can outlive the process that deploys them. The caller closes it.

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
        # Targets that share their environment options also share what they keep.
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


def check_same_settings(composition: Composition, earlier: EarlierService) -> None:
    """
    Check that the running service has the same settings as *composition*.

    Code is not compared: replicas keep the code that they were started with until they are restarted.

    Raises:
        DeployError: The running service has other settings.
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


class DetachedStatus:
    """Reads the published state of services that outlive processes. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._keepers: Sequence[tuple[DetachingTarget, Keeper]] | None = None  # guarded by _lock, as the next two
        self._look_at = 0.0
        self._problem = ""

    def look(self) -> tuple[dict[str, dict[str, Any]], str]:
        """Return the status of each such service by name, and why none is known, or ""."""
        with self._lock:
            now = self._services.clock.monotonic()
            if self._services.closed or not self._services.catalogue.environment_options:
                return {}, ""
            if now < self._look_at:
                return {}, self._problem
            found: dict[str, KeptService] = {}
            try:
                self._keepers = self._services.keepers() if self._keepers is None else self._keepers
                for _, keeper in self._keepers:
                    found |= keeper.look()
            except SageDeployError as error:
                self._look_at, self._problem = now + _LOOK_AGAIN_S, str(error)
                return {}, self._problem
        return {name: _status(name, each) for name, each in found.items()}, ""

    def close(self) -> None:
        """Close the targets; `look` finds nothing from now on."""
        with self._lock:
            for target, _ in self._keepers or ():
                target.close()
            self._keepers = ()


def _status(name: str, kept: KeptService) -> dict[str, Any]:
    replicas = len(kept.replicas)
    is_ready = kept.places is not None and replicas >= kept.places
    return {
        "service_name": name,
        "state": ReplicaState.READY if is_ready else ReplicaState.UNREADY,
        "held_by": kept.held_by,
        "health": {"healthy": is_ready, "ready": replicas, "replicas": kept.places or replicas},
        "replicas": [
            {"id": each.id, "state": ReplicaState.READY, "node": each.node, "slots": each.slots}
            for each in kept.replicas
        ],
    }
