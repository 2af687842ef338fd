"""
The services of an environment whose replicas outlive the process that deployed them.

Two places know about them, and either is enough. The registry knows every service, even one without live replicas. The
replicas carry their service in their names, and keep the spec they were made from.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, unquote
from uuid import uuid4

from sage_deploy_ray.cluster import connection as cluster
from sage_deploy_ray.detached.lease import Lease
from sage_deploy_ray.directory.directory_client import client_for
from sage_deploy_ray.directory.registry_actor import REGISTRY
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.reach.snapshot import ReplicaSnapshot, ServiceSnapshot
from sage_deploy_remote.shipping import versions
from sage_deploy_remote.shipping.specs import unpack_spec
from sage_plugins.errors import DeployError
from sage_plugins.interfaces import KeptReplica, KeptService

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_deploy_ray.directory.registry_actor import Deployment
    from sage_deploy_ray.options import RayOptions
    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.reach.listing import Listing
    from sage_plugins.values import ReplicaSpec

__all__ = ["DetachedServices", "environment_id"]

_LOG: Final = logging.getLogger("sage_plugins.ray")

#: First part of the actor names of replicas.
_PREFIX: Final = "sage-deploy-replica"

#: Seconds for an obsolete replica to answer its callers and run its stop hooks.
_LEFTOVER_GRACE_S: Final = 1.0

#: Timeout, in seconds, for the registry's answer to `look`.
_LOOK_TIMEOUT_S: Final = 1.0

_leases: dict[tuple[str, str, str], Lease] = {}  # by (namespace, environment, holder); guarded by _lock
_lock = threading.Lock()


class _NamedReplica(NamedTuple):
    """
    A running replica, as its name describes it.

    Attributes:
        name: Its actor's name.
        service: Its service's name.
        deployment: ID of the service's deployment that it belongs to.
        index: Position among the service's replicas.
        generation: How many replicas held this position before it.
    """

    name: str
    service: str
    deployment: str
    index: int  # type: ignore[assignment] # hides tuple.index, which is not needed
    generation: int


class _DescribedReplica(NamedTuple):
    """
    A running replica, with what it reported itself.

    Attributes:
        named: What its name says.
        actor: Handle of its actor.
        spec: What it was made from, as packed by `pack_spec`. None if it does not answer or was never told.
        node: Its node's name.
        node_id: ID of its node.
    """

    named: _NamedReplica
    actor: Any
    spec: bytes | None = None
    node: str | None = None
    node_id: str = ""


def environment_id(name: str) -> str:
    """Return the ID under which the detached services of environments with that name are found, in any process."""
    return f"detached/{name}"


class DetachedServices:
    """
    The `interfaces.Keeper` of one environment. Thread-safe.

    Attributes:
        environment: ID under which its services are found.
    """

    def __init__(self, connect: Callable[[], cluster.Connection], options: RayOptions, holder: str, name: str) -> None:
        """
        Prepare the keeper. Connects to nothing.

        Args:
            connect: Returns this process's connection.
            options: Options that name the cluster and the namespace.
            holder: Unique ID of the environment in this process.
            name: The environment's name. Other processes may use the same name.
        """
        self.environment = environment_id(name)
        self._connect = connect
        self._address = options.address
        self._namespace = options.namespace
        self._control_timeout = options.control_timeout
        self._client = client_for(REGISTRY, options.namespace)
        with _lock:
            key = options.namespace, self.environment, holder
            self._lease = _leases.setdefault(
                key, Lease(self._client, self.environment, holder, options.control_timeout)
            )
        self._taken = False
        self._deployments: dict[str, str] = {}  # service to the deployment that this process continues or began

    def hold(self) -> None:
        """As `Keeper.hold`."""
        if not self._taken:
            if cluster.would_start_private_runtime(self._address):
                msg = (
                    "detached services need a Ray cluster that outlives this process, and this would start one of its "
                    "own: set options.ray.address to that of a cluster (`auto` for the one on this machine, which "
                    "`ray start --head` starts), or set options.ray.lifetime to 'driver'"
                )
                raise DeployError(msg)
            self._connect().ask("its registry of services", self._client.start)
            self._lease.take()
            self._taken = True

    def check(self) -> None:
        """
        Check that this process still holds the environment.

        Raises:
            DeployError: Another process has taken over.
            ClusterUnavailableError: The registry did not answer.
        """
        self._lease.check()

    @property
    def lost(self) -> bool:
        """Whether another process has taken over. If so, this process must not stop any replica."""
        return self._lease.lost

    def release(self) -> None:
        """Release the environment, so that other processes may hold it."""
        if self._taken:
            self._taken = False
            for service in self._deployments:
                self.forget(service)
            self._lease.release()

    # -- running services ---------------------------------------------------------------------------------------------

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """As `Keeper.deployed`."""
        self.hold()
        specs = {service: found.spec for service, found in self._remembered_deployments().items()}
        lost = [each for each in self._named_replicas() if each.service not in specs]
        for found in self._describe_replicas(lost):
            if found.spec is not None:
                specs.setdefault(found.named.service, found.spec)
        return {service: unpack_spec(spec) for service, spec in specs.items()}

    def look(self) -> Mapping[str, KeptService]:
        """As `Keeper.look`."""
        import ray

        if cluster.would_start_private_runtime(self._address):
            return {}

        def ask() -> tuple[str, Mapping[str, Deployment]]:
            try:
                registry = ray.get_actor(REGISTRY, self._namespace)
            except ValueError:  # no process has deployed anything
                return "", {}
            asked: Any = registry.holder.remote(self.environment), registry.deployments.remote(self.environment)
            holder, deployments = ray.get(list(asked))
            return holder, deployments

        holder, found = self._connect().ask("what its registry remembers", ask, timeout=_LOOK_TIMEOUT_S)
        return {service: _kept_service(holder, each.listing) for service, each in found.items()}

    def snapshot(self, service: str) -> ServiceSnapshot | None:
        """As `Keeper.snapshot`."""
        self.hold()
        remembered = self._remembered_deployments().get(service)
        found = self._describe_replicas([each for each in self._named_replicas() if each.service == service])
        deployment = _deployment_to_continue(remembered, found)
        continuing, leftover = _split_replicas(found, deployment)
        for each in leftover:
            self._end_replica(each)
        spec = remembered.spec if remembered is not None else next((each.spec for each in continuing), None)
        if spec is None:
            return None
        self._deployments[service] = deployment
        self.remember(service, spec)  # the registry may have forgotten it
        listing = None if remembered is None or remembered.listing is None else unpack(remembered.listing)
        return ServiceSnapshot(
            unpack_spec(spec),
            tuple(
                ReplicaSnapshot(each.named.index, each.named.generation, each.node, (each.actor, each.node_id))
                for each in continuing
            ),
            listing,
        )

    def _remembered_deployments(self) -> Mapping[str, Deployment]:
        import ray

        def ask() -> Any:
            asked: Any = self._client.ask("deployments", self.environment)
            return ray.get(asked)

        found: Mapping[str, Deployment] = self._connect().ask("what its registry remembers", ask)
        return found

    def _named_replicas(self) -> list[_NamedReplica]:
        from ray.util import list_named_actors

        names = self._connect().ask("the names of its actors", lambda: list_named_actors(all_namespaces=True))
        return [
            found
            for each in names
            if each["namespace"] == self._namespace and (found := self._read_name(each["name"])) is not None
        ]

    def _read_name(self, name: str) -> _NamedReplica | None:
        prefix, *parts = name.split("/")
        if prefix != _PREFIX or len(parts) != len(_NamedReplica._fields) or unquote(parts[0]) != self.environment:
            return None
        _, service, deployment, index, generation = parts
        return _NamedReplica(name, unquote(service), deployment, int(index), int(generation))

    def _describe_replicas(self, replicas: Sequence[_NamedReplica]) -> list[_DescribedReplica]:
        """Ask all the replicas at once about themselves."""
        import ray

        def ask() -> list[_DescribedReplica]:
            asked: list[tuple[_NamedReplica, Any, Any]] = []
            for named in replicas:
                with suppress(ValueError):  # the actor has ended meanwhile
                    actor = ray.get_actor(named.name, self._namespace)
                    asked.append((named, actor, actor.describe.remote()))
            ray.wait([ref for *_, ref in asked], num_returns=len(asked), timeout=self._control_timeout / 2)
            return [_DescribedReplica(named, actor, *_description_of(ref)) for named, actor, ref in asked]

        return self._connect().ask("its replicas what they are", ask) if replicas else []

    def _end_replica(self, found: _DescribedReplica) -> None:
        """End a replica that belongs to an earlier deployment, was being replaced, or does not answer."""
        import ray

        _LOG.warning("replica %s was left over from an earlier process, and is stopped", found.named.name)
        if found.spec is not None:
            with suppress(Exception):  # it is killed below in any case
                ray.get(found.actor.vacate.remote(), timeout=_LEFTOVER_GRACE_S)
            with suppress(Exception):  # as above
                ray.get(found.actor.stop.remote(_LEFTOVER_GRACE_S), timeout=2 * _LEFTOVER_GRACE_S)
        self._connect().ask("an end of a replica", lambda: ray.kill(found.actor, no_restart=True))

    # -- new replicas --------------------------------------------------------------------------------------------------

    def remember(self, service: str, spec: bytes) -> None:
        """Tell the registry what *service* is made from."""
        self._client.send(
            ("deployed", self.environment, service),
            "deployed",
            self.environment,
            service,
            self._deployment(service),
            spec,
        )

    def forget(self, service: str) -> None:
        """Tell the registry nothing more about *service*."""
        self._client.forget(("deployed", self.environment, service))
        self._client.forget((self.environment, service))

    def name_for(self, spec: ReplicaSpec) -> str:
        """Return a name for the actor of a new replica."""
        parts = [self.environment, spec.service, self._deployment(spec.service), str(spec.index), str(spec.generation)]
        return "/".join([_PREFIX, *(quote(part, safe="") for part in parts)])

    def _deployment(self, service: str) -> str:
        # Starts with the time, so the later of two deployments is known. The rest makes it unique.
        return self._deployments.setdefault(service, f"{time.time_ns():016x}-{uuid4().hex[:8]}")


def _kept_service(holder: str, listing: Payload | None) -> KeptService:
    if listing is None:
        return KeptService(holder, None, ())
    found: Listing = unpack(listing)
    replicas = [KeptReplica(each.id, each.node, each.slots) for each in found.replicas]
    return KeptService(holder, found.places, replicas)


def _description_of(ref: Any) -> tuple[bytes | None, str | None, str]:
    """
    Return what a replica reported about itself.

    Raises:
        DeployError: It speaks another protocol.
    """
    import ray

    try:
        version, spec, node, node_id = ray.get(ref, timeout=0)
    except Exception:  # noqa: BLE001 - any error of Ray means that it does not answer
        return None, None, ""
    problem = versions.difference(f"a replica on {node}", version)
    if problem:
        raise DeployError(f"the detached services cannot be taken over: {problem}")
    return spec, node, node_id


def _deployment_to_continue(remembered: Deployment | None, found: Sequence[_DescribedReplica]) -> str:
    """Return the deployment to continue: the registry's, or else the latest one with a replica that answers."""
    if remembered is not None:
        return remembered.id
    return max((each.named.deployment for each in found if each.spec is not None), default="")


def _split_replicas(
    found: Sequence[_DescribedReplica], deployment: str
) -> tuple[list[_DescribedReplica], list[_DescribedReplica]]:
    """Return the replicas to continue with (the latest at each position), and the leftover ones."""
    by_index: defaultdict[int, list[_DescribedReplica]] = defaultdict(list)
    leftover = []
    for each in found:
        if each.named.deployment == deployment and each.spec is not None:
            by_index[each.named.index].append(each)
        else:
            leftover.append(each)
    continuing = []
    for _, candidates in sorted(by_index.items()):
        *earlier, latest = sorted(candidates, key=lambda each: each.named.generation)
        continuing.append(latest)
        leftover += earlier
    return continuing, leftover
