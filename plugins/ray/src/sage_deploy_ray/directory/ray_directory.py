"""
Finds the services of an environment on a Ray cluster, through the directory actor.

Each deploying process has one directory actor in each namespace. All detached services of a namespace share another
one; see `directory_client`.
"""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sage_deploy_ray.actors.references import RAY
from sage_deploy_ray.cluster import connection as cluster
from sage_deploy_ray.directory import revive
from sage_deploy_ray.directory.registry_actor import REGISTRY
from sage_deploy_remote.reach.rpc_directory import RpcDirectory
from sage_deploy_remote.shipping import versions
from sage_plugins.errors import CallError, ClusterUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from sage_deploy_ray.actors.attached import AttachedTransport
    from sage_deploy_ray.directory.directory_client import DirectoryClient
    from sage_deploy_ray.options import RayOptions
    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.rpc_transport import Answer
    from sage_deploy_remote.reach.listing import ListedReplica, Listing
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_deploy_remote.shipping.versions import ProtocolVersion
    from sage_plugins.interfaces import KnownService

__all__ = ["RayDirectory"]

#: ID of this process. A forked child may have the same ID, because it cannot use Ray.
_PROCESS: Final = uuid4().hex

_lock = threading.Lock()
_client_connection: cluster.Connection | None = None  # of a process that deploys nothing; guarded by _lock


class RayDirectory(RpcDirectory):
    """
    The `Directory` of one environment. Equal directories publish and find the same services.

    Attributes:
        version: Protocol version of the process that deploys the environment.
    """

    substrate = RAY

    def __init__(
        self,
        environment: str,
        options: RayOptions,
        process: str | None = _PROCESS,
        connect: Callable[[], cluster.Connection] | None = None,
        version: ProtocolVersion | None = None,
    ) -> None:
        """
        Prepare the directory. Connects to nothing.

        Args:
            environment: Its ID.
            options: Options that name the cluster and the namespace.
            process: ID of the deploying process; None if the services are detached.
            connect: Returns the deploying process's connection; None in other processes.
            version: Protocol version of the deploying process; None if it is this one.
        """
        super().__init__(environment)
        self.version = versions.own_version() if version is None else version
        self.answers_within_s = options.control_timeout
        self._options = options
        self._process = process
        self._connect = connect

    @property
    def _name(self) -> str:
        return REGISTRY if self._process is None else f"sage-deploy-directory-{self._process}"

    # -- in the deploying process ------------------------------------------------------------------------------------

    def announce(self, known: Mapping[str, KnownService]) -> None:
        """As `Directory.announce`. Starts the actor if there is none."""
        assert self._connect is not None  # noqa: S101 - for the type checker: only the deploying process publishes
        connection = self._connect()
        connection.ask("its directory of services", self._client().start)
        super().announce(known)

    def is_there(self) -> bool:
        """As `RpcDirectory.is_there`."""
        return self._client().is_there

    def host(self) -> str | None:
        """As `Directory.host`. None if the options forbid sockets for calls."""
        if self._options.calls == "tasks":
            return None
        import ray

        found: str = ray.util.get_node_ip_address()
        return found

    def certificates(self) -> Certificates | None:
        """As `Directory.certificates`."""
        from sage_deploy_ray.cluster.certificates import certificates_here

        return certificates_here(self._options.tls)

    def publish(self, listing: Listing) -> None:
        """As `Directory.publish`."""
        super().publish(listing)
        if listing.stopped and not listing.replicas:
            self._client().forget((self.environment, listing.service))

    def say(self, about: Hashable, method: str, *arguments: Any, **named: Any) -> None:
        """As `RpcDirectory.say`. If the actor dies, the last statement about the same thing is repeated."""
        self._client().send(about, method, *arguments, **named)

    def ask(self, method: str, *arguments: Any, **named: Any) -> Answer | None:
        """As `RpcDirectory.ask`. The actor handles the requests of one process in order."""
        from sage_deploy_ray.actors.requests import RayAnswer

        task = self._client().ask(method, *arguments, **named)
        return None if task is None else RayAnswer(task)

    def _client(self) -> DirectoryClient:
        from sage_deploy_ray.directory.directory_client import client_for

        return client_for(self._name, self._options.namespace)

    # -- in other processes ------------------------------------------------------------------------------------------

    def within_reach(self) -> bool:
        """As `Directory.within_reach`: whether this process is connected to a cluster."""
        return cluster.is_connected()

    def connect(self, service: str) -> Callable[..., Answer] | None:
        """As `RpcDirectory.connect`."""
        problem = versions.difference("the process that deployed it", self.version)
        if problem is not None:
            msg = f"service '{service}' cannot be called from this process: {problem}"
            raise CallError(msg, service=service)
        from sage_deploy_ray.actors.requests import request

        actor = self.actor()
        return None if actor is None else lambda method, *args: request(lambda: getattr(actor, method).remote(*args))

    def transport(self, replica: ListedReplica, dispatcher: Dispatcher) -> AttachedTransport:
        """As `RpcDirectory.transport`."""
        from sage_deploy_ray.actors.attached import AttachedTransport

        return AttachedTransport(replica, self._options, dispatcher)

    def connection(self) -> cluster.Connection:
        """
        Return this process's connection to the cluster. Connects if the options say where the cluster is.

        Raises:
            ClusterUnavailableError: The process is not connected and cannot connect.
        """
        global _client_connection  # noqa: PLW0603 - Ray has one connection per process
        if self._connect is not None:
            return self._connect()
        with _lock:
            if _client_connection is None or not cluster.is_connected():  # connects again if the program ended Ray
                options = self._options
                if cluster.would_start_private_runtime(options.address):
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
        Return the directory's actor, or None if there is none.

        Raises:
            ClusterUnavailableError: As for `connection`, or the cluster does not answer.
        """
        return self.connection().ask("its directory of services", self._find)

    def _find(self) -> Any | None:
        import ray

        try:
            return ray.get_actor(self._name, self._options.namespace)
        except ValueError:  # no actor has that name
            return None

    def __reduce__(self) -> Any:
        """Pickle without this process's connection."""
        return revive, (self.version, self.environment, self._options, self._process)
