"""What the process that deployed a service tells other processes of it, so that they can call it too."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.reach.guest import ServiceFinder, revive
from sage_plugins.reach.listing import ListedReplica, Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import Directory, EarlierReplica, Keeper, ReachableService, Replica, ReplicaEvents
    from sage_plugins.reach.kept import Kept
    from sage_plugins.reach.listing import Neighbour
    from sage_plugins.routing.handle import ServiceHandle
    from sage_plugins.values import ReplicaSpec

__all__ = ["Home", "Publication"]

#: Seconds that another process gets to take in a change; it takes milliseconds, and some may have ended.
_SEEN_WITHIN_S: Final = 1.0

#: The same until a directory that has just been started has been told.
_SAID_WITHIN_S: Final = 10.0


class _Versions:
    """
    Numbers for listings, one row for all services of this process: later is higher.

    They are not below the time, so that they are also higher than what another process said earlier of the same
    service.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, after: int = 0) -> int:
        """The next one, which is above *after*."""
        with self._lock:
            self._last = max(self._last + 1, after + 1, time.time_ns())
            return self._last


_VERSIONS: Final = _Versions()


class Home(NamedTuple):
    """
    The environment to which a service belongs.

    Attributes:
        id: Tells it from every other environment.
        name: Its name, for messages.
        known: Gives the services that it knows now, by name.
    """

    id: str
    name: str
    known: Callable[[], Mapping[str, Neighbour]]


class Publication:
    """
    The `interfaces.Reach` of a service that other processes call.

    Keeps the listing of one service in the directory of its environment, from when it is ready until it has stopped.

    What goes wrong later than `announce` is logged: calls of this process need no directory.
    """

    def __init__(self, home: Home, service: ReachableService, *, accepts: Callable[[Kept], None] | None = None) -> None:
        """
        Prepare; says nothing yet.

        Args:
            home: The service's environment.
            service: What is said.
            accepts: Called with what an earlier process has left of the service, and refuses what is not to be taken
                over; None if nothing is.
        """
        self._home = home
        self._service = service
        self._composition = service.composition
        self._accepts = accepts
        self._lock = threading.RLock()  # re-entrant because a signal handler may stop the service in the middle of it
        self._incarnation = 0  # guarded by _lock, as the next six
        self._announced: Directory | None = None  # where
        self._known: dict[str, Neighbour] = {}  # what was announced; changed in single steps, which need no lock
        self._ready = False
        self._listing_now: Listing | None = None
        self._stopping = ""
        self._over = False
        self._failed = False

    @property
    def directory(self) -> Directory:
        """Where it is said."""
        target: Any = self._service.target()
        keeper = self._keeper()
        found: Directory = target.directory(self._home.id if keeper is None else keeper.environment)
        return found

    def _keeper(self) -> Keeper | None:
        """What keeps the service when this process ends; None if it ends with it."""
        if "detaches" not in self._composition.target.registration.capabilities:
            return None
        target: Any = self._service.target()
        found: Keeper | None = target.keeper(self._home.id, self._home.name)
        return found

    @property
    def outlives(self) -> bool:
        """Whether the replicas go on when this process ends."""
        return self._keeper() is not None

    def take_over(self) -> Kept | None:
        """As `Reach.take_over`."""
        keeper = self._keeper()
        if keeper is None:
            return None
        keeper.hold()
        kept = None if self._accepts is None else keeper.kept(self._composition.name)
        if kept is not None and self._accepts is not None:
            self._accepts(kept)
        return kept

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:
        """As `Reach.adopt`."""
        target: Any = self._service.target()
        replica: Replica = target.adopt(spec, earlier, events, clock)
        return replica

    @property
    def find_service(self) -> ServiceFinder:
        """What gives the replicas handles to other services, in their processes."""
        return ServiceFinder(self.directory, self._home.name, self._composition.name, self._known)

    def announce(self, after: int = 0) -> None:
        """
        Say which services there are, before the first replica starts: it may ask for them.

        Args:
            after: Version of what another process has said of the service.

        Raises:
            ClusterUnavailableError: It cannot be said.
        """
        directory = self.directory
        known = self._home.known()
        directory.announce(known)
        self._known.update(known)
        with self._lock:
            self._announced = directory
            self._incarnation = self._incarnation or _VERSIONS.next(after)

    def ready(self) -> None:
        """The service is ready: others may call it from now on."""
        with self._lock:
            self._ready = True
            self._publish()

    def changed(self) -> None:
        """The set of replicas, or the balancer, has changed."""
        with self._lock:
            self._publish()

    def stopping(self) -> None:
        """The service accepts no more calls; what its callers have accepted goes on."""
        with self._lock:
            self._stopping = "is stopping"
            self._publish()

    def stopped(self) -> None:
        """The replicas are about to be stopped: whatever has not started by now never will. Idempotent."""
        with self._lock:
            self._stopping = "has stopped"
            self._publish()
            self._over = True

    def leave(self) -> None:
        """From now on another process speaks for the service. Idempotent."""
        with self._lock:
            self._over = True

    def wait_seen(self, limit: float = _SEEN_WITHIN_S) -> None:
        """Wait until other processes know how things are now; at most *limit* seconds, and not long for any of them."""
        with self._lock:
            directory, listing = self._announced, self._listing_now
        if directory is not None and listing is not None:
            directory.wait_seen(listing.service, listing.version, max(0.0, min(limit, _SEEN_WITHIN_S)))

    def wait_found(self) -> None:
        """Wait until other processes that ask find the service; not for long, if it cannot be said."""
        with self._lock:
            directory, listing = self._announced, self._listing_now
        if directory is not None and listing is not None:
            directory.wait_seen(listing.service, 0, _SAID_WITHIN_S)

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """As `Reach.vacate`."""
        clock = self._service.clock
        until = clock.monotonic() + limit
        self.wait_seen(limit)  # who has not heard of it would send calls to a process that has ended
        vacating: list[Any] = list(replicas)
        waits = [replica.vacate() for replica in vacating]  # as a `reachable` target promises
        for wait in waits:
            wait(max(0.0, until - clock.monotonic()))

    def handle_parts(self) -> tuple[Callable[..., ServiceHandle], tuple[Any, ...]]:
        """As `Reach.handle_parts`."""
        return revive, (self.directory, self._home.name, self._composition.name)

    def _publish(self) -> None:
        """Say how things are; under the lock, so that who looks later also speaks later."""
        directory = self._announced
        if directory is None or not self._ready or self._over:
            return
        try:
            self._listing_now = self._listing()
            directory.publish(self._listing_now)
        except Exception:
            first, self._failed = not self._failed, True
            if first:
                logging.getLogger("sage_plugins").exception(
                    "service '%s': other processes are not told how it changes; further faults are not reported",
                    self._composition.name,
                )

    def _listing(self) -> Listing:
        composition, router = self._composition, self._service.router
        config = composition.config
        now = self._service
        avoided = router.avoided
        error = router.unavailability
        lanes: tuple[Any, ...] = () if self._stopping == "has stopped" else router.lanes
        return Listing(
            service=composition.name,
            incarnation=self._incarnation,
            version=_VERSIONS.next(self._incarnation),
            methods=composition.methods,
            queue_size=config.queue_size,
            rejects=config.overload == "reject",
            queue_timeout=config.queue_timeout,
            retries_lost=config.failover_enabled,
            balancer=now.balancer,
            key_of=now.key_of,
            places=now.places,
            environment=composition.environment,
            replicas=tuple(
                ListedReplica(
                    composition.name,
                    lane.id,
                    lane.index,
                    lane.node,
                    lane.slots,
                    lane.address,
                    lane.seniority,
                    avoided=lane in avoided,
                )
                for lane in lanes
            ),
            stopped=self._stopping,
            unavailable="" if error is None else str(error),
        )
