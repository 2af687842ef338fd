"""A directory in a thread of the deploying process, for targets whose replicas are processes of the same machine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_deploy_remote.reach.rpc_directory import RpcDirectory
from sage_deploy_remote.rpc.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from sage_plugins.interfaces import KnownService

__all__ = ["DriverDirectory", "leave"]


class _Running:
    """The directory server of one environment."""

    def __init__(self, address: Address) -> None:
        from sage_deploy_remote.reach.directory_server import DirectoryThread  # other processes need no event loop
        from sage_deploy_remote.rpc.server import RpcServer  # as above

        self.users: set[object] = set()
        self.thread = DirectoryThread()
        self._server = RpcServer(address, self.thread.request)

    def close(self) -> None:
        self._server.close()
        self.thread.close()


_lock = threading.Lock()
_addresses: dict[str, Address] = {}  # by environment; handles have the addresses before anything is deployed
_running: dict[str, _Running] = {}  # by environment; guarded by _lock


def leave(user: object) -> None:
    """Note that the target *user* has no services any more; end the directories that have no user left."""
    with _lock:
        for environment, running in list(_running.items()):
            running.users.discard(user)
            if not running.users:
                _running.pop(environment).close()


class DriverDirectory(RpcDirectory):
    """
    A base for the directory of a target whose replicas are processes of this machine. May be used from any thread.

    The server starts with the first service of an environment, and `leave` ends it with the last. A subclass adds
    `transport`.
    """

    def __init__(self, environment: str, address: Address | None = None, user: object = None) -> None:
        """
        Prepare; connects to nothing.

        Args:
            environment: Its ID.
            address: Address of the server, for other processes; None in the deploying process.
            user: The target that publishes here, for `leave`; None in other processes.
        """
        super().__init__(environment)
        self._address = address or _addresses.setdefault(environment, Address.new())
        self._user = user

    def announce(self, known: Mapping[str, KnownService]) -> None:
        """As `RpcDirectory.announce`; starts the server if it is not running."""
        with _lock:
            if self.environment not in _running:
                _running[self.environment] = _Running(self._address)
            _running[self.environment].users.add(self._user)
        super().announce(known)

    def is_there(self) -> bool:
        """As `RpcDirectory.is_there`."""
        return self.environment in _running

    def within_reach(self) -> bool:
        """As `Directory.within_reach`: whether the socket exists."""
        return Path(str(self._address.place)).exists()

    def ask(self, method: str, *arguments: Any, **named: Any) -> Future[Any] | None:
        """As `RpcDirectory.ask`."""
        running = _running.get(self.environment)
        return None if running is None else running.thread.request(method, *arguments, **named)

    def connect(self, service: str) -> Callable[..., Future[Any]]:
        """As `RpcDirectory.connect`."""
        from sage_deploy_remote.rpc.client import RpcClient  # most processes only pass the directory on

        return RpcClient(self._address.connect, f"directory-of-{service}").request

    def __reduce__(self) -> Any:
        """Pickle it with its address."""
        return type(self), (self.environment, self._address)
