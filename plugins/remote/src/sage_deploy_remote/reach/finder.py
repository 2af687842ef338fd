"""Finds the services of an environment that another process has deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_deploy_remote.reach.client import ServiceClient
    from sage_deploy_remote.reach.directory import Directory
    from sage_plugins.interfaces import KnownService
    from sage_plugins.routing.handles.handle import ServiceHandle

__all__ = ["ServiceFinder"]


class ServiceFinder:
    """
    Gives handles to one environment's services, in any process; it can be pickled.

    It keeps the clients of found services as long as it lives. May be used from any thread.
    """

    def __init__(
        self,
        directory: Directory,
        environment: str,
        caller: str | None = None,
        known: Mapping[str, KnownService] | None = None,
    ) -> None:
        """
        Prepare; look for nothing yet.

        Args:
            directory: Directory of the environment.
            environment: Its name.
            caller: The service whose replica will ask, for messages; None if it is another program.
            known: The environment's services, as far as known. The directory is asked only about services that are
                missing here or not reachable: the caller may be an event loop, which stands still until the answer
                comes.
        """
        self._directory = directory
        self._environment = environment
        self._caller = caller
        self._known = {} if known is None else known
        self._found: dict[str, ServiceClient] = {}  # changed by single operations, which need no lock

    def __call__(self, name: str) -> ServiceHandle:
        """
        Return a handle to the service *name*.

        Raises:
            ServiceNotFoundError: The environment has no such service.
            CallError: The service ends with its deploying process, but the environment's other services do not.
            NoReplicaError: The process that deployed the environment has ended.
            ClusterUnavailableError: The cluster does not answer.
        """
        client = self._found.get(name)
        if client is None:
            from sage_deploy_remote.reach.client import client_for  # few replicas call other services

            client = client_for(self._directory, self._environment, name)
            known = self._known.get(name)
            if known is None or not known.reachable:  # this may have changed meanwhile
                client.check(self._caller)
            self._found[name] = client
        return client.handle_for(self._caller)

    def __reduce__(self) -> Any:
        """Pickle it with the services known now, without the clients."""
        return ServiceFinder, (self._directory, self._environment, self._caller, dict(self._known))
