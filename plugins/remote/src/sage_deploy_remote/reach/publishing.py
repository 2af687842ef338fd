"""Publishes a service in a directory, so that other processes can call it."""

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

#: Seconds that other processes get to take in a change. It takes milliseconds, but some may have ended.
_SEEN_WITHIN_S: Final = 1.0

#: Seconds until a directory that has just started must have the first listing.
_LISTED_WITHIN_S: Final = 10.0

#: Seconds that the directory gets to say for which services start hooks wait.
_ANSWERED_WITHIN_S: Final = 1.0


class _Versions:
    """
    Increasing version numbers for the listings of all services of this process.

    They are at least the current time in nanoseconds, so they exceed what an earlier process published.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, after: int = 0) -> int:
        """Return the next number, which is above *after*."""
        with self._lock:
            self._last = max(self._last + 1, after + 1, time.time_ns())
            return self._last


_VERSIONS: Final = _Versions()


class PublishingTarget(Protocol):
    """The methods of a target that a `Publication` uses; `target.DirectoryTarget` is a base."""

    def directory(self, environment: str) -> Directory:
        """Return the directory of that environment; starts nothing. Equal for the same environment."""

    def beside(
        self, service: ReachableService, environment: EnvironmentView, beside: Callable[[], Sequence[Reach]]
    ) -> Reach:
        """As `Reach.beside`, for this target's services."""

    def keeper(self, environment: str, name: str) -> Keeper | None:
        """As `DetachingTarget.keeper`; None for a target whose replicas end with this process."""

    def adopt(self, spec: ReplicaSpec, earlier: Any, events: ReplicaEvents, clock: Clock) -> Replica:
        """As `Target.start`, for a replica from `Keeper.snapshot`. It may still be starting."""


class Publication:
    """
    The `interfaces.Reach` of a service that other processes call.

    Publishes the service's listing in the directory of its environment, from when it is ready until it has stopped.

    Errors after `announce` are only logged, because calls of this process need no directory.
    """

    def __init__(
        self,
        target: PublishingTarget,
        service: ReachableService,
        environment: EnvironmentView,
        accepts: Callable[[EarlierService], None] | None = None,
    ) -> None:
        self._target = target
        self._service = service
        self._composition = service.composition
        self._environment = environment
        self._accepts = accepts
        self._lock = threading.RLock()  # re-entrant: a signal handler may stop the service while this thread has it
        self._incarnation = 0  # guarded by _lock, as the next seven
        self._announced: Directory | None = None  # the directory that got `announce`
        self._known: dict[str, KnownService] = {}  # as announced; changed by single operations, which need no lock
        self._ready = False
        self._listing_now: Listing | None = None
        self._stopping = ""
        self._is_final = False
        self._failed = False
        self._waiting_elsewhere = 0  # last reported number
        self._asks_waiting = False  # whether a request for that number is open; guarded by _lock
        self._watches_woken = False  # whether the directory will tell when calls wait for a replica

    @property
    def directory(self) -> Directory:
        """The directory that has the listing."""
        keeper = self._keeper()
        return self._target.directory(self._environment.id if keeper is None else keeper.environment)

    def _keeper(self) -> Keeper | None:
        """Return the keeper that holds the service after this process ends; None if the service ends with it."""
        return self._target.keeper(self._environment.id, self._environment.name)

    @property
    def outlives(self) -> bool:
        """Whether the replicas continue when this process ends."""
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
        """The object that gives the replicas handles to other services, in their processes."""
        return ServiceFinder(self.directory, self._environment.name, self._composition.name, self._known)

    def announce(self, after: int = 0) -> None:
        """
        Announce the environment's services before the first replica starts, because it may ask for them.

        Args:
            after: Version of what another process has published about the service.

        Raises:
            ClusterUnavailableError: The directory cannot be reached.
        """
        directory = self.directory
        known = self._known_now()
        directory.announce(known)
        self._known.update(known)
        self._begin(directory, after)
        if not self.outlives:
            self._environment.announced(self)

    def _known_now(self) -> dict[str, KnownService]:
        """
        Return the environment's services.

        Other processes reach those of this process through it, as long as it lives.
        """
        known = self._environment.known()
        return {name: each if self.outlives else each._replace(reachable=True) for name, each in known.items()}

    def _begin(self, directory: Directory, after: int) -> None:
        with self._lock:
            self._announced = directory
            self._incarnation = self._incarnation or _VERSIONS.next(after)

    def ready(self) -> None:
        """Publish the service, which is ready: other processes may call it from now on."""
        with self._lock:
            self._ready = True
            self._publish()

    def changed(self) -> None:
        """Publish the new set of replicas, or the new balancer."""
        with self._lock:
            self._publish()

    def stopping(self) -> None:
        """Publish that the service accepts no more calls. Calls that were accepted continue."""
        with self._lock:
            self._stopping = "is stopping"
            self._publish()

    def stopped(self) -> None:
        """Publish that the replicas are about to stop, so that calls that have not started never will. Idempotent."""
        with self._lock:
            self._stopping = "has stopped"
            self._publish()
            self._is_final = True

    def ended(self) -> None:
        """Do nothing: everything was published by `stopped`."""

    def leave(self) -> None:
        """Publish nothing more, because another process now speaks for the service. Idempotent."""
        with self._lock:
            self._is_final = True

    def join(self, other: Reach) -> None:
        """Do nothing: other processes find the service in its directory."""

    @property
    def place(self) -> Directory:
        """As `Reach.place`."""
        return self.directory

    def beside(self, service: ReachableService, beside: Callable[[], Sequence[Reach]]) -> Reach | None:
        """As `Reach.beside`."""
        return None if self.outlives else self._target.beside(service, self._environment, beside)

    def wait_seen(self, limit: float = _SEEN_WITHIN_S) -> None:
        """Wait until other processes know the current state; at most *limit* seconds, and at most 1 s."""
        with self._lock:
            directory, listing = self._announced, self._listing_now
        if directory is not None and listing is not None:
            directory.wait_seen(listing.service, listing.version, max(0.0, min(limit, _SEEN_WITHIN_S)))

    def waiting_elsewhere(self) -> int:
        """Return the last reported number of calls that wait in other processes, and request it again."""
        with self._lock:
            directory = self._announced
            asks = directory is not None and not self._asks_waiting
            self._asks_waiting |= asks
        if asks and directory is not None:
            directory.ask_waiting(self._composition.name, self._set_waiting_elsewhere)
        return self._waiting_elsewhere

    def _set_waiting_elsewhere(self, waiting: int) -> None:
        with self._lock:
            self._waiting_elsewhere, self._asks_waiting = waiting, False

    def awaited_by_hooks(self) -> Sequence[str]:
        """As `Reach.awaited_by_hooks`."""
        with self._lock:
            directory = self._announced
        return () if directory is None else directory.awaited(self._composition.name, _ANSWERED_WITHIN_S)

    def wait_found(self) -> None:
        """Wait until other processes find the service; up to 10 s if the directory does not answer."""
        with self._lock:
            directory, listing = self._announced, self._listing_now
        if directory is not None and listing is not None:
            directory.wait_seen(listing.service, 0, _LISTED_WITHIN_S)

    def vacate(self, replicas: Sequence[Replica], limit: float) -> None:
        """As `Reach.vacate`."""
        clock = self._service.clock
        until = clock.monotonic() + limit
        self.wait_seen(limit)  # processes that do not know yet would send calls to replicas that have ended
        vacating: list[Any] = list(replicas)
        waits = [replica.vacate() for replica in vacating]  # `reachable` targets have this method
        for wait in waits:
            wait(max(0.0, until - clock.monotonic()))

    def handle_parts(self) -> tuple[Callable[..., ServiceHandle], tuple[Any, ...]]:
        """As `Reach.handle_parts`."""
        return revive, (self.directory, self._environment.name, self._composition.name)

    def _publish(self) -> None:
        """Publish the current state; under the lock, so that later states are published later."""
        directory = self._announced
        if directory is None or not self._ready or self._is_final:
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
        """While the service is scaled to zero, ask the directory to report calls of other processes."""
        if self._service.sleeps and not (self._watches_woken or self._stopping):
            self._watches_woken = True
            directory.watch_woken(self._composition.name, lambda woken: self._woken(directory, woken=woken))

    def _woken(self, directory: Directory, *, woken: bool) -> None:
        with self._lock:
            self._watches_woken = False
            if not woken and not self._is_final:
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
        """List the replicas that take calls, for callers in other processes."""
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
