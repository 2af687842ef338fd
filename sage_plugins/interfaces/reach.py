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
        reachable: Whether other processes can call it, either at its own target or through `Reach.beside`.
        startup_timeout: Seconds for its replicas to become ready.
    """

    target: str
    reachable: bool
    startup_timeout: float


class EnvironmentView(NamedTuple):
    """
    The environment of a service, as its `Reach` sees it.

    Attributes:
        id: Unique ID of the environment.
        name: Name of the environment, for messages.
        known: Returns the services that the environment knows now, by name.
        announced: Called with the `Reach` each time `Reach.announce` has published. The environment then publishes the
            services in this process at the same place, through `Reach.beside`. Not called for services that outlive
            this process.
    """

    id: str
    name: str
    known: Callable[[], Mapping[str, KnownService]]
    announced: Callable[[Reach], None] = lambda _: None


class ReachableService(Protocol):
    """A deployed service, as its `Reach` sees it. All members are safe from any thread."""

    @property
    def composition(self) -> Any:
        """Its composition: name, configuration and methods."""

    @property
    def router(self) -> Any:
        """Its router, which knows the replicas that take calls: `lanes`, `avoided`, `unavailability`."""

    @property
    def clock(self) -> Clock:
        """Its clock."""

    @property
    def balancer(self) -> Choice | None:
        """Its present balancer; None if one replica serves and the others stand by."""

    @property
    def key_of(self) -> KeyOf | None:
        """Computes the key of a call from its arguments; None if its balancer names no argument as the key."""

    @property
    def places(self) -> int:
        """How many replicas it should have now."""

    @property
    def sleeps(self) -> bool:
        """Whether it is scaled to zero replicas, because it had no calls."""

    def wake(self) -> None:
        """Start a replica, because another process calls the service; never blocks."""


class EarlierReplica(Protocol):
    """A replica that an earlier process started."""

    @property
    def index(self) -> Any:
        """Position among the service's replicas, from 0."""

    @property
    def generation(self) -> int:
        """How many replicas were at this position before it."""


class EarlierService(Protocol):
    """What an earlier process left of a service, for this process to take over."""

    @property
    def spec(self) -> ReplicaSpec:
        """The spec of one of its replicas; any of them."""

    @property
    def replicas(self) -> Sequence[EarlierReplica]:
        """Its replicas, at most one for each position; may be empty."""

    @property
    def places(self) -> int:
        """How many replicas it should have."""

    @property
    def balancer(self) -> Choice | None:
        """Its balancer; None if it had none, or if the balancer is no longer known."""

    @property
    def key_of(self) -> KeyOf | None:
        """Computes the key of a call from its arguments; None if it had no such function, or it is no longer known."""

    @property
    def version(self) -> int:
        """Version of its last published state; 0 if the version is no longer known."""


class Reach(Protocol):
    """
    Publishes one service to other processes, and takes over or leaves replicas that outlive a process.

    The core calls the methods in this order: `take_over`, `announce`, `ready`, then `changed` repeatedly. At the end it
    calls `stopping`, `vacate`, `stopped` and `ended`; or `leave`, if the replicas go on. If the replicas are in this
    process, the core's own `Reach` passes all this on to the reaches that `beside` returned.

    All methods are safe from any thread. Only `take_over`, `announce`, `vacate`, `awaited_by_hooks` and methods whose
    name begins with `wait_` may block.
    """

    @property
    def find_service(self) -> Callable[[str], Any] | None:
        """
        Returns handles to other services, for use in the replicas' processes; None if the replicas are in this process.
        """

    @property
    def outlives(self) -> bool:
        """Whether the replicas go on when this process ends."""

    def take_over(self) -> EarlierService | None:
        """
        Make this process the only one that deploys the service; return what an earlier process left of it.

        Returns None if nothing is left.

        Raises:
            DeployError: Another process holds the service, or the service runs with other settings.
            ClusterUnavailableError: It is not known whether the service runs.
        """

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:
        """
        Connect to a replica from `take_over`. From now on, report to *events* about it, as `Target.start` does.
        """

    def announce(self, after: int = 0) -> None:
        """
        Publish which services there are. Called before a replica starts, because the replica may look for them.

        Args:
            after: `EarlierService.version` of the service, if it was taken over.

        Raises:
            ClusterUnavailableError: They cannot be published.
        """

    def ready(self) -> None:
        """Publish that the service is ready: other processes may call it from now on."""

    def changed(self) -> None:
        """Publish that the set of replicas, or the balancer, has changed."""

    def stopping(self) -> None:
        """Publish that the service accepts no more calls. Calls that are already accepted go on."""

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """
        Make *replicas* refuse calls from other processes. Wait at most *limit* seconds for the calls that they have.
        """

    def stopped(self) -> None:
        """Publish that the replicas are about to stop: calls that have not started will never start. Idempotent."""

    def ended(self) -> None:
        """Publish nothing more: the replicas have stopped. Idempotent."""

    def leave(self) -> None:
        """Stop publishing: another process is responsible for the service from now on. Idempotent."""

    def join(self, other: Reach) -> None:
        """
        Publish the service also where *other* has announced its own service, for the first time or again.

        Only for a service whose replicas are in this process. Every other `Reach` does nothing here.
        """

    @property
    def place(self) -> Hashable:
        """The place where other processes find the service. Equal values are the same place. Connects to nothing."""

    def beside(self, service: ReachableService, beside: Callable[[], Sequence[Reach]]) -> Reach | None:
        """
        Return a `Reach` that publishes *service* at `place`. This process has the replicas, so calls come to it.

        None if this `Reach` publishes no such services, because its own service outlives the process. Starts nothing.

        Args:
            service: A service of the same environment.
            beside: Returns all reaches that *service* has got from `beside`, at any place.
        """

    def wait_seen(self) -> None:
        """Wait until other processes know the present state, but not for long."""

    def waiting_elsewhere(self) -> int:
        """Return the known number of the service's calls that wait in other processes; never blocks."""

    def awaited_by_hooks(self) -> Sequence[str]:
        """
        Return the services for which start hooks of replicas in other processes wait.

        Takes at most 1 s. Empty if no answer comes in that time.
        """

    def wait_found(self) -> None:
        """Wait until other processes that look for the service find it; not for long, if it cannot be published."""

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """
        Return `(make, parts)` for pickling a handle to the service; None if no other process could use the handle.

        `make(*parts, given)` makes the handle, where *given* is what `with_options` set.
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
    The kept (detached) services of one environment. Their replicas outlive the processes that deploy them.

    Environments of the same name share these services, across processes and over time. One environment at a time holds
    them, until it closes the target that returned this object, or its process ends.
    """

    @property
    def environment(self) -> str:
        """ID under which other processes find the services; the same whichever process deployed them."""

    def hold(self) -> None:
        """
        Ensure that no other process starts or stops replicas of the environment.

        Raises:
            DeployError: Another process holds the services.
            ClusterUnavailableError: It is not known whether another process holds them.
        """

    def look(self) -> Mapping[str, KeptService]:
        """
        Return by name the services that any process deployed and none has stopped. Holds and starts nothing.

        Raises:
            ClusterUnavailableError: The services are not known.
        """

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """
        Hold the services, and return those that were deployed and not stopped, each with the spec of one replica.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """

    def snapshot(self, service: str) -> EarlierService | None:
        """
        Hold the services, and return the present state of one, to take it over; None if nothing of it is left.

        Ends useless replicas, such as one that was being replaced.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """


class ReachableTarget(Target, Protocol):
    """
    The members of a target that declares `reachable`: other processes can call its services.

    `sage_deploy_remote.reach.target` implements both methods for a target that has a directory.
    """

    def reach(
        self,
        service: ReachableService,
        environment: EnvironmentView,
        accepts: Callable[[EarlierService], None] | None = None,
    ) -> Reach:
        """
        Return the `Reach` of *service*; starts nothing.

        Args:
            service: A service of this target.
            environment: The service's environment.
            accepts: Called with what an earlier process left of the service, before this process takes it over. If it
                raises, `Reach.take_over` raises the same. None: take nothing over.
        """

    def finder(self, environment: str, name: str) -> Callable[[str], Any]:
        """
        Return a function that returns handles to services of another process, by name; starts nothing.

        The function is used even after this target was closed. It raises ServiceNotFoundError, CallError,
        NoReplicaError or ClusterUnavailableError if the service cannot be called from this process.

        Args:
            environment: ID under which other processes find the services, see `Keeper.environment`.
            name: Name of the environment, for messages.
        """


class DetachingTarget(ReachableTarget, Protocol):
    """The members of a target that also declares `detaches`: its replicas can outlive this process."""

    def keeper(self, environment: str, name: str) -> Keeper | None:
        """
        Return the kept services of an environment; starts nothing.

        None if this target is configured so that replicas end with this process. Otherwise its replicas are
        `DetachableReplica`s.

        Args:
            environment: Unique ID of the environment.
            name: Name of the environment.
        """
