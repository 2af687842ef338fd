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
        reachable: Whether other processes can call it, at its own target or through `Reach.beside`.
        startup_timeout: Seconds for its replicas to become ready.
    """

    target: str
    reachable: bool
    startup_timeout: float


class EnvironmentView(NamedTuple):
    """
    The environment of a service, as its `Reach` sees it.

    Attributes:
        id: Its unique ID.
        name: Its name, for messages.
        known: Returns the services that it knows now, by name.
        announced: Called with the `Reach` after each `Reach.announce`. The environment then publishes its services in
            this process at the same place, through `Reach.beside`. Not called for services that outlive this process.
    """

    id: str
    name: str
    known: Callable[[], Mapping[str, KnownService]]
    announced: Callable[[Reach], None] = lambda _: None


class ReachableService(Protocol):
    """A deployed service, as its `Reach` sees it. Safe from any thread."""

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
        """Its present balancer; None if one replica serves and the others stand by."""

    @property
    def key_of(self) -> KeyOf | None:
        """Computes a call's key from its arguments; None if its balancer names no argument."""

    @property
    def places(self) -> int:
        """How many replicas it should have."""

    @property
    def sleeps(self) -> bool:
        """Whether it is scaled to zero replicas, for lack of calls."""

    def wake(self) -> None:
        """Start a replica, because another process calls the service; never blocks."""


class EarlierReplica(Protocol):
    """A replica that an earlier process started."""

    @property
    def index(self) -> Any:
        """Position among the service's replicas, from 0."""

    @property
    def generation(self) -> int:
        """Number of replicas that were at this position before it."""


class EarlierService(Protocol):
    """What an earlier process left of a service, for this process to take over."""

    @property
    def spec(self) -> ReplicaSpec:
        """The spec of any of its replicas."""

    @property
    def replicas(self) -> Sequence[EarlierReplica]:
        """Its replicas, at most one for each position; may be empty."""

    @property
    def places(self) -> int:
        """How many replicas it should have."""

    @property
    def balancer(self) -> Choice | None:
        """Its balancer; None for none, or if unknown."""

    @property
    def key_of(self) -> KeyOf | None:
        """Computes a call's key from its arguments; None for none, or if unknown."""

    @property
    def version(self) -> int:
        """Version of its last published state; 0 if unknown."""


class Reach(Protocol):
    """
    Publishes one service to other processes, and takes over or leaves replicas that outlive a process.

    The core calls `take_over`, `announce`, `ready`, then `changed` repeatedly. At the end it calls `stopping`,
    `vacate`, `stopped` and `ended`; or `leave`, if the replicas go on. If the replicas are in this process, the core's
    own `Reach` passes all this on to the reaches that `beside` returned.

    Safe from any thread. Only `take_over`, `announce`, `vacate`, `awaited_by_hooks`, `wait_seen` and `wait_found` may
    block.
    """

    @property
    def find_service(self) -> Callable[[str], Any] | None:
        """Returns handles to other services, for the replicas' processes; None if the replicas are in this process."""

    @property
    def outlives(self) -> bool:
        """Whether the replicas go on when this process ends."""

    def take_over(self) -> EarlierService | None:
        """
        Make this process the only one that deploys the service; return what an earlier one left of it, or None.

        Raises:
            DeployError: Another process holds the service, or the service runs with other settings.
            ClusterUnavailableError: It is not known whether the service runs.
        """

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:
        """Connect to a replica from `take_over`, and report to *events* about it, as `Target.start` does."""

    def announce(self, after: int = 0) -> None:
        """
        Publish which services there are. Called before a replica starts, which may look for them.

        *after* is `EarlierService.version` of a service that was taken over.

        Raises:
            ClusterUnavailableError: They cannot be published.
        """

    def ready(self) -> None:
        """Publish that the service is ready: other processes may call it."""

    def changed(self) -> None:
        """Publish that the set of replicas, or the balancer, has changed."""

    def stopping(self) -> None:
        """Publish that the service accepts no more calls. Accepted calls go on."""

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """Make *replicas* refuse calls from other processes; wait at most *limit* seconds for those that they have."""

    def stopped(self) -> None:
        """Publish that the replicas are about to stop: no more calls will start. Idempotent."""

    def ended(self) -> None:
        """Publish nothing more: the replicas have stopped. Idempotent."""

    def leave(self) -> None:
        """Stop publishing: another process is now responsible for the service. Idempotent."""

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
        Return a `Reach` that publishes *service*, with replicas in this process, at `place`; starts nothing.

        None if its own service outlives the process: it publishes no other. *beside* returns all reaches that *service*
        has got from `beside`, at any place.
        """

    def wait_seen(self) -> None:
        """Wait until other processes know the present state, but not for long."""

    def waiting_elsewhere(self) -> int:
        """Return how many calls are known to wait in other processes; never blocks."""

    def awaited_by_hooks(self) -> Sequence[str]:
        """
        Return the services for which start hooks in other processes wait; empty without an answer within 1 s.
        """

    def wait_found(self) -> None:
        """Wait until other processes that look for the service find it; not for long if it cannot be published."""

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """
        Return `(make, parts)` for pickling a handle to the service; None if no other process could use it.

        `make(*parts, given)` makes the handle; *given* is what `with_options` set.
        """


class KeptReplica(NamedTuple):
    """
    A replica that takes calls, as seen by a process that does not hold its service.

    Attributes:
        id: ID of the replica, such as `"kv#0"`.
        node: Name of its node.
        slots: Maximum number of calls at once.
    """

    id: str
    node: str | None
    slots: int


class KeptService(NamedTuple):
    """
    A kept (detached) service, as seen by a process that does not hold it.

    Attributes:
        held_by: The process that controls it, in words; empty for none.
        places: How many replicas it should have; None if unknown.
        replicas: The replicas that take calls.
    """

    held_by: str
    places: int | None
    replicas: Sequence[KeptReplica]


class Keeper(Protocol):
    """
    The kept (detached) services of one environment: their replicas outlive the processes that deploy them.

    Environments of the same name share them, across processes and over time. One environment at a time holds them,
    until it closes the target that returned this object, or its process ends.
    """

    @property
    def environment(self) -> str:
        """ID under which other processes find the services, whichever process deployed them."""

    def hold(self) -> None:
        """
        Ensure that no other process starts or stops replicas of the environment.

        Raises:
            DeployError: Another process holds the services.
            ClusterUnavailableError: It is not known whether one does.
        """

    def look(self) -> Mapping[str, KeptService]:
        """
        Return the services that were deployed and not stopped, by name. Holds and starts nothing.

        Raises:
            ClusterUnavailableError: The services are not known.
        """

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """
        Hold the services, and return those that `look` returns, each with the spec of one replica.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """

    def snapshot(self, service: str) -> EarlierService | None:
        """
        Hold the services, and return the present state of one, to take it over; None if nothing is left.

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
        Return the `Reach` of *service*; starts nothing.

        *accepts* is called with what an earlier process left of the service, before the take-over; `Reach.take_over`
        raises what it raises. None: take nothing over.
        """

    def finder(self, environment: str, name: str) -> Callable[[str], Any]:
        """
        Return a function that returns handles to services of another process, by name; starts nothing.

        It must work after this target was closed. It raises ServiceNotFoundError, CallError, NoReplicaError or
        ClusterUnavailableError if the service cannot be called from this process. *environment* is as
        `Keeper.environment`; *name* is for messages.
        """


class DetachingTarget(ReachableTarget, Protocol):
    """A target that also declares `detaches`."""

    def keeper(self, environment: str, name: str) -> Keeper | None:
        """
        Return the kept services of an environment; starts nothing.

        *environment* is its ID. None if this target is configured to end its replicas with this process; if not, they
        are `DetachableReplica`s. Not called if the target has environment options and none are given: by default,
        replicas must end with their process.
        """
