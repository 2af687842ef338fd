"""How other processes find and call a service."""

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
        reachable: Whether other processes can call it, directly or through `Reach.beside`.
        startup_timeout: Seconds for its replicas to become ready.
    """

    target: str
    reachable: bool
    startup_timeout: float


class EnvironmentView(NamedTuple):
    """
    The environment of a service, as its `Reach` sees it.

    Attributes:
        id: Unique ID.
        name: Its name, for messages.
        known: Returns the services that it knows now, by name.
        announced: Called each time after `Reach.announce` has published where services are found. Not called for
            services that outlive this process. Other processes then find the services of this process there too,
            through `Reach.beside`.
    """

    id: str
    name: str
    known: Callable[[], Mapping[str, KnownService]]
    announced: Callable[[Reach], None] = lambda _: None


class ReachableService(Protocol):
    """A deployed service, as its `Reach` sees it. From any thread."""

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
        """Computes the key of a call from its arguments; None without a balancer that names an argument."""

    @property
    def places(self) -> int:
        """How many replicas it should have now."""

    @property
    def sleeps(self) -> bool:
        """Whether it has no replica because it had nothing to do."""

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
    """The part of a service that an earlier process left, for this process to take over."""

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
        """Its balancer; None if it had none or that is no longer known."""

    @property
    def key_of(self) -> KeyOf | None:
        """Computes the key of a call from its arguments; None as for `balancer`."""

    @property
    def version(self) -> int:
        """Version of its last published state; 0 if that is no longer known."""


class Reach(Protocol):
    """
    How other processes call one service, and what of it outlives this process.

    The core calls its methods in this order: `take_over`, `announce`, `ready`, then `changed` repeatedly. At the end it
    calls `stopping`, `vacate`, `stopped` and `ended`; or `leave`, if the replicas go on. A service whose replicas are
    in this process has a `Reach` that passes all this on to those from `beside`. All methods are safe from any thread.
    Only `take_over`, `announce`, `vacate`, `awaited_by_hooks` and those named `wait` may block.
    """

    @property
    def find_service(self) -> Callable[[str], Any] | None:
        """Returns handles to other services, for replicas in other processes; None if replicas are in this process."""

    @property
    def outlives(self) -> bool:
        """Whether the replicas go on when this process ends."""

    def take_over(self) -> EarlierService | None:
        """
        Make this process the only one that deploys the service; return what an earlier process left of it.

        None if nothing is left.

        Raises:
            DeployError: Another process has the service, or it runs with other settings.
            ClusterUnavailableError: It is not known whether it runs.
        """

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:
        """
        Connect to a replica from `take_over`, and report about it to *events* from now on, as `Target.start` does.
        """

    def announce(self, after: int = 0) -> None:
        """
        Publish which services there are, before a replica starts, because it may ask for them.

        Args:
            after: `EarlierService.version` of the service, if it is taken over.

        Raises:
            ClusterUnavailableError: It cannot be published.
        """

    def ready(self) -> None:
        """The service is ready: other processes may call it from now on."""

    def changed(self) -> None:
        """The set of replicas, or the balancer, has changed."""

    def stopping(self) -> None:
        """The service accepts no more calls. Calls that are already accepted go on."""

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """
        Have *replicas* refuse calls of other processes, and wait at most *limit* seconds for those that they have.
        """

    def stopped(self) -> None:
        """The replicas are about to stop: calls that have not started will never start. Idempotent."""

    def ended(self) -> None:
        """The replicas have stopped. Idempotent."""

    def leave(self) -> None:
        """Another process is responsible for the service from now on. Idempotent."""

    def join(self, other: Reach) -> None:
        """
        Have the service found where *other* has announced its own, for the first time or again.

        Only for a service whose replicas are in this process. Every other `Reach` does nothing here.
        """

    @property
    def place(self) -> Hashable:
        """The place where other processes find the service; equal values are the same place. Connects to nothing."""

    def beside(self, service: ReachableService, beside: Callable[[], Sequence[Reach]]) -> Reach | None:
        """
        Return a `Reach` that publishes *service* at `place`. Calls to it come to this process, which has its replicas.

        None if this `Reach` publishes no such services, because its own service outlives the process. Starts nothing.

        Args:
            service: A service of the same environment.
            beside: Returns all reaches that *service* has got in this way.
        """

    def wait_seen(self) -> None:
        """Wait until other processes know the present state; not for long."""

    def waiting_elsewhere(self) -> int:
        """Return how many calls of the service wait in other processes, as far as known; never blocks."""

    def awaited_by_hooks(self) -> Sequence[str]:
        """
        Return the services for which start hooks of replicas in other processes wait; takes at most a second.

        Empty if no answer comes in that time.
        """

    def wait_found(self) -> None:
        """Wait until other processes that ask find the service; not for long, if that cannot be published."""

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """
        Return the parts of a pickled handle to the service; None if it would be useless in another process.

        `make(*parts, given)` makes the handle, where *given* is what `with_options` set.
        """


class KeptReplica(NamedTuple):
    """
    A replica that takes calls, as processes see it that do not hold its service.

    Attributes:
        id: Such as `"kv#0"`.
        node: Name of its node.
        slots: Maximum number of calls at once.
    """

    id: str
    node: str | None
    slots: int


class KeptService(NamedTuple):
    """
    A kept service, as processes see it that do not hold it.

    Attributes:
        held_by: The process that controls it, in words; empty for none.
        places: How many replicas it should have; None if unknown.
        replicas: Those that take calls.
    """

    held_by: str
    places: int | None
    replicas: Sequence[KeptReplica]


class Keeper(Protocol):
    """
    The kept services of one environment: their replicas outlive the processes that deploy them.

    Environments of the same name share one, whatever their process and time. One environment at a time holds it, until
    it closes the target that returned it or its process ends.
    """

    @property
    def environment(self) -> str:
        """ID by which other processes look the services up, whichever process deployed them."""

    def hold(self) -> None:
        """
        Ensure that no other process starts or stops replicas of the environment.

        Raises:
            DeployError: Another process does.
            ClusterUnavailableError: That is not known.
        """

    def look(self) -> Mapping[str, KeptService]:
        """
        Return by name the services that any process deployed and nobody stopped; holds and starts nothing.

        Raises:
            ClusterUnavailableError: That is not known.
        """

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """
        Return the services that were deployed and not stopped, each with the spec of one replica; holds them.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """

    def snapshot(self, service: str) -> EarlierService | None:
        """
        Return the present state of one service, to be taken over; None for nothing. Holds it.

        Ends useless replicas, such as one that was being replaced.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """


class ReachableTarget(Target, Protocol):
    """
    The members of a target that declares the capability `reachable`: other processes can call its services.

    `sage_deploy_remote.reach.target` has both methods for a target that has a directory.
    """

    def reach(
        self,
        service: ReachableService,
        environment: EnvironmentView,
        accepts: Callable[[EarlierService], None] | None = None,
    ) -> Reach:
        """
        Return how other processes call *service*; starts nothing.

        Args:
            service: A service of this target.
            environment: The service's environment.
            accepts: Called with what an earlier process left of the service, before this process takes it over. Its
                exceptions are raised by `Reach.take_over`. None if nothing is to be taken over.
        """

    def finder(self, environment: str, name: str) -> Callable[[str], Any]:
        """
        Return a function that gives this process handles to services of another process; starts nothing.

        It is also used after this target was closed. Called with the name of a service, it raises ServiceNotFoundError,
        CallError, NoReplicaError or ClusterUnavailableError if that cannot be called from here.

        Args:
            environment: ID by which other processes look the services up, see `Keeper.environment`.
            name: Name of the environment, for messages.
        """


class DetachingTarget(ReachableTarget, Protocol):
    """The members of a target that also declares the capability `detaches`: its replicas can outlive this process."""

    def keeper(self, environment: str, name: str) -> Keeper | None:
        """
        Return the kept services of an environment; starts nothing.

        None if replicas end with this process, as this target is configured. Otherwise they have `leave`, see
        `DetachableReplica`.

        Args:
            environment: Unique ID of the environment.
            name: Its name.
        """
