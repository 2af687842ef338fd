"""
The interface of a directory, in which processes find each other's services. A target implements it.

The deploying process writes to a `Directory`. Another process reads about one service through a `ServiceAccess`.
`publishing`, `finder` and `client` use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_deploy_remote.reach.listing import Found, ListedReplica, Listing
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import KnownService, Replica, ReplicaEvents

__all__ = ["Directory", "ServiceAccess"]


class Directory(Protocol):
    """
    Holds what runs in an environment: the deploying process publishes it, others look it up. Thread-safe.

    A directory can be pickled; its copy in another process looks in the same place, and equals it.
    """

    @property
    def environment(self) -> str:
        """The environment's ID."""

    def announce(self, known: Mapping[str, KnownService]) -> None:
        """
        Announce the services that the environment knows, before one of them starts. Connects if necessary.

        Raises:
            ClusterUnavailableError: The directory cannot be reached.
        """

    def repeat(self, known: Mapping[str, KnownService]) -> bool:
        """Announce again; never blocks. Return False if there is no server."""

    def host(self) -> str | None:
        """
        Return the address of this machine for callers on others, after an announcement.

        None if all callers are on this machine, or if this process may not listen for others.
        """

    def certificates(self) -> Certificates | None:
        """
        Return this process's certificates for connections between machines, for both sides; None for no TLS.

        Raises:
            OSError: The certificate files are missing, unreadable or wrong.
        """

    def within_reach(self) -> bool:
        """Whether this process can look something up there, as far as that is known at once; starts nothing."""

    def publish(self, listing: Listing) -> None:
        """
        Publish a service's state; never blocks. A listing older than the known one is ignored.

        A later incarnation is newer; within an incarnation, a later version is newer.
        """

    def wait_seen(self, service: str, version: int, timeout: float) -> None:
        """
        Wait until clients find the published listing, and the service's followers have taken in *version*.

        Args:
            service: Its name.
            version: Version of this or an earlier listing; 0 to wait for no follower.
            timeout: Longest wait in seconds.
        """

    def watch_woken(self, service: str, tell: Callable[[bool], None]) -> None:
        """
        Call *tell* once when another process calls a service that has no replica; never blocks.

        *tell* gets True then, or False after a while. It must not wait.
        """

    def ask_waiting(self, service: str, tell: Callable[[int], None]) -> None:
        """
        Call *tell* once with the number of calls of a service that wait in other processes; never blocks.

        *tell* gets 0 if the directory does not answer. It must not wait.
        """

    def awaited(self, service: str, timeout: float) -> Sequence[str]:
        """Return the services for which the start hooks of *service* wait; empty if unknown after *timeout* seconds."""

    def open(self, service: str) -> ServiceAccess:
        """Return this process's access to a service that another process has deployed; starts nothing."""

    def __hash__(self) -> int:
        """Hash what equality compares."""


class ServiceAccess(Protocol):
    """The access of one process to one service that another process has deployed."""

    def look_up(self, seen: int, timeout: float, starting: str = "") -> Found | None:
        """
        Return what is known of the service. Wait at most *timeout* seconds for another version than *seen*.

        Does not wait if the service itself waits for *starting*.

        Args:
            seen: The known version; 0 for none.
            timeout: Longest wait in seconds.
            starting: The service whose start hooks wait for this one; empty if none do.

        Returns:
            None if there is no directory: nothing has been deployed yet, or the deploying process has ended.

        Raises:
            ClusterUnavailableError: This process is not connected to the cluster, or the directory does not answer.
            CallError: The answer cannot be unpacked here.
        """

    def watch(self, seen: int, tell: Callable[[Found | None], None]) -> None:
        """
        Call *tell* once when there is another version than *seen*, or after a while; never blocks.

        This also reports that this process has taken in *seen*. *tell* runs in a thread that reads no responses, and
        gets None if there is no directory.
        """

    def wake(self, seen: int) -> None:
        """Report that calls wait for a replica, while the latest version *seen* lists none; never blocks."""

    def report(self, waiting: int) -> None:
        """Report how many calls of the service wait in this process; repeat it every second. Never blocks."""

    def attach(self, replica: ListedReplica, events: ReplicaEvents, clock: Clock) -> Replica:
        """Connect to a running replica, without calling `LifeEvents.changed`. Clients never stop it."""

    def close(self) -> None:
        """Release everything here. Idempotent."""
