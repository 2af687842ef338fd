"""What the process that deployed a service tells other processes of it, so that they can call it too."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.reach.guest import ServiceFinder
from sage_plugins.reach.listing import ListedReplica, Listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.interfaces import Directory
    from sage_plugins.planning.composition import Composition
    from sage_plugins.reach.listing import Neighbour
    from sage_plugins.routing.router import Router
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice

__all__ = ["Changeable", "Home", "Publication"]

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


class Changeable(NamedTuple):
    """
    What may change while a service runs.

    Attributes:
        balancer: Who chooses among its replicas; None if one serves and the others stand by.
        key_of: The key of a call by its arguments; None without a balancer that names an argument.
        places: How many replicas it should have.
    """

    balancer: Choice | None
    key_of: KeyOf | None
    places: int


class Publication:
    """
    Keeps the listing of one service in the directory of its environment, from when it is ready until it has stopped.

    All methods are safe from any thread; only `announce`, `wait_said` and `wait_seen` wait for anybody. What goes wrong
    later is logged: calls of this process need no directory.
    """

    def __init__(
        self,
        home: Home,
        composition: Composition,
        router: Router,
        changeable: Callable[[], Changeable],
        directory: Callable[[], Directory],
    ) -> None:
        """
        Prepare; says nothing yet.

        Args:
            home: The service's environment.
            composition: What was decided for it.
            router: Knows which replicas take calls.
            changeable: Gives what may be otherwise now than the composition says.
            directory: Gives where it is said.
        """
        self._home = home
        self._composition = composition
        self._router = router
        self._changeable = changeable
        self._find_directory = directory
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
    def home(self) -> Home:
        """The environment to which the service belongs."""
        return self._home

    @property
    def directory(self) -> Directory:
        """Where it is said."""
        return self._find_directory()

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

    def wait_said(self) -> None:
        """Wait until other processes that ask find the service; not for long, if it cannot be said."""
        with self._lock:
            directory, listing = self._announced, self._listing_now
        if directory is not None and listing is not None:
            directory.wait_seen(listing.service, 0, _SAID_WITHIN_S)

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
        composition, router = self._composition, self._router
        config = composition.config
        now = self._changeable()
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
