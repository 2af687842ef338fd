"""The services of an environment of this name that another process deploys, as this one sees them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.errors import SageDeployError
from sage_plugins.values import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.environment.services import Services
    from sage_plugins.interfaces import DetachingTarget, Keeper, KeptService

__all__ = ["Elsewhere"]

#: Seconds from one look that failed to the next.
_LOOK_AGAIN_S: Final = 5.0


class Elsewhere:
    """Looks at what is kept of services that outlive processes. All methods are safe from any thread."""

    def __init__(self, services: Services) -> None:
        """Look at nothing yet; *services* are those of this environment."""
        self._services = services
        self._lock = threading.Lock()
        self._keepers: Sequence[tuple[DetachingTarget, Keeper]] | None = None  # guarded by _lock, as all that follows
        self._look_at = 0.0
        self._problem = ""

    def look(self) -> tuple[dict[str, dict[str, Any]], str]:
        """The status of each such service, by name, and why none is known if that is so."""
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
        """Look at nothing any more."""
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
