"""The registry of detached services: where they are, what they are made of, and which process holds them."""

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

#: Name of the actor. Each protocol has its own: what one says to another could not be read.
REGISTRY: Final = f"sage-deploy-registry-{versions.NUMBER}"

#: Where the cluster's head keeps who holds what.
_STORE: Final = b"sage-deploy"

#: Seconds after which a process that has not said that it still holds an environment is taken for dead.
_LEASE_S: Final = 10.0


class Held(NamedTuple):
    """
    Who holds an environment.

    Attributes:
        other: The process that does, in words; empty if it is the one that asked.
        memory: Tells this registry from the one before it: when it differs, what was said is forgotten.
    """

    other: str
    memory: str


class Deployment(NamedTuple):
    """
    What is remembered of a service.

    Attributes:
        id: Which deployment of it.
        spec: What its replicas are made of, as `shipping.pack_spec` gives it.
        listing: Its `Listing` as a payload; None if it was never ready.
    """

    id: str
    spec: bytes
    listing: Payload | None


class HolderStore:
    """
    Who holds each environment, kept where it outlives the registry: in the store of the cluster's head.

    One for each namespace. Written when the holder changes, and read by the next registry.
    """

    def __init__(self, namespace: str) -> None:
        """Read nothing yet."""
        self._key = f"{REGISTRY}/{namespace}".encode()

    def load(self) -> dict[str, tuple[str, str]]:
        """ID and text of the holder, by environment."""
        found = self._store()._internal_kv_get(self._key, namespace=_STORE)  # noqa: SLF001 - there is no public way
        return {} if found is None else {name: (id, text) for name, (id, text) in json.loads(found).items()}

    def save(self, holders: dict[str, tuple[str, str]]) -> None:
        """Keep *holders* in place of what was kept before."""
        kept = json.dumps(holders).encode()
        self._store()._internal_kv_put(self._key, kept, overwrite=True, namespace=_STORE)  # noqa: SLF001 - as above

    def _store(self) -> Any:
        from ray.experimental import internal_kv

        return internal_kv


class _Holder:
    def __init__(self, id: str, text: str) -> None:
        self.id = id
        self.text = text
        self.until = 0.0
        self.renewed = asyncio.Event()

    def renew(self, now: float) -> None:
        self.until = now + _LEASE_S
        self.renewed.set()
        self.renewed = asyncio.Event()


class RegistryActor(DirectoryActor):
    """
    A directory that lives as long as the cluster, for all environments of its namespace.

    Ray starts it again if it dies, and then it knows nothing: whoever holds an environment says everything again, and
    where nobody does, the replicas know what they are. Only who holds what it knows from the one before, so that
    nobody else can take over from a holder that lives.
    """

    def __init__(self, namespace: str) -> None:
        """Make one that knows nothing but who holds the environments of *namespace*."""
        super().__init__()
        self._store = HolderStore(namespace)
        self._memory = uuid4().hex
        self._deployments: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._holders: dict[str, _Holder] = {}
        for environment, (holder, text) in self._store.load().items():
            mine = self._holders[environment] = _Holder(holder, text)
            mine.renew(time.monotonic())  # it gets the time to say that it lives

    async def hold(self, environment: str, holder: str, text: str, wait_s: float = 0.0) -> Held:
        """
        Hold an environment, or hold it on: nobody else starts or stops its replicas meanwhile.

        Args:
            environment: ID of the environment.
            holder: Who asks.
            text: The same in words, for others.
            wait_s: Seconds to wait for another one that may have died. One that says that it still holds it ends the
                wait.
        """
        until = time.monotonic() + wait_s
        while (other := self._holders.get(environment)) is not None and other.id != holder:
            left = min(until, other.until) - time.monotonic()
            if time.monotonic() >= other.until:
                break
            if left <= 0:
                return Held(other.text, self._memory)
            try:
                await asyncio.wait_for(other.renewed.wait(), left)
            except TimeoutError:
                continue
            return Held(other.text, self._memory)
        mine = self._holders.get(environment)
        if mine is None or mine.id != holder:
            mine = self._holders[environment] = _Holder(holder, text)
            self._save()
        mine.renew(time.monotonic())
        return Held("", self._memory)

    async def holder(self, environment: str) -> str:
        """The process that holds an environment, in words; empty for none."""
        mine = self._holders.get(environment)
        return "" if mine is None or time.monotonic() >= mine.until else mine.text

    async def let_go(self, environment: str, holder: str) -> None:
        """Let others hold an environment."""
        mine = self._holders.get(environment)
        if mine is not None and mine.id == holder:
            del self._holders[environment]
            self._save()

    def _save(self) -> None:
        self._store.save({environment: (each.id, each.text) for environment, each in self._holders.items()})

    async def deployed(self, environment: str, service: str, deployment: str, spec: bytes) -> None:
        """Remember what a service is, from when its first replica starts until it stops; see `Deployment`."""
        self._deployments[environment, service] = deployment, spec

    async def deployments(self, environment: str) -> dict[str, Deployment]:
        """What is remembered of the services of an environment, by name."""
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
        """As `DirectoryActor.publish`; a service that stops is no deployment any more."""
        await super().publish(environment, service, rank, listing, over=over)
        key = environment, service
        if over and self._entries[key].rank == rank:
            self._deployments.pop(key, None)
