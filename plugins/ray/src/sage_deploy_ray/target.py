"""The Ray targets: place replicas on nodes of a Ray cluster, and run each replica as an actor."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.cluster import connection as cluster
from sage_deploy_ray.cluster import pending_reasons
from sage_deploy_ray.cluster.certificates import check_certificates
from sage_deploy_ray.placement import this_machine
from sage_deploy_ray.placement.selectors import selector_for
from sage_deploy_remote.placement.decision import Running, Spot, needs, place
from sage_deploy_remote.placement.nodes import Resources, unique_names
from sage_deploy_remote.reach.target import DirectoryTarget
from sage_deploy_remote.shipping.specs import problems as spec_problems
from sage_plugins.errors import DeployError
from sage_plugins.interfaces import NodeView
from sage_plugins.values import Placed, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_ray.actors.transport import RayTransport
    from sage_deploy_ray.detached.services import DetachedServices
    from sage_deploy_ray.directory.ray_directory import RayDirectory
    from sage_deploy_ray.options import ClusterGroupOptions, RayOptions
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.replica import RemoteReplica
    from sage_deploy_remote.placement.nodes import Node
    from sage_deploy_remote.reach.snapshot import ReplicaSnapshot
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import ReplicaEvents
    from sage_plugins.values import ReplicaSpec

__all__ = ["RayTarget"]

#: Threads of an actor that serve `exchange`. Slightly fewer calling processes can use one replica.
_EXCHANGE_THREADS: Final = 64

#: The longest time, in seconds, until the cluster reports freed resources as free.
_FREEING_S: Final = 3.0
_POLL_INTERVAL_S: Final = 0.05

#: Seconds until the cluster notices that a node is gone. Ray's defaults give 15.
_NODE_DEATH_DETECTION_S: Final = 20.0


class _Reservation(NamedTuple):
    """Resources that a replica of this process takes from a node. The cluster reports them a moment later."""

    replica: RemoteReplica
    need: Resources


class _Reservations:
    """Resources that all services of this process have reserved, by node. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_node: defaultdict[str, list[_Reservation]] = defaultdict(list)
        self._freed_at = -_FREEING_S

    def reserve(self, node_id: str, replica: RemoteReplica, need: Resources) -> None:
        with self._lock:
            self._by_node[node_id].append(_Reservation(replica, need))

    def note_freed(self) -> None:
        """Note that a replica has ended. The cluster still counts its resources as taken for a moment."""
        with self._lock:
            self._freed_at = time.monotonic()

    @property
    def is_freeing(self) -> bool:
        """Whether the cluster may still report freed resources as taken."""
        with self._lock:
            return time.monotonic() - self._freed_at < _FREEING_S

    def with_reservations(self, node: Node) -> Node:
        """
        Return *node* with its free resources limited to what this process has not reserved.

        The cluster's own numbers may not include the newest reservations yet.
        """
        with self._lock:
            held = self._by_node[node.id] = [each for each in self._by_node[node.id] if not each.replica.gone]
        taken = [sum(amounts) for amounts in zip(*(each.need for each in held), strict=True)] or [0, 0, 0]
        pairs = zip(node.free, node.total, taken, strict=True)
        return node._replace(free=Resources(*(min(free, total - ours) for free, total, ours in pairs)))


_RESERVATIONS: Final = _Reservations()


class _Suspects:
    """
    Nodes on which a replica could not be reached.

    A node may be gone before the cluster knows. A replica placed there would wait until the cluster notices.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # node ID to the time until which it is avoided

    def add(self, node_id: str) -> None:
        self._until[node_id] = time.monotonic() + _NODE_DEATH_DETECTION_S

    def __contains__(self, node: Node) -> bool:
        return time.monotonic() < self._until.get(node.id, 0.0)


_SUSPECTS: Final = _Suspects()


class RayTarget(DirectoryTarget):
    """
    Target that places replicas on nodes of a Ray cluster and starts each one as an actor.

    Thread-safe. It connects when it needs the cluster. A plan for a private runtime does not start that runtime.
    """

    def __init__(self, target_id: str, options: ClusterGroupOptions | None, environment: RayOptions) -> None:
        """
        Prepare the target. Connects to nothing.

        Args:
            target_id: The target's ID, which decides how nodes are selected.
            options: The service's options for this target.
            environment: Options that name the cluster.
        """
        self._target_id = target_id
        self._options = options
        self._environment = environment
        self._lock = threading.Lock()
        self._connection: cluster.Connection | None = None  # this and the next line: guarded by _lock
        self._dispatcher: Dispatcher | None = None
        self._detached: DetachedServices | None = None  # set if the environment's replicas outlive this process
        self._node_ids: dict[str, str] = {}  # replica ID to node ID
        self._replicas: list[tuple[str, RemoteReplica]] = []  # node ID and replica; gone ones are dropped

    def _connect(self) -> cluster.Connection:
        with self._lock:
            if self._connection is None:
                options = self._environment
                self._connection = cluster.connect(
                    address=options.address,
                    namespace=options.namespace,
                    control_timeout=options.control_timeout,
                    auth=options.auth,
                )
            return self._connection

    # -- placement ---------------------------------------------------------------------------------------------------

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """
        As `Target.place`. Nodes on which a replica was recently unreachable are used last.

        Raises:
            ClusterUnavailableError: The cluster did not report its nodes.
        """
        if self._connection is None and cluster.would_start_private_runtime(self._environment.address):
            return self._place(specs, [this_machine.node()])
        while True:
            nodes = [_RESERVATIONS.with_reservations(node) for node in self._connect().nodes()]
            places = self._place_avoiding_suspects(specs, nodes)
            busy = any(isinstance(each, Refused) and each.rule == "E806" for each in places)
            if not (busy and _RESERVATIONS.is_freeing):
                return places
            time.sleep(_POLL_INTERVAL_S)  # the cluster sends no notice of freed resources

    def nodes(self) -> list[NodeView]:
        """
        As `ListingTarget.nodes`.

        Raises:
            ClusterUnavailableError: The cluster did not report its nodes.
        """
        if self._connection is None and cluster.would_start_private_runtime(self._environment.address):
            nodes = [this_machine.node()]
        else:
            nodes = [_RESERVATIONS.with_reservations(node) for node in self._connect().nodes()]
        names = unique_names(nodes)
        return [
            NodeView(
                names[node.id],
                (node.free.cpu, node.total.cpu),
                (node.free.gpu, node.total.gpu),
                (node.free.memory, node.total.memory),
                node.labels,
            )
            for node in nodes
        ]

    def _place_avoiding_suspects(self, specs: Sequence[ReplicaSpec], nodes: Sequence[Node]) -> list[Placed | Refused]:
        """Place replicas on nodes that are not suspects. Use any node if those do not suffice."""
        why = "a replica there could not be reached a moment ago"
        suspects = {node.name: why for node in nodes if node in _SUSPECTS}
        if not suspects:
            return self._place(specs, nodes)
        found: list[Placed | Refused] = []
        for each in self._place(specs, [node for node in nodes if node not in _SUSPECTS]):
            if isinstance(each, Refused):
                return self._place(specs, nodes)
            found.append(each._replace(refused={**each.refused, **suspects}))
        return found

    def _place(self, specs: Sequence[ReplicaSpec], nodes: Sequence[Node]) -> list[Placed | Refused]:
        if not specs:
            return []
        wrong = spec_problems(specs[0], RAY)  # all specs are of one service
        if wrong:
            reason = "; ".join(f"{problem.message} ({problem.fix})" for problem in wrong)
            return [Refused(reason, rule="E703")] * len(specs)
        selector = selector_for(self._target_id, specs[0].config, self._options, self._environment)
        with self._lock:
            self._replicas = [(id, replica) for id, replica in self._replicas if not replica.gone]
            running = [Running(id, replica.index) for id, replica in self._replicas]
        places: list[Placed | Refused] = []
        for spec, found in zip(specs, place(specs, nodes, selector, running), strict=True):
            if isinstance(found, Spot):
                self._node_ids[spec.id] = found.node_id
                places.append(found.placed)
            else:
                places.append(found)
        return places

    # -- starting ----------------------------------------------------------------------------------------------------

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> RemoteReplica:
        """As `Target.start`. The first call connects, which may take as long as starting a private runtime."""
        tls = self._environment.tls
        check_certificates(tls)
        self._connect()
        node_id = self._node_ids.pop(spec.id)
        if node_id == this_machine.ID:  # the plan was made before the runtime started
            (found,) = self.place([spec])
            if isinstance(found, Refused):
                raise DeployError(f"replica {spec.id} cannot be placed: {found}", service=spec.service, replica=spec.id)
            at, node_id = found, self._node_ids.pop(spec.id)
        from sage_deploy_ray.actors.transport import RayTransport
        from sage_deploy_ray.detached.transport import DetachedTransport

        need, detached, options = needs(spec.config), self._detached, self._environment
        gone = partial(_on_replica_gone, node_id)
        pending_reason = partial(self._pending_reason, at.node or node_id, node_id, need)
        if detached is None:
            make = partial(_start_actor, need, node_id, tls)
            transport = RayTransport(make, at.node, options, self._get_dispatcher(spec), gone, pending_reason)
        else:
            detached.check()
            name = {"name": detached.name_for(spec), "namespace": self._environment.namespace, "lifetime": "detached"}
            make = partial(_start_actor, need, node_id, tls, **name)
            transport_arguments = make, at.node, options, self._get_dispatcher(spec), gone, pending_reason
            transport = DetachedTransport(*transport_arguments, detached=detached)
        return self._create_replica(spec, at.node, node_id, events, clock, transport)

    def adopt(self, spec: ReplicaSpec, earlier: ReplicaSnapshot, events: ReplicaEvents, clock: Clock) -> RemoteReplica:
        """As `PublishingTarget.adopt`."""
        from sage_deploy_ray.detached.transport import AdoptedTransport

        assert self._detached is not None  # noqa: S101 - for the type checker: `keeper` was called before
        actor, node_id = earlier.address
        gone = partial(_on_replica_gone, node_id)
        transport_arguments = lambda: actor, earlier.node, self._environment, self._get_dispatcher(spec), gone
        transport = AdoptedTransport(*transport_arguments, detached=self._detached)
        return self._create_replica(spec, earlier.node, node_id, events, clock, transport)

    def _get_dispatcher(self, spec: ReplicaSpec) -> Dispatcher:
        from sage_deploy_remote.link.dispatcher import Dispatcher

        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(spec.service)
            return self._dispatcher

    def _create_replica(  # noqa: PLR0913, PLR0917 - a replica needs them all
        self,
        spec: ReplicaSpec,
        node: str | None,
        node_id: str,
        events: ReplicaEvents,
        clock: Clock,
        transport: RayTransport,
    ) -> RemoteReplica:
        """Create the replica that *transport* leads to, and count its resources as reserved."""
        from sage_deploy_remote.link.replica import RemoteReplica

        replica = RemoteReplica(spec, node, events, clock, transport)
        _RESERVATIONS.reserve(node_id, replica, needs(spec.config))
        with self._lock:
            self._replicas.append((node_id, replica))
        return replica

    def keeper(self, environment: str, name: str) -> DetachedServices | None:
        """As `DetachingTarget.keeper`."""
        if self._environment.lifetime != "detached":
            return None
        from sage_deploy_ray.detached.services import DetachedServices

        with self._lock:
            if self._detached is None:
                self._detached = DetachedServices(self._connect, self._environment, environment, name)
            return self._detached

    def _pending_reason(self, name: str, node_id: str, need: Resources, actor: Any, timeout: float) -> str:
        """Say what *actor* waits for on its node before its process runs."""

        def ask() -> str:
            state = pending_reasons.state_of(actor._actor_id.hex())  # noqa: SLF001 - no public way to the ID
            node = next((each for each in cluster.live_nodes() if each.id == node_id), None)
            return pending_reasons.why_waiting(state, name, node, need)

        return self._connect().ask("what a replica waits for", ask, timeout=timeout)

    def directory(self, environment: str) -> RayDirectory:
        """As `PublishingTarget.directory`."""
        from sage_deploy_ray.directory.ray_directory import RayDirectory

        if self._detached is not None:
            return RayDirectory(environment, self._environment, process=None, connect=self._connect)
        return RayDirectory(environment, self._environment, connect=self._connect)

    def close(self) -> None:
        """As `Target.close`."""
        with self._lock:
            connection, self._connection = self._connection, None
            dispatcher, self._dispatcher = self._dispatcher, None
            detached, self._detached = self._detached, None
        if detached is not None:
            detached.release()
        if dispatcher is not None:
            dispatcher.close()
        if connection is not None:
            connection.release()


def _on_replica_gone(node_id: str, unreachable: bool) -> None:  # noqa: FBT001 - the transport calls it this way
    """Note that a replica on the node has ended or cannot be reached."""
    _RESERVATIONS.note_freed()
    if unreachable:
        _SUSPECTS.add(node_id)


def _start_actor(need: Resources, node_id: str, tls: Certificates | None, **name: str) -> Any:
    """Create an actor on the node, with the name and lifetime in *name*. Returns before the actor runs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from sage_deploy_ray.actors.replica_actor import GROUPS, ReplicaActor

    # Ray must not restart or retry anything. The supervisor does, because it knows what may run twice.
    return (
        ray.remote(concurrency_groups=GROUPS)(ReplicaActor)  # type: ignore[call-overload] # its stub lacks them
        .options(
            num_cpus=need.cpu,
            num_gpus=need.gpu,
            memory=need.memory or None,
            max_concurrency=_EXCHANGE_THREADS,
            max_restarts=0,
            max_task_retries=0,
            enable_task_events=False,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            **name,
        )
        .remote(max(1, int(need.cpu)), tls)
    )
