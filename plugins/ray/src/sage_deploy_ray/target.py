"""Replicas in Ray actors, each on the node where placement has put it."""

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

#: Threads of an actor for exchanges: so many calling processes, less a few, can use one replica.
_EXCHANGES: Final = 64

#: Seconds that a cluster takes, at most, to say that what was reserved is free again.
_FREES_WITHIN_S: Final = 3.0
_LOOK_AGAIN_S: Final = 0.05

#: Seconds that a cluster takes to notice that a node is gone; with Ray's defaults 15.
_NOTICES_WITHIN_S: Final = 20.0


class _Reservation(NamedTuple):
    """What a replica of this process takes from a node; the cluster says so a moment later."""

    replica: RemoteReplica
    need: Resources


class _Ledger:
    """What all services of this process have reserved, by node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_node: defaultdict[str, list[_Reservation]] = defaultdict(list)
        self._freed_at = -_FREES_WITHIN_S

    def reserve(self, node_id: str, replica: RemoteReplica, need: Resources) -> None:
        with self._lock:
            self._by_node[node_id].append(_Reservation(replica, need))

    def freed(self) -> None:
        """A replica has ended: the cluster will find its resources free, but has not yet."""
        with self._lock:
            self._freed_at = time.monotonic()

    @property
    def frees(self) -> bool:
        """Whether the cluster may still count something as reserved that is not."""
        with self._lock:
            return time.monotonic() - self._freed_at < _FREES_WITHIN_S

    def corrected(self, node: Node) -> Node:
        """*node* with no more free than what is not reserved from here."""
        with self._lock:
            held = self._by_node[node.id] = [each for each in self._by_node[node.id] if not each.replica.gone]
        taken = [sum(amounts) for amounts in zip(*(each.need for each in held), strict=True)] or [0, 0, 0]
        pairs = zip(node.free, node.total, taken, strict=True)
        return node._replace(free=Resources(*(min(free, total - ours) for free, total, ours in pairs)))


_LEDGER: Final = _Ledger()


class _Suspects:
    """
    Nodes on which a replica could not be reached.

    They may be gone without the cluster knowing it yet: what is placed there would wait until it does.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # by node

    def add(self, node_id: str) -> None:
        self._until[node_id] = time.monotonic() + _NOTICES_WITHIN_S

    def __contains__(self, node: Node) -> bool:
        return time.monotonic() < self._until.get(node.id, 0.0)


_SUSPECTS: Final = _Suspects()


class RayTarget(DirectoryTarget):
    """
    Places replicas on nodes of a Ray cluster and starts each as an actor there.

    Safe from any thread. Connects when it needs the cluster: a plan for a private runtime starts none.
    """

    def __init__(self, rule: str, options: ClusterGroupOptions | None, environment: RayOptions) -> None:
        """
        Prepare; connects to nothing.

        Args:
            rule: The target's ID, which says how nodes are selected.
            options: The service's options for it.
            environment: Which cluster.
        """
        self._rule = rule
        self._options = options
        self._environment = environment
        self._lock = threading.Lock()
        self._connection: cluster.Connection | None = None  # guarded by _lock, as the next
        self._dispatcher: Dispatcher | None = None
        self._detached: DetachedServices | None = None  # if the environment's replicas outlive this process
        self._spots: dict[str, str] = {}  # node's ID by replica's
        self._replicas: list[tuple[str, RemoteReplica]] = []  # with the node's ID; those that are gone are dropped

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

    # -- where -------------------------------------------------------------------------------------------------------

    def place(self, specs: Sequence[ReplicaSpec]) -> Sequence[Placed | Refused]:
        """
        As `Target.place`. Nodes on which a replica could not be reached a moment ago are the last choice.

        Raises:
            ClusterUnavailableError: The cluster does not say which nodes it has.
        """
        if self._connection is None and cluster.would_be_private(self._environment.address):
            return self._place(specs, [this_machine.node()])
        while True:
            nodes = [_LEDGER.corrected(node) for node in self._connect().nodes()]
            places = self._place_safely(specs, nodes)
            busy = any(isinstance(each, Refused) and each.rule == "E806" for each in places)
            if not (busy and _LEDGER.frees):
                return places
            time.sleep(_LOOK_AGAIN_S)  # the cluster gives no notice

    def nodes(self) -> list[NodeView]:
        """
        As `ListingTarget.nodes`.

        Raises:
            ClusterUnavailableError: The cluster does not say which nodes it has.
        """
        if self._connection is None and cluster.would_be_private(self._environment.address):
            nodes = [this_machine.node()]
        else:
            nodes = [_LEDGER.corrected(node) for node in self._connect().nodes()]
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

    def _place_safely(self, specs: Sequence[ReplicaSpec], nodes: Sequence[Node]) -> list[Placed | Refused]:
        """Places on nodes that are not suspects, or on any if there are not enough of those."""
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
        wrong = spec_problems(specs[0], RAY)  # of one service, so all are alike
        if wrong:
            reason = "; ".join(f"{problem.message} ({problem.fix})" for problem in wrong)
            return [Refused(reason, rule="E703")] * len(specs)
        selector = selector_for(self._rule, specs[0].config, self._options, self._environment)
        with self._lock:
            self._replicas = [(id, replica) for id, replica in self._replicas if not replica.gone]
            running = [Running(id, replica.index) for id, replica in self._replicas]
        places: list[Placed | Refused] = []
        for spec, found in zip(specs, place(specs, nodes, selector, running), strict=True):
            if isinstance(found, Spot):
                self._spots[spec.id] = found.node_id
                places.append(found.placed)
            else:
                places.append(found)
        return places

    # -- starting ----------------------------------------------------------------------------------------------------

    def start(self, spec: ReplicaSpec, at: Placed, events: ReplicaEvents, clock: Clock) -> RemoteReplica:
        """As `Target.start`; the first one connects, which may take as long as starting a private runtime."""
        tls = self._environment.tls
        check_certificates(tls)
        self._connect()
        node_id = self._spots.pop(spec.id)
        if node_id == this_machine.ID:  # planned before there was a runtime
            (found,) = self.place([spec])
            if isinstance(found, Refused):
                raise DeployError(f"replica {spec.id} cannot be placed: {found}", service=spec.service, replica=spec.id)
            at, node_id = found, self._spots.pop(spec.id)
        from sage_deploy_ray.actors.transport import RayTransport
        from sage_deploy_ray.detached.transport import DetachedTransport

        need, detached, options = needs(spec.config), self._detached, self._environment
        gone = partial(_gone, node_id)
        waits_for = partial(self._waits_for, at.node or node_id, node_id, need)
        if detached is None:
            make = partial(_start_actor, need, node_id, tls)
            transport = RayTransport(make, at.node, options, self._threads(spec), gone, waits_for)
        else:
            detached.check()
            name = {"name": detached.name_for(spec), "namespace": self._environment.namespace, "lifetime": "detached"}
            make = partial(_start_actor, need, node_id, tls, **name)
            way = make, at.node, options, self._threads(spec), gone, waits_for
            transport = DetachedTransport(*way, detached=detached)
        return self._replica(spec, at.node, node_id, events, clock, transport)

    def adopt(self, spec: ReplicaSpec, earlier: ReplicaSnapshot, events: ReplicaEvents, clock: Clock) -> RemoteReplica:
        """As `PublishingTarget.adopt`."""
        from sage_deploy_ray.detached.transport import AdoptedTransport

        assert self._detached is not None  # noqa: S101 - for the type checker: it was asked what there is
        actor, node_id = earlier.address
        gone = partial(_gone, node_id)
        way = lambda: actor, earlier.node, self._environment, self._threads(spec), gone
        transport = AdoptedTransport(*way, detached=self._detached)
        return self._replica(spec, earlier.node, node_id, events, clock, transport)

    def _threads(self, spec: ReplicaSpec) -> Dispatcher:
        from sage_deploy_remote.link.dispatcher import Dispatcher

        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(spec.service)
            return self._dispatcher

    def _replica(  # noqa: PLR0913, PLR0917 - what a replica has
        self,
        spec: ReplicaSpec,
        node: str | None,
        node_id: str,
        events: ReplicaEvents,
        clock: Clock,
        transport: RayTransport,
    ) -> RemoteReplica:
        """Have the replica to which *transport* leads, and count what it takes."""
        from sage_deploy_remote.link.replica import RemoteReplica

        replica = RemoteReplica(spec, node, events, clock, transport)
        _LEDGER.reserve(node_id, replica, needs(spec.config))
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

    def _waits_for(self, name: str, node_id: str, need: Resources, actor: Any, timeout: float) -> str:
        """What *actor* waits for on its node before its process runs."""

        def look() -> str:
            state = pending_reasons.state_of(actor._actor_id.hex())  # noqa: SLF001 - there is no other way to its ID
            node = next((each for each in cluster.live_nodes() if each.id == node_id), None)
            return pending_reasons.why_waiting(state, name, node, need)

        return self._connect().ask("what a replica waits for", look, timeout=timeout)

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


def _gone(node_id: str, unreachable: bool) -> None:  # noqa: FBT001 - as the transport tells it
    """A replica on the node has ended, or cannot be reached."""
    _LEDGER.freed()
    if unreachable:
        _SUSPECTS.add(node_id)


def _start_actor(need: Resources, node_id: str, tls: Certificates | None, **name: str) -> Any:
    """A new actor on the node, with what *name* says of its name and life; returns at once, before it runs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from sage_deploy_ray.actors.replica_actor import GROUPS, ReplicaActor

    # Ray restarts nothing and tries nothing again: that is the supervisor's, which knows what may run twice.
    return (
        ray.remote(concurrency_groups=GROUPS)(ReplicaActor)  # type: ignore[call-overload] # its stub lacks them
        .options(
            num_cpus=need.cpu,
            num_gpus=need.gpu,
            memory=need.memory or None,
            max_concurrency=_EXCHANGES,
            max_restarts=0,
            max_task_retries=0,
            enable_task_events=False,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            **name,
        )
        .remote(max(1, int(need.cpu)), tls)
    )
