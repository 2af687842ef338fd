"""Where other processes find the services of an environment: in a thread of the process that deploys it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from acme_sockets.transport import AttachedTransport
from sage_deploy_remote.reach.rpc_directory import RpcDirectory
from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.client import RpcClient
from sage_deploy_remote.rpc.server import RpcServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.reach.listing import ListedReplica
    from sage_plugins.interfaces import KnownService


class RunningDirectory:
    """The directory of one environment, in the process that deploys it, while one of its targets has services."""

    def __init__(self, address: Address) -> None:
        from sage_deploy_remote.reach.directory_server import DirectoryThread  # other processes need no event loop

        self.users: set[object] = set()
        self.thread = DirectoryThread()
        self._server = RpcServer(address, self.thread.request)

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.close()
        self.thread.close()


_lock = threading.Lock()
_addresses: dict[str, Address] = {}  # by environment; handles have them before anything is deployed
_running: dict[str, RunningDirectory] = {}  # by environment; guarded by _lock


def leave(user: object) -> None:
    """The target *user* has no services any more; a directory without users ends."""
    with _lock:
        for environment, running in list(_running.items()):
            running.users.discard(user)
            if not running.users:
                _running.pop(environment).close()


class SocketDirectory(RpcDirectory):
    """Where every process finds it."""

    def __init__(self, environment: str, address: Address | None = None, user: object = None) -> None:
        """Prepare; only the process that deploys gives a *user*, and has no address yet."""
        super().__init__(environment)
        self._address = address or _addresses.setdefault(environment, Address.new())
        self._user = user

    def announce(self, known: Mapping[str, KnownService]) -> None:
        """Start the directory if it is not there."""
        with _lock:
            if self.environment not in _running:
                _running[self.environment] = RunningDirectory(self._address)
            _running[self.environment].users.add(self._user)
        super().announce(known)

    def ask(self, method: str, *arguments: Any, **named: Any) -> Future[Any] | None:
        """Call a method of the directory, in the process that deploys."""
        running = _running.get(self.environment)
        return None if running is None else running.thread.request(method, *arguments, **named)

    def connect(self, service: str) -> Callable[..., Future[Any]]:
        """What calls a method of the directory, in other processes."""
        return RpcClient(self._address.connect, f"directory-of-{service}").request

    def transport(self, replica: ListedReplica, dispatcher: Dispatcher) -> AttachedTransport:
        """The way from other processes to a replica."""
        return AttachedTransport(dispatcher)

    def __reduce__(self) -> Any:
        """With its address."""
        return SocketDirectory, (self.environment, self._address)
