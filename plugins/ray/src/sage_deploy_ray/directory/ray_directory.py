"""
Where the services of an environment are looked up on a Ray cluster: in an actor that the deploying process keeps.

There is one for each deploying process and namespace, and one for all detached services of a namespace; see
`directory_client`.
"""

from __future__ import annotations

import atexit
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.cluster import connection as cluster
from sage_deploy_ray.directory import revive
from sage_deploy_ray.directory.registry_actor import REGISTRY
from sage_deploy_remote.payloads.packing import pack
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.reach.listing import Found
from sage_deploy_remote.shipping import versions
from sage_plugins.errors import CallError, ClusterUnavailableError, line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_deploy_ray.options import RayOptions
    from sage_deploy_remote.reach.listing import ListedReplica, Listing
    from sage_deploy_remote.shipping.versions import Spoken
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import KnownService, ReplicaEvents

__all__ = ["RayDirectory"]

#: Who this process is; a forked child cannot use Ray, so it may have the same.
_PROCESS: Final = uuid4().hex

#: Seconds after which one who waits for a change asks anew, in case it is forgotten that it waits.
_ASK_AGAIN_S: Final = 60.0

_lock = threading.Lock()
_client_connection: cluster.Connection | None = None  # of a process that deploys nothing; guarded by _lock


class RayDirectory:
    """
    `Directory` of one environment. Equal ones say and look up the same.

    Attributes:
        environment: ID of the environment.
        spoken: What the process speaks that deploys it.
    """

    def __init__(
        self,
        environment: str,
        options: RayOptions,
        process: str | None = _PROCESS,
        connect: Callable[[], cluster.Connection] | None = None,
        spoken: Spoken | None = None,
    ) -> None:
        """
        Prepare; connects to nothing.

        Args:
            environment: ID of the environment.
            options: Which cluster, and which namespace there.
            process: Who deploys the environment; None if its services are detached.
            connect: Gives that process's connection; None in others.
            spoken: What that process speaks; None if it is this one.
        """
        self.spoken = versions.spoken() if spoken is None else spoken
        self.environment = environment
        self._options = options
        self._process = process
        self._connect = connect

    @property
    def _name(self) -> str:
        return REGISTRY if self._process is None else f"sage-deploy-directory-{self._process}"

    # -- the process that deploys ------------------------------------------------------------------------------------

    def announce(self, known: Mapping[str, KnownService]) -> None:
        """As `Directory.announce`; starts the actor if there is none."""
        assert self._connect is not None  # noqa: S101 - for the type checker: only who deploys has something to say
        connection = self._connect()
        client = self._client()
        connection.ask("its directory of services", client.start)
        client.say(self.environment, "announce", self.environment, pack(dict(known), RAY))

    def publish(self, listing: Listing) -> None:
        """As `Directory.publish`."""
        client, about = self._client(), (self.environment, listing.service)
        rank, over = (listing.incarnation, listing.version), bool(listing.stopped)
        client.say(about, "publish", self.environment, listing.service, rank, pack(listing, RAY), over=over)
        if over and not listing.replicas:
            client.forget(about)

    def wait_seen(self, service: str, version: int, timeout: float) -> None:
        """As `Directory.wait_seen`."""
        import ray

        # Asked after all that was said, and answered after that too: an actor takes what one process says in its order.
        answer = self._client().ask("wait_seen", self.environment, service, version, timeout)
        if answer is not None:
            with suppress(Exception):  # it has died, or takes too long: nobody must wait for that
                ray.get(answer, timeout=timeout)

    def _client(self) -> Any:
        from sage_deploy_ray.directory.directory_client import client_for

        return client_for(self._name, self._options.namespace)

    # -- other processes ---------------------------------------------------------------------------------------------

    def open(self, service: str) -> _RayEntrance:
        """As `Directory.open`."""
        return _RayEntrance(self, service)

    def connection(self) -> cluster.Connection:
        """
        This process's connection to the cluster, which is made if there is none and it is known where the cluster is.

        Raises:
            ClusterUnavailableError: The process is connected to none, or cannot be.
        """
        global _client_connection  # noqa: PLW0603 - Ray is one a process
        if self._connect is not None:
            return self._connect()
        with _lock:
            if _client_connection is None or not cluster.is_connected():  # it is made anew if the program has ended Ray
                options = self._options
                if cluster.would_be_private(options.address):
                    raise ClusterUnavailableError(
                        "this process is connected to no Ray cluster, so it cannot call services there: call "
                        "ray.init(address=...) with the cluster's address first"
                    )
                _client_connection = cluster.connect(
                    address=None if cluster.is_connected() else options.address,
                    namespace=options.namespace,
                    control_timeout=options.control_timeout,
                    auth=options.auth,
                    warn=False,
                )
                atexit.register(_client_connection.release)
            return _client_connection

    def actor(self) -> Any | None:
        """
        The directory's actor, None if there is none.

        Raises:
            ClusterUnavailableError: As for `connection`, or the cluster does not answer.
        """
        return self.connection().ask("its directory of services", self._find)

    def _find(self) -> Any | None:
        import ray

        try:
            return ray.get_actor(self._name, self._options.namespace)
        except ValueError:  # there is none of that name
            return None

    def __eq__(self, other: object) -> bool:
        """Whether they are of the same environment."""
        return isinstance(other, RayDirectory) and other.environment == self.environment

    def __hash__(self) -> int:
        """Of the environment."""
        return hash(self.environment)

    def __reduce__(self) -> Any:
        """Without this process's connection."""
        return revive, (self.spoken, self.environment, self._options, self._process)

    @property
    def wait_s(self) -> float:
        """Seconds that the directory gets to answer."""
        return self._options.control_timeout


class _RayEntrance:
    """`Entrance` of one service."""

    def __init__(self, directory: RayDirectory, service: str) -> None:
        from sage_deploy_remote.link.dispatcher import Dispatcher

        self._directory = directory
        self._service = service
        self._dispatcher = Dispatcher(service)
        self._actor: Any = None  # of the directory, once it was found
        self._follower = uuid4().hex

    def _ask(self, seen: int, wait_s: float, follower: str = "") -> Any | None:
        """The directory's answer, on its way; None if there is no directory."""
        if self._actor is None:
            problem = versions.difference("the process that deployed it", self._directory.spoken)
            if problem is not None:
                msg = f"service '{self._service}' cannot be called from this process: {problem}"
                raise CallError(msg, service=self._service)
            self._actor = self._directory.actor()
        if self._actor is None:
            return None
        return self._actor.ask.remote(self._directory.environment, self._service, seen, wait_s, follower)

    def look_up(self, seen: int, timeout: float) -> Found | None:
        """As `Entrance.look_up`."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        answer = self._ask(seen, timeout)
        if answer is None:
            return None
        limit = self._directory.wait_s
        try:
            return self._read(ray.get(answer, timeout=timeout + limit))
        except GetTimeoutError as error:
            msg = (
                f"the directory of services on the Ray cluster did not answer within {limit:g} s, so service "
                f"'{self._service}' was not found: its node is overloaded or cut off"
            )
            raise ClusterUnavailableError(msg) from error
        except RayError:  # it has died, and with it most likely the process that kept it
            self._actor = None
            return None

    def _read(self, answer: Any) -> Found | None:
        if answer.known is None and answer.listing is None:  # it was started a moment ago, and is told soon
            return None
        try:
            listing = None if answer.listing is None else unpack(answer.listing)
            known = {} if answer.known is None else unpack(answer.known)
        except Exception as error:
            msg = (
                f"service '{self._service}' cannot be called from this process, because what its load balancer is made "
                f"of cannot be read here: {line_of(error)}. Have the same distributions in both places"
            )
            raise CallError(msg, service=self._service) from error
        return Found(listing, known)

    def watch(self, seen: int, tell: Callable[[Found | None], None]) -> None:
        """As `Entrance.watch`."""
        self._dispatcher.apart(lambda: self._watch(seen, tell))

    def _watch(self, seen: int, tell: Callable[[Found | None], None]) -> None:
        try:
            answer = self._ask(seen, _ASK_AGAIN_S, self._follower)
        except ClusterUnavailableError:  # it is asked again later
            answer = None
        if answer is None:
            tell(None)
        else:
            answer.future().add_done_callback(lambda done: self._dispatcher.apart(lambda: self._tell(done, tell)))

    def _tell(self, done: Any, tell: Callable[[Found | None], None]) -> None:
        try:
            answer = done.result()
        except Exception:  # noqa: BLE001 - whatever Ray says, it is not there any more
            self._actor = None
            tell(None)
        else:
            tell(self._read(answer))

    def attach(self, replica: ListedReplica, events: ReplicaEvents, clock: Clock) -> Any:
        """As `Entrance.attach`."""
        from sage_deploy_ray.actors.attached import attach

        return attach(replica, events, clock, self._dispatcher)

    def close(self) -> None:
        """As `Entrance.close`."""
        self._dispatcher.close()
