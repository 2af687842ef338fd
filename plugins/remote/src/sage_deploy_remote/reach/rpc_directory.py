"""A directory whose `directory_server.DirectoryServer` is called remotely, on any substrate."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sage_deploy_remote.driver.address import DriverAddress
from sage_deploy_remote.payloads.packing import pack
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_deploy_remote.reach.listing import Found
from sage_plugins.clock import SYSTEM
from sage_plugins.errors import CallError, ClusterUnavailableError, line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.replica import RemoteReplica
    from sage_deploy_remote.link.rpc_transport import Answer
    from sage_deploy_remote.link.transport import Transport
    from sage_deploy_remote.payloads.substrate import Substrate
    from sage_deploy_remote.reach.listing import ListedReplica, Listing
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import KnownService, ReplicaEvents

__all__ = ["RpcDirectory", "RpcServiceAccess"]

#: Seconds after which a client that waits for a change asks again, in case the server has forgotten it.
_ASK_AGAIN_S: Final = 60.0

#: Seconds until a directory that has died, or whose answer could not be read, is asked again.
_ASKED_AGAIN_S: Final = 1.0

#: Seconds after which start hooks that wait for a service ask again.
_STARTING_ASKS_AGAIN_S: Final = 5.0


class RpcDirectory:
    """
    A base for the `Directory` of one environment. Directories of the same environment are equal.

    A subclass adds `ask` for the deploying process, which starts the server in `announce`, and `connect` and
    `transport` for other processes. It can be pickled.

    Attributes:
        environment: Its ID.
        substrate: Carries listings.
        answers_within_s: Seconds that the server gets to answer.
    """

    substrate: Substrate = PLAIN
    answers_within_s: float = 10.0

    def __init__(self, environment: str) -> None:
        self.environment = environment

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def ask(self, method: str, *arguments: Any, **named: Any) -> Answer | None:
        """Call a method of the server, in the order of these calls; never blocks. None if there is no server."""
        raise NotImplementedError

    def say(self, about: Hashable, method: str, *arguments: Any, **named: Any) -> None:  # noqa: ARG002 - for subclasses
        """As `ask`, if nobody waits for the answer. It may replace an earlier message about *about*."""
        self.ask(method, *arguments, **named)

    def is_there(self) -> bool:
        """Whether there is a server, in the deploying process; connects to nothing."""
        return True

    def within_reach(self) -> bool:
        """As `Directory.within_reach`."""
        return True

    def connect(self, service: str) -> Callable[..., Answer] | None:
        """
        Return a function that calls a method of the server and never blocks; None if there is no server.

        The function closes its connection when nobody refers to it.

        Args:
            service: The service that is looked up, for messages.

        Raises:
            ClusterUnavailableError: It is unknown whether there is a server.
            CallError: Its answer cannot be unpacked here.
        """
        raise NotImplementedError

    def transport(self, replica: ListedReplica, dispatcher: Dispatcher) -> Transport:
        """Make a transport to a running replica. Its `start` gets *replica*, and it reports only the replica's end."""
        raise NotImplementedError

    # -- in the deploying process ------------------------------------------------------------------------------------

    def announce(self, known: Mapping[str, KnownService]) -> None:
        """As `Directory.announce`; a subclass also starts the server if there is none."""
        self.say(self.environment, "announce", self.environment, pack(dict(known), self.substrate))

    def repeat(self, known: Mapping[str, KnownService]) -> bool:
        """As `Directory.repeat`."""
        there = self.is_there()
        if there:
            RpcDirectory.announce(self, known)
        return there

    def host(self) -> str | None:
        """As `Directory.host`: None, for callers on this machine only; subclasses may override it."""
        return None

    def certificates(self) -> Certificates | None:
        """As `Directory.certificates`: None; subclasses may override it."""
        return None

    def publish(self, listing: Listing) -> None:
        """As `Directory.publish`."""
        about = self.environment, listing.service
        rank, packed = (listing.incarnation, listing.version), pack(listing, self.substrate)
        self.say(about, "publish", *about, rank, packed, over=bool(listing.stopped))

    def wait_seen(self, service: str, version: int, timeout: float) -> None:
        """As `Directory.wait_seen`."""
        answer = self.ask("wait_seen", self.environment, service, version, timeout)
        if answer is not None:
            with suppress(Exception):  # the server died or is too slow: do not wait for it
                answer.result(timeout)

    def watch_woken(self, service: str, tell: Callable[[bool], None]) -> None:
        """As `Directory.watch_woken`."""
        answer = self.ask("wait_woken", self.environment, service, _ASK_AGAIN_S)
        if answer is None:
            _tell_later(tell)
        else:
            answer.add_done_callback(lambda done: _tell_woken(done, tell))

    def ask_waiting(self, service: str, tell: Callable[[int], None]) -> None:
        """As `Directory.ask_waiting`."""
        answer = self.ask("waiting", self.environment, service)
        if answer is None:
            tell(0)
        else:
            answer.add_done_callback(lambda done: tell(_number(done)))

    def awaited(self, service: str, timeout: float) -> Sequence[str]:
        """As `Directory.awaited`."""
        answer = self.ask("awaited", self.environment, service)
        if answer is not None:
            with suppress(Exception):  # as above
                found: Sequence[str] = answer.result(timeout)
                return found
        return ()

    # -- in other processes ------------------------------------------------------------------------------------------

    def open(self, service: str) -> RpcServiceAccess:
        """As `Directory.open`."""
        return RpcServiceAccess(self, service)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other.environment == self.environment

    def __hash__(self) -> int:
        return hash(self.environment)


class RpcServiceAccess:
    """The `ServiceAccess` of one service."""

    def __init__(self, directory: RpcDirectory, service: str) -> None:
        """Prepare; connects to nothing."""
        from sage_deploy_remote.link.dispatcher import Dispatcher  # most processes only pass a directory on

        self._directory = directory
        self._service = service
        self._dispatcher = Dispatcher(service)
        self._request: Callable[..., Answer] | None = None  # set once the server was found
        self._follower = uuid4().hex
        self._unreadable = False  # whether the last listing could not be read here

    def _ask(self, seen: int, wait_s: float, follower: str = "", starting: str = "") -> Answer | None:
        """Ask the directory, and return its future answer; None if there is no directory."""
        request = self._request
        if request is None:
            request = self._request = self._directory.connect(self._service)
        if request is None:
            return None
        return request("ask", self._directory.environment, self._service, seen, wait_s, follower, starting)

    def look_up(self, seen: int, timeout: float, starting: str = "") -> Found | None:
        """As `ServiceAccess.look_up`."""
        if starting:  # if the other's process died, its wait must not block this one for long
            timeout = min(timeout, _STARTING_ASKS_AGAIN_S)
        asked = self._ask(seen, timeout, starting=starting)
        if asked is None:
            return None
        limit = self._directory.answers_within_s
        try:
            error = asked.exception(timeout + limit)
        except TimeoutError as late:
            msg = (
                f"the directory of services did not answer within {limit:g} s, so service '{self._service}' was not "
                "found: its node is overloaded or cut off"
            )
            raise ClusterUnavailableError(msg) from late
        if error is not None:  # the server died, and most likely its process too
            self._request = None
            return None
        return self._read(asked.result())

    def _read(self, answer: Any) -> Found | None:
        if answer.known is None and answer.listing is None:  # it has just started, and will soon be told
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
        return Found(listing, known, answer.circle)

    def watch(self, seen: int, tell: Callable[[Found | None], None]) -> None:
        """As `ServiceAccess.watch`."""
        self._dispatcher.run_slow(lambda: self._watch(seen, tell))

    def _watch(self, seen: int, tell: Callable[[Found | None], None]) -> None:
        try:
            asked = self._ask(seen, _ASK_AGAIN_S, self._follower)
        except ClusterUnavailableError:  # ask again later
            asked = None
        if asked is None:
            tell(None)
        else:
            asked.add_done_callback(lambda done: self._dispatcher.run_slow(lambda: self._tell(done, seen, tell)))

    def _tell(self, done: Answer, seen: int, tell: Callable[[Found | None], None]) -> None:
        found: Found | None = None
        try:
            found = self._read(done.result())
        except CallError as error:  # a later listing may be readable again
            if not self._unreadable:
                logging.getLogger("sage_plugins").warning("%s", error)
            self._unreadable = True
            SYSTEM.call_at(SYSTEM.monotonic() + _ASKED_AGAIN_S, lambda: self.watch(seen, tell))
            return
        except BaseException:  # noqa: BLE001 - any error means that the server is gone
            self._request = None
        else:
            self._unreadable = False
        tell(found)

    def wake(self, seen: int) -> None:
        """As `ServiceAccess.wake`."""
        self._dispatcher.run_slow(lambda: self._wake(seen))

    def _wake(self, seen: int) -> None:
        request = self._request
        if request is not None:  # without a server there is nobody to tell
            request("wake", self._directory.environment, self._service, seen)

    def report(self, waiting: int) -> None:
        """As `ServiceAccess.report`."""
        self._dispatcher.run_slow(lambda: self._report(waiting))

    def _report(self, waiting: int) -> None:
        request = self._request
        if request is not None:
            request("report", self._directory.environment, self._service, self._follower, waiting)

    def attach(self, replica: ListedReplica, events: ReplicaEvents, clock: Clock) -> RemoteReplica:
        """As `ServiceAccess.attach`."""
        from sage_deploy_remote.link.replica import RemoteReplica  # as above

        transport: Transport
        if isinstance(replica.address, DriverAddress):
            from sage_deploy_remote.driver.transport import DriverTransport  # as above

            transport = DriverTransport(self._dispatcher, self._directory.certificates)
        else:
            transport = self._directory.transport(replica, self._dispatcher)
        attached = RemoteReplica(replica, replica.node, events, clock, transport)
        attached.slots = replica.slots
        return attached

    def close(self) -> None:
        """As `ServiceAccess.close`."""
        self._request = None
        self._dispatcher.close()


def _number(done: Answer) -> int:
    try:
        return int(done.result())
    except BaseException:  # noqa: BLE001 - any error means that the server is not there for now
        return 0


def _tell_woken(done: Answer, tell: Callable[[bool], None]) -> None:
    try:
        woken = done.result()
    except BaseException:  # noqa: BLE001 - any error means that the server is not there for now
        _tell_later(tell)
    else:
        tell(bool(woken))


def _tell_later(tell: Callable[[bool], None]) -> None:
    woken = False
    SYSTEM.call_at(SYSTEM.monotonic() + _ASKED_AGAIN_S, lambda: tell(woken))
