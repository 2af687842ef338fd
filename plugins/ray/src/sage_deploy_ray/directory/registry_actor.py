"""The registry of detached services: their listings, their specs, and the processes that hold them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from sage_deploy_ray.directory.directory_actor import DirectoryActor
from sage_deploy_remote.shipping import versions

if TYPE_CHECKING:
    from sage_deploy_remote.payloads.payload import Payload

__all__ = ["REGISTRY", "Deployment", "Held", "RegistryActor"]

#: Name of the actor. Each protocol version has its own, because they cannot read each other's messages.
REGISTRY: Final = f"sage-deploy-registry-{versions.NUMBER}"

#: Namespace for the holders in the store of the cluster's head.
_STORE: Final = b"sage-deploy"

#: A process that has not renewed its lease for this many seconds is considered dead.
_LEASE_S: Final = 10.0


class Held(NamedTuple):
    """
    Says who holds an environment.

    Attributes:
        other: Describes the holder; empty if it is the process that asked.
        memory_id: ID of this registry's memory. If it changes, the registry has lost what it was told.
    """

    other: str
    memory_id: str


class Deployment(NamedTuple):
    """
    What the registry remembers about a service.

    Attributes:
        id: ID of the deployment.
        spec: What its replicas are made from, as packed by `shipping.pack_spec`.
        listing: Its `Listing` as a payload; None if it was never ready.
    """

    id: str
    spec: bytes
    listing: Payload | None


class HolderStore:
    """
    Stores the holder of each environment in the cluster's head, where it outlives the registry.

    Each namespace has one. The registry writes when a holder changes; its successor reads.
    """

    def __init__(self, namespace: str) -> None:
        self._key = f"{REGISTRY}/{namespace}".encode()

    def load(self) -> dict[str, tuple[str, str]]:
        """Return the ID and text of each holder, by environment."""
        found = self._store()._internal_kv_get(self._key, namespace=_STORE)  # noqa: SLF001 - there is no public way
        return {} if found is None else {name: (id, text) for name, (id, text) in json.loads(found).items()}

    def save(self, holders: dict[str, tuple[str, str]]) -> None:
        """Replace the stored holders with *holders*."""
        kept = json.dumps(holders).encode()
        self._store()._internal_kv_put(self._key, kept, overwrite=True, namespace=_STORE)  # noqa: SLF001 - as above

    def _store(self) -> Any:
        from ray.experimental import internal_kv

        return internal_kv


class _Holder:
    def __init__(self, id: str, text: str) -> None:
        self.id = id
        self.text = text
        self.expires_at = 0.0
        self.renewed = asyncio.Event()

    def renew(self, now: float) -> None:
        self.expires_at = now + _LEASE_S
        self.renewed.set()
        self.renewed = asyncio.Event()


class RegistryActor(DirectoryActor):
    """
    A directory for all environments of its namespace. It lives as long as the cluster.

    If it dies, Ray restarts it without its memory. Each holder then repeats all it has said. Without a holder, the
    replicas still have their specs. Only the holders themselves are stored, so nobody can take over from a live holder.
    """

    def __init__(self, namespace: str) -> None:
        """Create a registry that knows only the holders of the environments of *namespace*."""
        super().__init__()
        self._store = HolderStore(namespace)
        self._memory_id = uuid4().hex
        self._deployments: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._holders: dict[str, _Holder] = {}
        for environment, (holder, text) in self._store.load().items():
            current = self._holders[environment] = _Holder(holder, text)
            current.renew(time.monotonic())  # gives the holder time to renew

    async def hold(self, environment: str, holder: str, text: str, wait_s: float = 0.0) -> Held:
        """
        Take an environment, or renew its lease. Nobody else may start or stop its replicas while it is held.

        Args:
            environment: Its ID.
            holder: ID of the caller.
            text: Describes the caller, for others.
            wait_s: Seconds to wait for another holder that may have died. The wait ends when that holder renews.
        """
        deadline = time.monotonic() + wait_s
        while (other := self._holders.get(environment)) is not None and other.id != holder:
            left = min(deadline, other.expires_at) - time.monotonic()
            if time.monotonic() >= other.expires_at:
                break
            if left <= 0:
                return Held(other.text, self._memory_id)
            try:
                await asyncio.wait_for(other.renewed.wait(), left)
            except TimeoutError:
                continue
            return Held(other.text, self._memory_id)
        current = self._holders.get(environment)
        if current is None or current.id != holder:
            current = self._holders[environment] = _Holder(holder, text)
            self._save()
        current.renew(time.monotonic())
        return Held("", self._memory_id)

    async def holder(self, environment: str) -> str:
        """Describe the process that holds an environment; empty for none."""
        current = self._holders.get(environment)
        return "" if current is None or time.monotonic() >= current.expires_at else current.text

    async def release(self, environment: str, holder: str) -> None:
        """Release an environment."""
        current = self._holders.get(environment)
        if current is not None and current.id == holder:
            del self._holders[environment]
            self._save()

    def _save(self) -> None:
        self._store.save({environment: (each.id, each.text) for environment, each in self._holders.items()})

    async def deployed(self, environment: str, service: str, deployment: str, spec: bytes) -> None:
        """Remember a service from the start of its first replica until it stops; see `Deployment`."""
        self._deployments[environment, service] = deployment, spec

    async def deployments(self, environment: str) -> dict[str, Deployment]:
        """Return what is remembered of an environment's services, by name."""
        return {
            service: Deployment(*found, self._listing(environment, service))
            for (where, service), found in self._deployments.items()
            if where == environment
        }

    def _listing(self, environment: str, service: str) -> Payload | None:
        entry = self._entries.get((environment, service))
        return None if entry is None or entry.over else entry.listing

    async def publish(
        self, environment: str, service: str, rank: tuple[int, int], listing: Payload, *, over: bool
    ) -> None:
        """As `DirectoryActor.publish`. A stopped service is no longer remembered as a deployment."""
        await super().publish(environment, service, rank, listing, over=over)
        key = environment, service
        if over and self._entries[key].rank == rank:
            self._deployments.pop(key, None)
