"""How other processes find a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces.targets import Replica, ReplicaEvents, Target
    from sage_plugins.reach.kept import Kept
    from sage_plugins.reach.listing import Found, ListedReplica, Listing, Neighbour
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, ReplicaSpec

__all__ = [
    "Directory",
    "EarlierReplica",
    "EarlierService",
    "Entrance",
    "Keeper",
    "Reach",
    "ReachableService",
]


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

    def target(self) -> Target:
        """Its target, which is made if need be."""


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
    `stopping`, `vacate`, `stopped`; or `leave`, if the replicas go on. A service that only this process calls has one
    that does nothing. All methods are safe from any thread. Only `take_over`, `announce`, `vacate` and those named
    `wait` may wait for anybody.
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

    def leave(self) -> None:
        """From now on another process speaks for the service. Idempotent."""

    def wait_seen(self) -> None:
        """Wait until other processes know how things are now; not for long."""

    def wait_found(self) -> None:
        """Wait until other processes that ask find the service; not for long, if it cannot be said."""

    def handle_parts(self) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """
        What a pickled handle to the service consists of: `make(*parts, given)` makes it, *given* as `with_options` was.

        None if it would be of no use in another process.
        """


class Directory(Protocol):
    """
    Where the process that deploys an environment says what runs, and others look it up.

    It is pickled, and what is unpickled in another process looks in the same place; equal ones do. All methods are safe
    from any thread.
    """

    @property
    def environment(self) -> str:
        """ID of the environment."""

    def announce(self, known: Mapping[str, Neighbour]) -> None:
        """
        Say which services the environment knows; before one of them is started. Where that takes it, this connects.

        Raises:
            ClusterUnavailableError: It cannot be said.
        """

    def publish(self, listing: Listing) -> None:
        """
        Say what has become of a service; never blocks. One older than what is known is left out.

        A later incarnation is newer, and of one incarnation a later version.
        """

    def wait_seen(self, service: str, version: int, timeout: float) -> None:
        """
        Wait until whoever asks is told what was published, and those who follow the service have taken in *version*.

        Args:
            service: Its name.
            version: Of the listing, or of an earlier one; 0 if nobody who follows it is to be waited for.
            timeout: Seconds, at most.
        """

    def open(self, service: str) -> Entrance:
        """This process's way to a service that another one has deployed; starts nothing."""

    def __hash__(self) -> int:
        """As equality."""


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

    def deployed(self) -> Mapping[str, ReplicaSpec]:
        """
        The services that were deployed and not stopped, each with the spec of one replica; holds them.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """

    def kept(self, service: str) -> Kept | None:
        """
        What there is of one service, to be taken over; None for nothing. Holds it.

        Replicas that are of no use, such as one that was being replaced, are ended.

        Raises:
            DeployError, ClusterUnavailableError: As `hold`.
        """


class Entrance(Protocol):
    """One process's way to one service that another process has deployed."""

    def look_up(self, seen: int, timeout: float) -> Found | None:
        """
        What is known of the service; waits at most *timeout* seconds for another version than *seen*, 0 for none.

        Returns:
            None if there is no directory: nothing has been deployed yet, or the process that did has ended.

        Raises:
            ClusterUnavailableError: This process is not connected to the cluster, or that does not answer.
            CallError: What it says cannot be read here.
        """

    def watch(self, seen: int, tell: Callable[[Found | None], None]) -> None:
        """
        Have *tell* called once, when there is another version than *seen*, or after a while; never blocks.

        With *seen* it says that it has taken in that version. *tell* is called in a thread that has nothing else to do,
        with None if there is no directory.
        """

    def attach(self, replica: ListedReplica, events: ReplicaEvents, clock: Clock) -> Replica:
        """Reach a replica that runs; `LifeEvents.changed` is not told. It is never stopped from here."""

    def close(self) -> None:
        """Let go of everything here. Idempotent."""
