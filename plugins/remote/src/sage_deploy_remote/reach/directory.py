"""
Where processes find each other's services: what a target brings so that `publishing`, `finder` and `client` work.

A `Directory` is what the process that deploys an environment writes to. A `ServiceAccess` is how another process reads
about one service there.
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
    Where the process that deploys an environment says what runs, and others look it up.

    It is pickled, and what is unpickled in another process looks in the same place; equal ones do. All methods are safe
    from any thread.
    """

    @property
    def environment(self) -> str:
        """ID of the environment."""

    def announce(self, known: Mapping[str, KnownService]) -> None:
        """
        Say which services the environment knows; before one of them is started. Where that takes it, this connects.

        Raises:
            ClusterUnavailableError: It cannot be said.
        """

    def repeat(self, known: Mapping[str, KnownService]) -> bool:
        """As `announce`, where something was announced before; never blocks. False if there is no such place."""

    def host(self) -> str | None:
        """
        The address of this machine for callers on others, once something was announced.

        None if all callers are on this machine, or if nothing here may listen for others.
        """

    def certificates(self) -> Certificates | None:
        """
        Those of this process for connections between machines, on either side; None for connections without TLS.

        Raises:
            OSError: They are not as they must be.
        """

    def within_reach(self) -> bool:
        """Whether this process can look something up there, as far as that is known at once; starts nothing."""

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

    def watch_woken(self, service: str, tell: Callable[[bool], None]) -> None:
        """
        Have *tell* called once, when another process calls a service that has no replica; never blocks.

        It is called with True then, or with False after a while. It must not wait.
        """

    def ask_waiting(self, service: str, tell: Callable[[int], None]) -> None:
        """
        Have *tell* called once with how many calls of a service wait in other processes; never blocks.

        It is called with 0 if nobody answers. It must not wait.
        """

    def awaited(self, service: str, timeout: float) -> Sequence[str]:
        """Services for which the start hooks of *service* wait; empty if unknown in *timeout* seconds."""

    def open(self, service: str) -> ServiceAccess:
        """This process's way to a service that another one has deployed; starts nothing."""

    def __hash__(self) -> int:
        """As equality."""


class ServiceAccess(Protocol):
    """One process's way to one service that another process has deployed."""

    def look_up(self, seen: int, timeout: float, starting: str = "") -> Found | None:
        """
        What is known of the service; waits at most *timeout* seconds for another version than *seen*, 0 for none.

        It does not wait for a service that waits itself for *starting*.

        Args:
            seen: Version that is known; 0 for none.
            timeout: Seconds.
            starting: The service whose start hooks wait for this one; empty if none do.

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

    def wake(self, seen: int) -> None:
        """Say that calls wait for a replica while *seen*, the latest version, lists none; never blocks."""

    def report(self, waiting: int) -> None:
        """Say how many calls of the service wait in this process, to be said again within a second; never blocks."""

    def attach(self, replica: ListedReplica, events: ReplicaEvents, clock: Clock) -> Replica:
        """Reach a replica that runs; `LifeEvents.changed` is not told. It is never stopped from here."""

    def close(self) -> None:
        """Let go of everything here. Idempotent."""
