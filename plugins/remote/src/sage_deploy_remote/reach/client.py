"""
The calling side of a service that another process has deployed. It queues calls here and sends them to the replicas.

A process has one `ServiceClient` for each service, shared by all its handles. The client has its own router, so calls
have the same semantics as in the deploying process. `docs/design/handles-that-travel.md` has a picture.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.reach import refusals
from sage_plugins.call.current import current_call
from sage_plugins.clock import SYSTEM
from sage_plugins.errors import NoReplicaError, text_of
from sage_plugins.process_end import find
from sage_plugins.routing.guarding.choice import guards_by
from sage_plugins.routing.handles.binding import Binding
from sage_plugins.routing.handles.handle import ServiceHandle
from sage_plugins.routing.lane import LaneEvents
from sage_plugins.routing.picking import make_balancer
from sage_plugins.routing.router_choice import router_class, when_full

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_deploy_remote.reach.directory import Directory, ServiceAccess
    from sage_deploy_remote.reach.listing import Found, ListedReplica, Listing
    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer
    from sage_plugins.interfaces import Work
    from sage_plugins.routing.router import Router
    from sage_plugins.values import Choice, MethodPlan, ReplicaState

__all__ = ["ServiceClient", "client_for", "revive"]

#: Seconds until a client looks again for a missing directory: at first, doubled each time, up to the second number.
_LOOK_AGAIN_S: Final = (0.25, 30.0)

#: Interval in seconds at which a client reports how many calls wait here, if the service scales by its load.
_REPORT_EVERY_S: Final = 1.0

# Guarded by _lock.
_clients: weakref.WeakValueDictionary[tuple[Directory, str], ServiceClient] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def client_for(directory: Directory, environment: str, service: str) -> ServiceClient:
    """
    Return this process's client of the service; make it if there is none.

    Args:
        directory: Directory of the service's environment.
        environment: Name of that environment, for messages.
        service: Its name.
    """
    with _lock:
        client = _clients.get((directory, service))
        if client is None:
            client = _clients[directory, service] = ServiceClient(directory, environment, service)
        return client


def revive(directory: Directory, environment: str, service: str, given: Mapping[str, Any]) -> ServiceHandle:
    """
    Return the handle that was pickled: to the service itself if this process deployed it, else to its client.

    Args:
        directory: Directory of the service's environment.
        environment: Name of that environment.
        service: Its name.
        given: The arguments of `with_options`.
    """
    own = find(directory.environment)
    handle = client_for(directory, environment, service).handle if own is None else own.service(service)
    return handle.with_options(**given) if given else handle


class _Attached(LaneEvents):
    """One replica that a client reaches; the plugin gets it as `interfaces.ReplicaEvents`."""

    def __init__(self, client: ServiceClient, router: Router, listed: ListedReplica) -> None:
        super().__init__(router.lane(listed.id, listed.index, listed.seniority))
        self._client = client  # so that anything that waits for the replica's answer keeps the client alive
        self.router = router
        self.listed = listed
        self.avoided = False

    def changed(self, state: ReplicaState, cause: BaseException | None = None) -> None:
        """Ignore the change: the listing has the state."""

    def remark(self, text: str) -> None:
        """As `LifeEvents.remark`, but log it: monitors are in the deploying process."""
        logging.getLogger("sage_plugins").info("service '%s' as called from here: %s", self.listed.service, text)

    def lost(self, not_started: Sequence[Work], maybe: Sequence[Work], cause: BaseException) -> None:
        self.router.lost(self.lane, not_started, maybe, cause)
        self._client.lost(self.router, cause)

    def service(self, name: str) -> Any:
        """Raise LookupError: only instances find services, and this replica's instance is in another process."""
        raise LookupError(name)


class ServiceClient:
    """
    A service that another process has deployed, as this process reaches it.

    The directory tells it at once when replicas change. Without a directory, it continues with the replicas that it
    knows. Thread-safe.

    Attributes:
        handle: Calls the service; all other handles of this process are made from it.
    """

    def __init__(self, directory: Directory, environment: str, service: str) -> None:
        """Prepare; look for nothing yet."""
        self._directory = directory
        self._environment = environment
        self._service = service
        self._access: ServiceAccess = directory.open(service)
        self._lock = threading.RLock()  # one thread at a time takes in news
        self._binding: Binding | None = None  # guarded by _lock, as all that follow
        self._methods: Mapping[str, MethodPlan] | None = None
        self._incarnation = 0
        self._seen_version = 0
        self._stopped = ""  # why it takes no calls, if so when first found: completes "service 'kv' ..."
        self._listed: Sequence[ListedReplica] = ()
        self._attached: dict[tuple[str, int], _Attached] = {}  # by ID and number of slots when attached
        self._lost: set[tuple[str, int]] = set()  # keys of replicas that died and may still be listed
        self._balancer: Any = None
        self._directory_gone = False  # whether the directory is missing
        self._look_again_after = _LOOK_AGAIN_S[0]
        self._binding_lock = threading.Lock()  # held by the thread that waits for the service
        self._look_timers: list[Timer] = []  # to look for a missing directory; at most one timer, as in the next two
        self._reattach_timers: list[Timer] = []  # to attach lost replicas again
        self._attach_again_after = _LOOK_AGAIN_S[0]
        self._report_timers: list[Timer] = []  # to report the number of waiting calls, if the service scales
        self._reported = 0
        self._forked = False  # whether this is the copy in a forked child
        # Neither the directory nor a waiting request keeps an unused client alive.
        timers = self._look_timers, self._reattach_timers, self._report_timers
        self._finalizer = weakref.finalize(self, _release, self._access, *timers)
        self._finalizer.atexit = False

    @property
    def handle(self) -> ServiceHandle:
        """A handle to the service."""
        return self.handle_for(None)

    def handle_for(self, caller: str | None) -> ServiceHandle:
        """Return a handle for a replica of the service *caller* of the same environment; None for any other program."""
        travels = partial(_travelling, self._directory, self._environment, self._service)
        return ServiceHandle(self._service, partial(self.bind, caller), travels=travels, methods=lambda: self._methods)

    # -- finding the service -----------------------------------------------------------------------------------------

    def check(self, caller: str | None) -> None:
        """
        Check that the service can be called from here. Does not wait until it is deployed.

        Args:
            caller: The service whose replica asks; None if it is another program.

        Raises:
            ServiceNotFoundError, CallError, NoReplicaError, ClusterUnavailableError: As for `ServiceFinder`.
            ForkedRuntimeError: As for `bind`.
        """
        self._refuse_forked()
        if self._binding is None:
            found = self._check_found(self._access.look_up(self._seen_version, 0.0), caller)
            if found.listing is not None:
                self._know_methods(found.listing)

    def bind(self, caller: str | None) -> Binding:
        """
        Return the binding to the replicas, for a handle's first call. Waits if the service is not deployed yet.

        It waits at most for the service's startup timeout, and until the deadline of the call that is being
        answered.

        Args:
            caller: The service whose replica asks; None if it is another program.

        Raises:
            ReentrantCallError: The caller's start hooks ask, and the service waits for these hooks.
            ServiceStoppedError: The service has stopped.
            CallTimeoutError: The deadline of the call that is being answered has passed.
            NoReplicaError: The service was not deployed in time, or the process that could do so has ended.
            ServiceNotFoundError, CallError, ClusterUnavailableError: As for `ServiceFinder`.
            ForkedRuntimeError: This process was forked from one that uses the service.
        """
        self._refuse_forked()
        binding = self._binding
        if binding is not None:
            return binding
        with self._binding_lock:
            begun, seen, limit = SYSTEM.monotonic(), self._seen_version, 0.0
            outer = current_call()
            starting = caller if caller is not None and outer is not None and outer.prepares else ""
            while self._binding is None:
                found = self._check_found(self._access.look_up(seen, limit, starting), None)
                refusals.check_no_circle(found, self._service)
                if found.listing is not None:
                    self._apply_listing(found.listing)
                    seen = found.listing.version
                    if self._binding is None:
                        raise refusals.stopped(self._service, self._stopped)
                else:
                    known = found.known[self._service]
                    limit = refusals.seconds_left(self._service, self._environment, begun, known.startup_timeout)
            self._watch_directory()
            return self._binding

    def _check_found(self, found: Found | None, caller: str | None) -> Found:
        return refusals.check_found(found, self._service, self._environment, caller)

    # -- in a forked child -------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """In a forked child: refuse every call, and touch nothing else, because it belongs to the parent."""
        self._forked = True
        self._finalizer.detach()
        if self._binding is not None:
            self._binding.router.after_fork(partial(refusals.forked, self._service))

    def _refuse_forked(self) -> None:
        if self._forked:
            raise refusals.forked(self._service)

    # -- following the service ---------------------------------------------------------------------------------------

    def _watch_directory(self) -> None:
        self._access.watch(self._seen_version, _NewsListener(self))

    def on_news(self, found: Found | None) -> None:
        """Act on news from the directory; None means that it is gone."""
        if found is None:
            with self._lock:
                self._directory_gone = True
                wait, self._look_again_after = self._look_again_after, min(2 * self._look_again_after, _LOOK_AGAIN_S[1])
            if self._binding is not None:
                self.lost(self._binding.router)
            self._look_timers[:] = [SYSTEM.call_at(SYSTEM.monotonic() + wait, partial(_watch_again, weakref.ref(self)))]
            return
        with self._lock:
            self._directory_gone = False
            self._look_again_after = _LOOK_AGAIN_S[0]
        try:
            if found.listing is not None:
                self._apply_listing(found.listing)
        except Exception as error:  # noqa: BLE001 - a balancer's plugin may be missing here, or raise anything
            logging.getLogger("sage_plugins").warning(
                "service '%s' has changed, and cannot be followed: %s", self._service, text_of(error)
            )
        self._watch_directory()

    def _know_methods(self, listing: Listing) -> None:
        self._methods = {method.name: method for method in listing.methods}

    def _apply_listing(self, listing: Listing) -> None:
        with self._lock:
            if listing.version <= self._seen_version:
                return
            self._seen_version = listing.version
            if self._binding is None or listing.incarnation != self._incarnation:
                self._stopped = listing.stopped
                if listing.stopped:
                    return
                self._begin(listing)
            binding = self._binding
            assert binding is not None  # noqa: S101 - for the type checker
            self._attach_again_after = _LOOK_AGAIN_S[0]
            self._follow_replicas(binding.router, listing.replicas)
            self._follow_balancer(binding.router, listing)
            self._follow_end(binding.router, listing)
            if listing.scales and not self._report_timers:
                self.report()
        if not binding.router.lanes and (binding.router.waiting or binding.router.parked):
            self._wake()

    def report(self) -> None:
        """Report how many calls wait here, unless there are none as before; repeat in a second."""
        router = None if self._binding is None else self._binding.router
        waiting = 0 if router is None or self._directory_gone else router.waiting + router.parked
        if waiting or self._reported:
            self._access.report(waiting)
        self._reported = waiting
        if self._finalizer.alive:
            due = SYSTEM.monotonic() + _REPORT_EVERY_S
            self._report_timers[:] = [SYSTEM.call_at(due, partial(_report_again, weakref.ref(self)))]

    def _wake(self) -> None:
        """Tell the deploying process that calls wait and there is no replica; it may start one."""
        self._access.wake(self._seen_version)

    def _begin(self, listing: Listing) -> None:
        """Make a router for a new deployment of the service; calls that were accepted earlier finish in the old one."""
        before = self._binding
        self._incarnation = listing.incarnation
        self._know_methods(listing)
        self._attached, self._lost = {}, set()
        self._balancer = _choice(listing)
        balancer, observe = make_balancer(listing.balancer, listing.where)
        router = router_class(listing.methods)(
            self._service,
            SYSTEM,
            queue_size=listing.queue_size,
            **when_full(listing.overload),
            guards=guards_by(listing.policies, partial(_decided, self._service)),
            count=_count_nothing,
            refused=_count_nothing,
            balancer=balancer,
            key_of=listing.key_of,
            observe=observe,
            on_balancer_error=partial(_balancer_failed, self._service),
            on_unserved=self._wake,
        )
        router.count_failed = _count_in_replica  # type: ignore[method-assign] # the replica counts, for its monitors
        self._binding = Binding(
            router, listing.methods, queue_timeout=listing.queue_timeout, runs_here=False, caller_reads=True
        )
        if before is not None:
            before.router.drain("was deployed again", _do_nothing)

    def _follow_replicas(self, router: Router, listed: Sequence[ListedReplica]) -> None:
        self._listed = listed
        for replica in listed:
            key = _key(replica)
            attached = self._attached.get(key)
            if attached is None and key not in self._lost:
                attached = self._attached[key] = _Attached(self, router, replica)
                router.open(attached.lane, self._access.attach(replica, attached, SYSTEM))
            if attached is not None and attached.avoided != replica.avoided:
                attached.avoided = replica.avoided
                router.avoid(attached.lane, avoided=replica.avoided)
        keys = set(map(_key, listed))
        self._lost &= keys
        for key in self._attached.keys() - keys:  # last: calls that wait for them then find the other replicas
            router.close_lane(self._attached.pop(key).lane)

    def _follow_balancer(self, router: Router, listing: Listing) -> None:
        if self._balancer != _choice(listing):
            self._balancer = _choice(listing)
            balancer, observe = make_balancer(listing.balancer, listing.where)
            router.set_balancer(balancer, listing.key_of, observe)

    def _follow_end(self, router: Router, listing: Listing) -> None:
        if listing.stopped:
            router.drain(listing.stopped, _do_nothing)
            if not listing.replicas:
                router.end()
        elif listing.unavailable:
            router.unavailable(lambda: NoReplicaError(listing.unavailable, service=self._service))

    def lost(self, router: Router, cause: BaseException | None = None) -> None:
        """Handle the death of a replica of *router*, or of the directory; if both are gone, calls can only fail."""
        with self._lock:
            dead = {key: each for key, each in self._attached.items() if each.lane.dead}
            self._lost |= dead.keys()
            for key in self._lost:
                self._attached.pop(key, None)
            current = self._binding is not None and self._binding.router is router
            if current and any(each.listed.can_reattach for each in dead.values()):
                self._attach_later()
            if router.lanes:
                return
            if current and self._directory_gone:
                msg = (
                    f"service '{self._service}' has no replica left, and the process that deploys environment "
                    f"'{self._environment}' has ended"
                )
                router.unavailable(lambda: NoReplicaError(msg, service=self._service))
            elif current and isinstance(cause, NoReplicaError):  # the error says that it cannot be reached from here
                said = str(cause)
                router.unavailable(lambda: NoReplicaError(said, service=self._service))
            elif not current:  # an earlier deployment gets no further replicas
                router.end()

    def _attach_later(self) -> None:
        wait = self._attach_again_after
        self._attach_again_after = min(2 * wait, _LOOK_AGAIN_S[1])
        due = SYSTEM.monotonic() + wait
        self._reattach_timers[:] = [SYSTEM.call_at(due, partial(_attach_again, weakref.ref(self)))]

    def attach_again(self) -> None:
        """Attach replicas again that were lost but are still listed with `can_reattach`."""
        with self._lock:
            if self._binding is None:
                return
            if self._directory_gone:
                self._attach_later()
                return
            self._lost -= {_key(each) for each in self._listed if each.can_reattach}
            self._follow_replicas(self._binding.router, self._listed)


class _NewsListener:
    """Passes news of the directory to a client, as long as the client is in use."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = weakref.ref(client)

    def __call__(self, found: Found | None) -> None:
        client = self._client()
        if client is not None:
            client.on_news(found)


def _release(access: ServiceAccess, *timers: list[Timer]) -> None:
    for timer in chain(*timers):
        timer.cancel()
    access.close()


def _key(listed: ListedReplica) -> tuple[str, int]:
    return listed.id, listed.slots


def _attach_again(client: weakref.ref[ServiceClient]) -> None:
    found = client()
    if found is not None:
        found.attach_again()


def _report_again(client: weakref.ref[ServiceClient]) -> None:
    found = client()
    if found is not None:
        found.report()


def _watch_again(client: weakref.ref[ServiceClient]) -> None:
    found = client()
    if found is not None:
        found._watch_directory()  # noqa: SLF001 - a method would keep the client alive


def _travelling(directory: Directory, environment: str, service: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return revive, (directory, environment, service)


def _choice(listing: Listing) -> tuple[Any, ...] | None:
    """Return a comparable key of the balancer: a choice that was pickled does not equal the earlier one."""
    choice: Choice | None = listing.balancer
    return None if choice is None else (choice.id, choice.options, choice.environment)


def _balancer_failed(service: str, error: BaseException) -> None:
    logging.getLogger("sage_plugins").warning(
        "service '%s': its load balancer failed and is replaced by turns here: %s", service, text_of(error)
    )


def _decided(service: str, kind: str, reason: str, _: str | None = None) -> None:
    """Log a guard's decision: events are in the deploying process."""
    logging.getLogger("sage_plugins").info("service '%s' as called from here: %s: %s", service, kind, reason)


def _count_nothing(*_: Any) -> None:
    """Count nothing: monitors are in the deploying process, and the replicas count what runs."""


def _count_in_replica(call: Call) -> None:
    """As `CallOwner.count_failed`: let the replica that ran *call* last count it."""
    call.lane.replica.count_failed(call)


def _do_nothing() -> None:
    """Do nothing when a client's calls have ended: nobody waits for that."""


def _after_fork() -> None:
    global _clients, _lock  # noqa: PLW0603 - the parent's are of no use here
    clients, _clients = _clients, weakref.WeakValueDictionary()
    _lock = threading.Lock()
    for client in list(clients.values()):
        client.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
