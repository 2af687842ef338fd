"""The interfaces through which other processes find and call services, and through which services outlive a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sage_plugins.interfaces.targets import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces.targets import Replica, ReplicaEvents
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, ReplicaSpec

__all__ = [
    "DetachingTarget",
    "EarlierReplica",
    "EarlierService",
    "EnvironmentView",
    "Keeper",
    "KnownService",
    "Reach",
    "ReachableService",
    "ReachableTarget",
]


class KnownService(NamedTuple):
    """
    A service that an environment knows, deployed or not.

    Attributes:
        target: ID of its target.
        reachable: Whether other processes can call it, at its target or through `Reach.beside`.
        startup_timeout: Seconds for its replicas to become ready.
    """

    target: str
    reachable: bool
    startup_timeout: float


class EnvironmentView(NamedTuple):
    """
    A service's environment, as its `Reach` sees it.

    Attributes:
        id: Unique ID.
        name: Name, for messages.
        known: Returns the services that it knows now, by name.
        announced: Called with the `Reach` after each `Reach.announce`, to publish the services in this process at the
            same place, through `Reach.beside`. Not called for services that outlive this process.
    """

    id: str
    name: str
    known: Callable[[], Mapping[str, KnownService]]
    announced: Callable[[Reach], None] = lambda _: None


class ReachableService(Protocol):
    """A deployed service, as its `Reach` sees it. Thread-safe."""

    @property
    def composition(self) -> Any:
        """Its name, configuration and methods."""

    @property
    def router(self) -> Any:
        """Its router, with the replicas that take calls: `lanes`, `avoided`, `unavailability`."""

    @property
    def clock(self) -> Clock:
        """Its clock."""

    @property
    def balancer(self) -> Choice | None:
        """Its balancer now; None if one replica serves and the others stand by."""

    @property
    def key_of(self) -> KeyOf | None:
        """Computes a call's key; None if its balancer names no argument."""

    @property
    def places(self) -> int:
        """Wanted number of replicas."""

    @property
    def sleeps(self) -> bool:
        """Whether it is scaled to zero for lack of calls."""

    def wake(self) -> None:
        """Start a replica for a call from another process; never blocks."""


class EarlierReplica(Protocol):
    """A replica that an earlier process started."""

    @property
    def index(self) -> Any:
        """Position in the service, from 0."""

    @property
    def generation(self) -> int:
        """Number of earlier replicas at this position."""


class EarlierService(Protocol):
    """What an earlier process left of a service, to take over."""

    @property
    def spec(self) -> ReplicaSpec:
        """The spec of any replica."""

    @property
    def replicas(self) -> Sequence[EarlierReplica]:
        """Its replicas, at most one for each position; may be empty."""

    @property
    def places(self) -> int:
        """Wanted number of replicas."""

    @property
    def balancer(self) -> Choice | None:
        """Its balancer; None if none or unknown."""

    @property
    def key_of(self) -> KeyOf | None:
        """Computes a call's key; None if none or unknown."""

    @property
    def version(self) -> int:
        """Version of its last published state; 0 if unknown."""


class Reach(Protocol):
    """
    Publishes one service to other processes; takes over or leaves replicas that outlive a process. Thread-safe.

    The core calls `take_over`, `announce`, `ready`, then `changed` repeatedly; at the end `stopping`, `vacate`,
    `stopped` and `ended`, or `leave` if the replicas go on. For replicas in this process, the core's own `Reach` passes
    all this to the reaches from `beside`.

    Only `take_over`, `announce`, `vacate`, `awaited_by_hooks`, `wait_seen` and `wait_found` may block.
    """

    @property
    def find_service(self) -> Callable[[str], Any] | None:
        """Returns handles to other services, for the replicas' processes; None for replicas in this process."""

    @property
    def outlives(self) -> bool:
        """Whether the replicas outlive this process."""

    def take_over(self) -> EarlierService | None:
        """
        Make this process the service's only deployer; return what an earlier one left of it, or None.

        Raises:
            DeployError: Another process holds it, or it runs with other settings.
            ClusterUnavailableError: It is unknown whether it runs.
        """

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:
        """Connect to a replica from `take_over`; report to *events*, as `Target.start` does."""

    def announce(self, after: int = 0) -> None:
        """
        Publish which services there are, before a replica starts, which may look for them.

        *after*: `EarlierService.version` of a service that was taken over.

        Raises:
            ClusterUnavailableError: They cannot be published.
        """

    def ready(self) -> None:
        """Publish that other processes may call the service."""

    def changed(self) -> None:
        """Publish that the replicas or the balancer changed."""

    def stopping(self) -> None:
        """Publish that the service accepts no more calls. Accepted calls go on."""

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """Make *replicas* refuse calls from other processes; wait at most *limit* seconds for those they have."""

    def stopped(self) -> None:
        """Publish that no more calls will start: the replicas are about to stop. Idempotent."""

    def ended(self) -> None:
        """Publish nothing more: the replicas have stopped. Idempotent."""

    def leave(self) -> None:
        """Stop publishing: another process is now responsible. Idempotent."""

    def join(self, other: Reach) -> None:
        """
        Publish the service also where *other* has announced its own, for the first time or again.

        Does nothing for replicas outside this process.
        """

    @property
    def place(self) -> Hashable:
        """Where other processes find the service; equal values are the same place. Connects to nothing."""

    def beside(self, service: ReachableService, beside: Callable[[], Sequence[Reach]]) -> Reach | None:
        """
        Return a `Reach` that publishes *service*, with replicas in this process, at `place`; start nothing.

        None if its own service outlives the process. *beside* returns all reaches that *service* has got from `beside`,
        at any place.
        """

    def wait_seen(self) -> None:
        """Wait until other processes know the present state, but not for long."""

    def waiting_elsewhere(self) -> int:
        """Return the number of calls known to wait in other processes; never blocks."""

    def awaited_by_hooks(self) -> Sequence[str]:
        """
        Return the services for which start hooks in other processes wait; empty without an answer within 1 s.
        """

    def wait_found(self) -> None:
        """Wait until processes that look for the service find it; not for long if it cannot be published."""

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """
        Return `(make, parts)` for pickling a handle to the service; None if no other process could use it.

        `make(*parts, given)` makes the handle; *given*: what `with_options` set.
        """


class KeptReplica(NamedTuple):
    """
    A replica that takes calls, as seen by a process that does not hold its service.

    Attributes:
        id: ID, such as `"kv#0"`.
        node: Its node's name.
        slots: Maximum calls at once.
    """

    id: str
    node: str | None
    slots: int


class KeptService(NamedTuple):
    """
    A kept (detached) service, as seen by a process that does not hold it.

    Attributes:
        held_by: The process that controls it, in words; empty for none.
        places: Wanted number of replicas; None if unknown.
        replicas: The replicas that take calls.
    """

    held_by: str
    places: int | None
    replicas: Sequence[KeptReplica]


class Keeper(Protocol):
    """
    The kept (detached) services of one environment: their replicas outlive the deploying process.

    Environments of one name share them, across processes and over time. One at a time holds them, until its process
    ends or it closes the target that returned this object.
    """

    @property
    def environment(self) -> str:
        """ID under which other processes find the services, whichever process deployed them."""

    def hold(self) -> None:
        """
        Ensure that no other process starts or stops replicas of the environment.

        Raises:
            DeployError: Another process holds the services.
            ClusterUnavailableError: It is unknown whether one does.
        """

    def look(self) -> Mapping[str, KeptService]:
        """
        Return the services that were deployed and not stopped, by name. Holds and starts nothing.

        Raises:
            ClusterUnavailableError: The services are unknown.
        """

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """
        Hold the services; return those of `look`, each with the spec of one replica.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """

    def snapshot(self, service: str) -> EarlierService | None:
        """
        Hold the services; return the present state of one, to take it over; None if nothing is left.

        Ends useless replicas, such as one that was being replaced.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """


class ReachableTarget(Target, Protocol):
    """
    A target that declares `reachable`.

    `sage_deploy_remote.reach.target` implements both methods for a target with a directory.
    """

    def reach(
        self,
        service: ReachableService,
        environment: EnvironmentView,
        accepts: Callable[[EarlierService], None] | None = None,
    ) -> Reach:
        """
        Return the `Reach` of *service*; start nothing.

        *accepts* gets what an earlier process left of the service, before the take-over; `Reach.take_over` raises what
        it raises. None: take nothing over.
        """

    def finder(self, environment: str, name: str) -> Callable[[str], Any]:
        """
        Return a function that returns handles to services of another process, by name; start nothing.

        It must work after this target was closed. For a service that this process cannot call, it raises
        ServiceNotFoundError, CallError, NoReplicaError or ClusterUnavailableError. *environment*: as
        `Keeper.environment`; *name*: for messages.
        """


class DetachingTarget(ReachableTarget, Protocol):
    """A target that also declares `detaches`."""

    def keeper(self, environment: str, name: str) -> Keeper | None:
        """
        Return the kept services of the environment with the ID *environment*; start nothing.

        None if this target is configured to end its replicas with this process; if not, they are `DetachableReplica`s.
        """
