"""A base for targets that other processes can reach through a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_deploy_remote.reach.directory import Directory
    from sage_plugins.clock import Clock
    from sage_plugins.interfaces import (
        EarlierService,
        EnvironmentView,
        Keeper,
        Reach,
        ReachableService,
        Replica,
        ReplicaEvents,
    )
    from sage_plugins.values import ReplicaSpec

__all__ = ["DirectoryTarget"]


class DirectoryTarget:
    """
    A base for targets that declare `reachable`: it implements `interfaces.ReachableTarget`.

    A subclass adds `directory`. If it also declares `detaches`, it adds `keeper` and `adopt`.
    """

    def directory(self, environment: str) -> Directory:
        """As `PublishingTarget.directory`."""
        raise NotImplementedError

    def reach(
        self,
        service: ReachableService,
        environment: EnvironmentView,
        accepts: Callable[[EarlierService], None] | None = None,
    ) -> Reach:
        """As `ReachableTarget.reach`: publish the service in the directory."""
        from sage_deploy_remote.reach.publishing import Publication  # starting a replica does not need it

        return Publication(self, service, environment, accepts)

    def beside(
        self, service: ReachableService, environment: EnvironmentView, beside: Callable[[], Sequence[Reach]]
    ) -> Reach:
        """As `PublishingTarget.beside`: publish the service in the directory; calls come to this process."""
        from sage_deploy_remote.driver.publishing import DriverPublication  # many environments have none

        return DriverPublication(self, service, environment, beside)

    def finder(self, environment: str, name: str) -> Callable[[str], Any]:
        """As `ReachableTarget.finder`: look up services in the directory."""
        from sage_deploy_remote.reach.finder import ServiceFinder  # as above

        return ServiceFinder(self.directory(environment), name)

    def keeper(self, environment: str, name: str) -> Keeper | None:  # noqa: ARG002 - as in the interface
        """Return None: replicas end with this process."""
        return None

    def adopt(self, spec: ReplicaSpec, earlier: Any, events: ReplicaEvents, clock: Clock) -> Replica:  # noqa: ARG002
        """
        Raise DeployError: there are no replicas of an earlier process.

        Raises:
            DeployError: Always.
        """
        msg = f"replica {spec.id} ended with the process that started it"
        raise DeployError(msg, service=spec.service, replica=spec.id)
