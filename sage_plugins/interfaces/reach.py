"""How other processes find a service."""

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
        reachable: Whether other processes can call it: there, or as `Reach.beside` has it.
        startup_timeout: Seconds that its replicas get to become ready.
    """

    target: str
    reachable: bool
    startup_timeout: float


class EnvironmentView(NamedTuple):
    """
    The environment of a service as its `Reach` sees it.

    Attributes:
        id: Tells it from every other environment.
        name: Its name, for messages.
        known: Gives the services that it knows now, by name.
        announced: Told each time that `Reach.announce` has said where services are found, and not of those that outlive
            this process: then other processes find the services of this one there, too, by `Reach.beside`.
    """

    id: str
    name: str
    known: Callable[[], Mapping[str, KnownService]]
    announced: Callable[[Reach], None] = lambda _: None


class ReachableService(Protocol):
    """A deployed service as its `Reach` sees it. From any thread."""

    @property
    def composition(self) -> Any:
        """What was decided for it: its name, configuration and methods."""

    @property
    def router(self) -> Any:
        """Knows which replicas take calls: `lanes`, `avoided`, `unavailability`."""

    @property
    def clock(self) -> Clock:
        """Its time."""

    @property
    def balancer(self) -> Choice | None:
        """Who chooses among its replicas now; None if one serves and the others stand by."""

    @property
    def key_of(self) -> KeyOf | None:
        """The key of a call by its arguments; None without a balancer that names an argument."""

    @property
    def places(self) -> int:
        """How many replicas it should have now."""

    @property
    def sleeps(self) -> bool:
        """Whether it has no replica because there was nothing to do."""

    def wake(self) -> None:
        """Have a replica start, because another process calls it; never blocks."""


class EarlierReplica(Protocol):
    """A replica that an earlier process started."""

    @property
    def index(self) -> Any:
        """Position among the service's replicas, from 0."""

    @property
    def generation(self) -> int:
        """How many replicas were at this position before it."""


class EarlierService(Protocol):
    """What an earlier process has left of a service, to be taken over."""

    @property
    def spec(self) -> ReplicaSpec:
        """What its replicas are made of; the spec of any of them."""

    @property
    def replicas(self) -> Sequence[EarlierReplica]:
        """Those that there are, at most one for each position; there may be none."""

    @property
    def places(self) -> int:
        """How many replicas it should have."""

    @property
    def balancer(self) -> Choice | None:
        """Who chose among its replicas; None if nobody did or that is not known any more."""

    @property
    def key_of(self) -> KeyOf | None:
        """The key of a call by its arguments; as `balancer`."""

    @property
    def version(self) -> int:
        """Of what was said last about it; 0 if that is not known any more."""


class Reach(Protocol):
    """
    How one service is called from other processes, and what of it outlives this one.

    The engine asks it in this order: `take_over`, `announce`, `ready`, `changed` again and again, and at the end
    `stopping`, `vacate`, `stopped`, `ended`; or `leave`, if the replicas go on. A service whose replicas are in this
    process has one that passes all this on to what others have given for it, see `beside`. All methods are safe from
    any thread. Only `take_over`, `announce`, `vacate`, `awaited_by_hooks` and those named `wait` may wait for anybody.
    """

    @property
    def find_service(self) -> Callable[[str], Any] | None:
        """What gives replicas handles to other services, in their processes; None if they are in this one."""

    @property
    def outlives(self) -> bool:
        """Whether the replicas go on when this process ends."""

    def take_over(self) -> EarlierService | None:
        """
        Have this process alone deploy the service, and give what an earlier one has left of it; None for nothing.

        Raises:
            DeployError: Another process has the service, or it runs with other settings.
            ClusterUnavailableError: It is not known whether it runs.
        """

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:
        """Reach a replica that `take_over` gave, and have *events* told of it from now on, as by `Target.start`."""

    def announce(self, after: int = 0) -> None:
        """
        Say which services there are, before a replica starts: it may ask for them.

        Args:
            after: `EarlierService.version` of the service, if it is taken over.

        Raises:
            ClusterUnavailableError: It cannot be said.
        """

    def ready(self) -> None:
        """The service is ready: others may call it from now on."""

    def changed(self) -> None:
        """The set of replicas, or the balancer, has changed."""

    def stopping(self) -> None:
        """The service accepts no more calls; what its callers have accepted goes on."""

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """Have *replicas* take no calls of other processes, and wait at most *limit* seconds for those they have."""

    def stopped(self) -> None:
        """The replicas are about to be stopped: whatever has not started by now never will. Idempotent."""

    def ended(self) -> None:
        """The replicas have stopped. Idempotent."""

    def leave(self) -> None:
        """From now on another process speaks for the service. Idempotent."""

    def join(self, other: Reach) -> None:
        """
        Other processes find services now where *other* has announced its own, for the first time or once more.

        A reach of its own has nothing to do then.
        """

    @property
    def place(self) -> Hashable:
        """Where other processes find the service: equal ones are the same place. Connects to nothing."""

    def beside(self, service: ReachableService, beside: Callable[[], Sequence[Reach]]) -> Reach | None:
        """
        What has other processes find *service* at `place`, whose replicas are in this process: their calls come here.

        None if they are not to, because this service outlives the process. Starts nothing.

        Args:
            service: A service of the same environment.
            beside: Gives all reaches that it has been given so.
        """

    def wait_seen(self) -> None:
        """Wait until other processes know how things are now; not for long."""

    def waiting_elsewhere(self) -> int:
        """How many calls of the service wait in other processes, as far as that is known; never blocks."""

    def awaited_by_hooks(self) -> Sequence[str]:
        """
        Services for which start hooks of the replicas wait, where these run in other processes; after a second at most.

        As far as that is known: empty if nobody answers.
        """

    def wait_found(self) -> None:
        """Wait until other processes that ask find the service; not for long, if it cannot be said."""

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """
        What a pickled handle to the service consists of: `make(*parts, given)` makes it, *given* as `with_options` was.

        None if it would be of no use in another process.
        """


class KeptReplica(NamedTuple):
    """
    A replica that takes calls, as those see it who do not hold its service.

    Attributes:
        id: Such as `"kv#0"`.
        node: Name of its node.
        slots: Calls at once, at most.
    """

    id: str
    node: str | None
    slots: int


class KeptService(NamedTuple):
    """
    A service that is kept, as those see it who do not hold it.

    Attributes:
        held_by: The process that decides about it, in words; empty for none.
        places: How many replicas it should have; None if that is not known.
        replicas: Those that take calls.
    """

    held_by: str
    places: int | None
    replicas: Sequence[KeptReplica]


class Keeper(Protocol):
    """
    What is kept of the services of one environment whose replicas outlive the processes that deploy them.

    Environments of the same name, in whatever process and at whatever time, have the same; one of them at a time holds
    it, until it closes the target that gave this or its process ends.
    """

    @property
    def environment(self) -> str:
        """ID by which other processes look the services up, whoever deployed them."""

    def hold(self) -> None:
        """
        See that no other process starts or stops replicas of the environment.

        Raises:
            DeployError: Another one does.
            ClusterUnavailableError: That is not known.
        """

    def look(self) -> Mapping[str, KeptService]:
        """
        The services that were deployed and not stopped, by whomever, by name; holds and starts nothing.

        Raises:
            ClusterUnavailableError: That is not known.
        """

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """
        The services that were deployed and not stopped, each with the spec of one replica; holds them.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """

    def snapshot(self, service: str) -> EarlierService | None:
        """
        What there is of one service, to be taken over; None for nothing. Holds it.

        Replicas that are of no use, such as one that was being replaced, are ended.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """


class ReachableTarget(Target, Protocol):
    """
    What a target has that declares the capability `reachable`: further processes can call its services.

    `sage_deploy_remote.reach.target` has both methods ready-made for a target that brings a directory.
    """

    def reach(
        self,
        service: ReachableService,
        environment: EnvironmentView,
        accepts: Callable[[EarlierService], None] | None = None,
    ) -> Reach:
        """
        How other processes call *service*; starts nothing.

        Args:
            service: A service of this target.
            environment: The service's environment.
            accepts: Called with what an earlier process has left of the service, before that is taken over. It raises
                what `Reach.take_over` raises then. None if nothing is to be taken over.
        """

    def finder(self, environment: str, name: str) -> Callable[[str], Any]:
        """
        What gives this process handles to services that another process has deployed; starts nothing.

        It is also used after this target was closed. Called with the name of a service, it raises
        ServiceNotFoundError, CallError, NoReplicaError or ClusterUnavailableError if that cannot be called from here.

        Args:
            environment: ID by which other processes look the services up, see `Keeper.environment`.
            name: Name of the environment, for messages.
        """


class DetachingTarget(ReachableTarget, Protocol):
    """What a target has that declares the capability `detaches` as well: its replicas can outlive this process."""

    def keeper(self, environment: str, name: str) -> Keeper | None:
        """
        What is kept of the services of an environment; starts nothing.

        None if replicas end with this process, as this target is configured. Otherwise they have `leave`, see
        `Replica`.

        Args:
            environment: ID of the environment, which no other has.
            name: Its name.
        """
