"""
The objects that first-party plugins create fit the protocols of `sage_plugins.interfaces`.

The core uses the objects from registrations only through these protocols. So no other code would show type checkers
that a plugin lacks a method; then an assignment below fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_autoscalers.target_ongoing import TargetOngoing
from sage_deploy_balancers.consistent_hash import ConsistentHash
from sage_deploy_balancers.least_loaded import LeastLoaded
from sage_deploy_balancers.options import ConsistentHashOptions, RandomOptions
from sage_deploy_balancers.random_choice import PowerOfTwo, RandomChoice
from sage_deploy_balancers.round_robin import RoundRobin
from sage_deploy_files.reading.reader import YamlReader
from sage_deploy_local.target import LocalReplica, LocalTarget
from sage_deploy_monitors.events import Events
from sage_deploy_monitors.health import Health
from sage_deploy_monitors.metrics import Metrics, MetricsRecorder
from sage_deploy_monitors.options import EventsOptions
from sage_deploy_otel.options import OtelOptions
from sage_deploy_otel.tracing import Spans, Tracing
from sage_deploy_process.options import ProcessOptions
from sage_deploy_process.target import ProcessTarget
from sage_deploy_ray.actors.transport import RayTransport
from sage_deploy_ray.options import RayOptions
from sage_deploy_ray.target import RayTarget
from sage_deploy_remote.link.replica import RemoteReplica
from sage_deploy_remote.link.transport import Receiver, Transport
from sage_deploy_server.running.extension import ServerExtension, ServerOptions
from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_deploy_threading.event_loop import EventLoop
from sage_deploy_threading.inline import Inline
from sage_deploy_threading.pool import Multi, Pool, PoolOptions, Single, ThreadOptions
from sage_plugins.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from sage_deploy_ray.detached.services import DetachedServices
    from sage_deploy_remote.reach.directory import Directory, ServiceAccess
    from sage_deploy_remote.reach.publishing import Publication, PublishingTarget
    from sage_deploy_remote.reach.snapshot import ServiceSnapshot
    from sage_plugins import Environment
    from sage_plugins.call.owner import CallOwner
    from sage_plugins.clock import Clock
    from sage_plugins.deployment.reach import InProcessReach, Reachable
    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.host.host import Host
    from sage_plugins.interfaces import (
        Autoscaler,
        Balancer,
        CallCounter,
        CallSurrounder,
        Candidate,
        ConfigEntry,
        ConfigReader,
        ConfigSource,
        DetachableReplica,
        DetachingTarget,
        EarlierService,
        Extension,
        Keeper,
        KeyedBalancer,
        KillableReplica,
        ListingTarget,
        LoopSeat,
        Monitor,
        ObservingBalancer,
        Operations,
        Picker,
        Reach,
        ReachableReplica,
        ReachableService,
        ReachableTarget,
        Recorder,
        Replica,
        ReplicaEvents,
        Runner,
        ServiceWatcher,
        SnapshotMerger,
        Strategy,
        Target,
        WaitingReplica,
        WatchedReplica,
    )
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.router import Router
    from sage_plugins.values import ReplicaInfo, ReplicaSpec


def strategies(seat: LoopSeat) -> tuple[Strategy, ...]:
    """The strategies of `sage-deploy-threading`, which start runners."""
    runner: Runner = Single(ThreadOptions()).start(seat)
    runner = Multi(ThreadOptions()).start(seat)
    runner = Pool(PoolOptions()).start(seat)
    runner = EventLoop().start(seat)
    runner = Inline().start(seat)
    print(runner)
    return Single(ThreadOptions()), Multi(ThreadOptions()), Pool(PoolOptions()), EventLoop(), Inline()


def extensions() -> Extension:
    """The extension of `sage-deploy-server`."""
    return ServerExtension(ServerOptions())


def operations(environment: Environment) -> Operations:
    """An environment, as extensions get it."""
    return environment


def reader() -> ConfigReader:
    """The reader of `sage-deploy-files`, which returns a source with entries."""
    source: ConfigSource = YamlReader().read("service_deployment.yaml")
    entry: ConfigEntry = source.services["kv"]
    print(entry)
    return YamlReader()


def autoscaler() -> Autoscaler:
    """The autoscaler of `sage-deploy-autoscalers`."""
    return TargetOngoing()


def balancers() -> tuple[Balancer, ...]:
    """The balancers of `sage-deploy-balancers`."""
    chance = RandomOptions()
    return (
        RoundRobin(),
        LeastLoaded(),
        RandomChoice(chance),
        PowerOfTwo(chance),
        ConsistentHash(ConsistentHashOptions()),
    )


def monitors(who: ReplicaInfo) -> tuple[Monitor, Monitor, Monitor, Recorder]:
    """The monitors of `sage-deploy-monitors`."""
    return Metrics(), Health(), Events(EventsOptions()), MetricsRecorder(who, (), None)


def what_monitors_declare(who: ReplicaInfo) -> tuple[SnapshotMerger, ServiceWatcher, CallCounter]:
    """The optional members of these monitors."""
    return Metrics(), Health(), MetricsRecorder(who, (), None)


def tracing(who: ReplicaInfo) -> tuple[Monitor, Recorder, CallSurrounder]:
    """The monitor of `sage-deploy-otel`."""
    return Tracing(OtelOptions()), Spans(who), Spans(who)


def replicas(member: Member) -> tuple[ReplicaEvents, WatchedReplica]:
    """A replica as targets see it, and as monitors see it."""
    return member, member


def targets(spec: ReplicaSpec, host: Host) -> tuple[Target, Replica]:
    """The target of `sage-deploy-local`."""
    return LocalTarget(), LocalReplica(spec, host)


def process_target() -> tuple[Target, ReachableTarget, ListingTarget, Directory]:
    """The target of `sage-deploy-process`."""
    target = ProcessTarget(ProcessOptions())
    return target, target, target, target.directory("env")


def ray_target(replica: RemoteReplica) -> tuple[Target, Replica]:
    """The target of `sage-deploy-ray`."""
    target: Target = RayTarget("remote_any", None, RayOptions())
    return target, replica


def ray_target_for_other_processes() -> tuple[
    ReachableTarget, DetachingTarget, PublishingTarget, Directory, ServiceAccess
]:
    """The same target as one that declares `reachable` and `detaches`, and its parts for `sage-deploy-remote`."""
    target = RayTarget("remote_any", None, RayOptions())
    directory = target.directory("env")
    return target, target, target, directory, directory.open("kv")


def what_outlives_a_process(kept: DetachedServices, snapshot: ServiceSnapshot) -> tuple[Keeper, EarlierService]:
    """The detached services of `sage-deploy-ray`, and the snapshots of `sage-deploy-remote`."""
    return kept, snapshot


def reaches(published: Publication, own: InProcessReach, service: Reachable) -> tuple[Reach, Reach, ReachableService]:
    """All ways to reach a service, and the service that is reached."""
    return published, own, service


def capable(replica: RemoteReplica) -> tuple[KillableReplica, WaitingReplica, ReachableReplica, DetachableReplica]:
    """The members that a target's declared capabilities promise for its replicas."""
    return replica, replica, replica, replica


def transport(of_ray: RayTransport, replica: RemoteReplica) -> tuple[Transport, Receiver]:
    """The transport that a runtime implements for `sage-deploy-remote`, and the receiver that it calls."""
    return of_ray, replica


def clocks() -> tuple[Clock, ...]:
    """The system's clock and the tests' clock."""
    return SystemClock(), VirtualClock()


def the_cores_own_sides(lane: Lane, router: Router) -> tuple[Candidate, CallOwner]:
    """The lane that balancers see, and the part of the router that a call needs."""
    return lane, router


class _First:
    """A third-party balancer without base class."""

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        """Always choose the first replica."""
        first = candidates[0]
        return lambda _key, _method: first


class _Observes(_First):
    """A balancer that observes how calls end."""

    key_argument = None

    def observe(self, candidate: Candidate, method: str, outcome: int, wait_s: float, run_s: float) -> None:
        """Keep nothing."""


class _WithoutBinding:
    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        return lambda _key, _method: candidates[0]


class _PicksAnIndex:
    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Callable[[Hashable | None, str], int]:
        return lambda _key, _method: len(candidates)


class _StopsWithoutGrace:
    def __init__(self, inner: Runner) -> None:
        self.slots = inner.slots
        self.run_here = None
        self.stats = inner.stats

    def stop(self) -> int:
        return 0


def what_does_not_fit_is_refused(inner: Runner) -> None:
    """Type checkers refuse classes that do not fit: the protocols are not `Any`."""
    balancer: Balancer = _First()
    balancer = _WithoutBinding()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    balancer = _PicksAnIndex()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    runner: Runner = _StopsWithoutGrace(inner)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    observing: ObservingBalancer = _Observes()
    keyed: KeyedBalancer = ConsistentHash(ConsistentHashOptions())
    observing = _First()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    anything: tuple[Any, ...] = (balancer, runner, observing, keyed)
    print(anything)
