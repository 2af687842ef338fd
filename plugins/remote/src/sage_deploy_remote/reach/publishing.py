"""What the process that deployed a service tells other processes of it, so that they can call it too."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_deploy_remote.reach.client import revive
from sage_deploy_remote.reach.finder import ServiceFinder
from sage_deploy_remote.reach.listing import ListedReplica, Listing
from sage_plugins.config.nested_keys import policies_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_deploy_remote.reach.directory import Directory
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import (
        EarlierReplica,
        EarlierService,
        EnvironmentView,
        Keeper,
        KnownService,
        Reach,
        ReachableService,
        Replica,
        ReplicaEvents,
    )
    from sage_plugins.routing.handles.handle import ServiceHandle
    from sage_plugins.values import ReplicaSpec

__all__ = ["Publication", "PublishingTarget"]

#: Seconds that another process gets to take in a change; it takes milliseconds, and some may have ended.
_SEEN_WITHIN_S: Final = 1.0

#: The same until a directory that has just been started has been told.
_SAID_WITHIN_S: Final = 10.0

#: Seconds for the directory to say for what the start hooks of a service wait.
_ANSWERED_WITHIN_S: Final = 1.0


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


class PublishingTarget(Protocol):
    """A target as a `Publication` uses it; `target.DirectoryTarget` is a base for one."""

    def directory(self, environment: str) -> Directory:
        """Where the environment of that ID says what runs; starts nothing. Equal for the same environment."""

    def beside(
        self, service: ReachableService, environment: EnvironmentView, beside: Callable[[], Sequence[Reach]]
    ) -> Reach:
        """As `Reach.beside`, of the services of this target."""

    def keeper(self, environment: str, name: str) -> Keeper | None:
        """As `DetachingTarget.keeper`; None for a target whose replicas end with this process."""

    def adopt(self, spec: ReplicaSpec, earlier: Any, events: ReplicaEvents, clock: Clock) -> Replica:
        """As `Target.start`, for a replica that `Keeper.snapshot` gave. It may still be starting."""


class Publication:
    """
    The `interfaces.Reach` of a service that other processes call.

    Keeps the listing of one service in the directory of its environment, from when it is ready until it has stopped.

    What goes wrong later than `announce` is logged: calls of this process need no directory.
    """

    def __init__(
        self,
        target: PublishingTarget,
        service: ReachableService,
        environment: EnvironmentView,
        accepts: Callable[[EarlierService], None] | None = None,
    ) -> None:
        """
        Prepare; says nothing yet.

        Args:
            target: The service's target.
            service: What is said.
            environment: The service's environment.
            accepts: As for `ReachableTarget.reach`.
        """
        self._target = target
        self._service = service
        self._composition = service.composition
        self._environment = environment
        self._accepts = accepts
        self._lock = threading.RLock()  # re-entrant because a signal handler may stop the service in the middle of it
        self._incarnation = 0  # guarded by _lock, as the next seven
        self._announced: Directory | None = None  # where
        self._known: dict[str, KnownService] = {}  # what was announced; changed in single steps, which need no lock
        self._ready = False
        self._listing_now: Listing | None = None
        self._stopping = ""
        self._over = False
        self._failed = False
        self._waiting_elsewhere = 0  # as it was said last
        self._asks = False  # whether that is asked at the moment; guarded by _lock
        self._listens = False  # whether it is to be told of calls that wait for a replica

    @property
    def directory(self) -> Directory:
        """Where it is said."""
        keeper = self._keeper()
        return self._target.directory(self._environment.id if keeper is None else keeper.environment)

    def _keeper(self) -> Keeper | None:
        """What keeps the service when this process ends; None if it ends with it."""
        return self._target.keeper(self._environment.id, self._environment.name)

    @property
    def outlives(self) -> bool:
        """Whether the replicas go on when this process ends."""
        return self._keeper() is not None

    def take_over(self) -> EarlierService | None:
        """As `Reach.take_over`."""
        keeper = self._keeper()
        if keeper is None:
            return None
        keeper.hold()
        earlier = None if self._accepts is None else keeper.snapshot(self._composition.name)
        if earlier is not None and self._accepts is not None:
            self._accepts(earlier)
        return earlier

    def adopt(self, earlier: EarlierReplica, spec: ReplicaSpec, events: ReplicaEvents, clock: Clock) -> Replica:
        """As `Reach.adopt`."""
        return self._target.adopt(spec, earlier, events, clock)

    @property
    def find_service(self) -> ServiceFinder:
        """What gives the replicas handles to other services, in their processes."""
        return ServiceFinder(self.directory, self._environment.name, self._composition.name, self._known)

    def announce(self, after: int = 0) -> None:
        """
        Say which services there are, before the first replica starts: it may ask for them.

        Args:
            after: Version of what another process has said of the service.

        Raises:
            ClusterUnavailableError: It cannot be said.
        """
        directory = self.directory
        known = self._known_now()
        directory.announce(known)
        self._known.update(known)
        self._begin(directory, after)
        if not self.outlives:
            self._environment.announced(self)

    def _known_now(self) -> dict[str, KnownService]:
        """The services of the environment; those of this process are reached through it, as long as it lives."""
        known = self._environment.known()
        return {name: each if self.outlives else each._replace(reachable=True) for name, each in known.items()}

    def _begin(self, directory: Directory, after: int) -> None:
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

    def ended(self) -> None:
        """Nothing is left to say."""

    def leave(self) -> None:
        """From now on another process speaks for the service. Idempotent."""
        with self._lock:
            self._over = True

    def join(self, other: Reach) -> None:
        """The service is found where it is."""

    @property
    def place(self) -> Directory:
        """As `Reach.place`."""
        return self.directory

    def beside(self, service: ReachableService, beside: Callable[[], Sequence[Reach]]) -> Reach | None:
        """As `Reach.beside`."""
        return None if self.outlives else self._target.beside(service, self._environment, beside)

    def wait_seen(self, limit: float = _SEEN_WITHIN_S) -> None:
        """Wait until other processes know how things are now; at most *limit* seconds, and not long for any of them."""
        with self._lock:
            directory, listing = self._announced, self._listing_now
        if directory is not None and listing is not None:
            directory.wait_seen(listing.service, listing.version, max(0.0, min(limit, _SEEN_WITHIN_S)))

    def waiting_elsewhere(self) -> int:
        """How many calls wait in other processes, as it was said last; has it asked again."""
        with self._lock:
            directory = self._announced
            asks = directory is not None and not self._asks
            self._asks |= asks
        if asks and directory is not None:
            directory.ask_waiting(self._composition.name, self._told_waiting)
        return self._waiting_elsewhere

    def _told_waiting(self, waiting: int) -> None:
        with self._lock:
            self._waiting_elsewhere, self._asks = waiting, False

    def awaited_by_hooks(self) -> Sequence[str]:
        """As `Reach.awaited_by_hooks`."""
        with self._lock:
            directory = self._announced
        return () if directory is None else directory.awaited(self._composition.name, _ANSWERED_WITHIN_S)

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
        return revive, (self.directory, self._environment.name, self._composition.name)

    def _publish(self) -> None:
        """Say how things are; under the lock, so that who looks later also speaks later."""
        directory = self._announced
        if directory is None or not self._ready or self._over:
            return
        try:
            self._listing_now = self._listing()
            directory.publish(self._listing_now)
            self._listen(directory)
        except Exception:
            first, self._failed = not self._failed, True
            if first:
                logging.getLogger("sage_plugins").exception(
                    "service '%s': other processes are not told how it changes; further faults are not reported",
                    self._composition.name,
                )

    def _listen(self, directory: Directory) -> None:
        """Be told of calls of other processes while there is no replica because there is nothing to do."""
        if self._service.sleeps and not (self._listens or self._stopping):
            self._listens = True
            directory.watch_woken(self._composition.name, lambda woken: self._woken(directory, woken=woken))

    def _woken(self, directory: Directory, *, woken: bool) -> None:
        with self._lock:
            self._listens = False
            if not woken and not self._over:
                self._listen(directory)
        if woken:
            self._service.wake()

    def _listing(self) -> Listing:
        composition, router = self._composition, self._service.router
        config = composition.config
        now = self._service
        error = router.unavailability
        lanes: tuple[Any, ...] = () if self._stopping == "has stopped" else router.lanes
        return Listing(
            service=composition.name,
            incarnation=self._incarnation,
            version=_VERSIONS.next(self._incarnation),
            methods=composition.methods,
            queue_size=config.queue_size,
            overload=config.overload,
            queue_timeout=config.queue_timeout,
            policies=policies_of(config),
            balancer=now.balancer,
            key_of=now.key_of,
            places=now.places,
            environment=composition.environment,
            scales=composition.autoscaler is not None,
            replicas=self._replicas(lanes),
            stopped=self._stopping,
            unavailable="" if error is None else str(error),
        )

    def _replicas(self, lanes: Sequence[Any]) -> tuple[ListedReplica, ...]:
        """Where callers in other processes send their calls, for the lanes that take some."""
        avoided = self._service.router.avoided
        return tuple(
            ListedReplica(
                self._composition.name,
                lane.id,
                lane.index,
                lane.node,
                lane.slots,
                lane.address,
                lane.seniority,
                avoided=lane in avoided,
            )
            for lane in lanes
        )
