"""What makes a target reachable once it brings a directory."""

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
    A base for targets that declare `reachable`: it has what `interfaces.ReachableTarget` asks for.

    A subclass brings `directory`. One that declares `detaches` as well brings `keeper` and `adopt` too.
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
        """As `ReachableTarget.reach`: the service is published in the directory."""
        from sage_deploy_remote.reach.publishing import Publication  # not needed to start a replica

        return Publication(self, service, environment, accepts)

    def beside(
        self, service: ReachableService, environment: EnvironmentView, beside: Callable[[], Sequence[Reach]]
    ) -> Reach:
        """As `PublishingTarget.beside`: the service is published in the directory, and called in this process."""
        from sage_deploy_remote.driver.publishing import DriverPublication  # many environments have no such service

        return DriverPublication(self, service, environment, beside)

    def finder(self, environment: str, name: str) -> Callable[[str], Any]:
        """As `ReachableTarget.finder`: services are looked up in the directory."""
        from sage_deploy_remote.reach.finder import ServiceFinder  # as above

        return ServiceFinder(self.directory(environment), name)

    def keeper(self, environment: str, name: str) -> Keeper | None:  # noqa: ARG002 - as the interface has it
        """Replicas end with this process."""
        return None

    def adopt(self, spec: ReplicaSpec, earlier: Any, events: ReplicaEvents, clock: Clock) -> Replica:  # noqa: ARG002
        """
        There is no replica of an earlier process.

        Raises:
            DeployError: Always.
        """
        msg = f"replica {spec.id} ended with the process that started it"
        raise DeployError(msg, service=spec.service, replica=spec.id)
