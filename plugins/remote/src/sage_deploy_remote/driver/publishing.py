"""Publishes a service whose replicas run in the deploying process, for other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.driver.listener import DriverListener, listener_for
from sage_deploy_remote.driver.server import DriverServer
from sage_deploy_remote.reach.client import revive
from sage_deploy_remote.reach.listing import ListedReplica
from sage_deploy_remote.reach.publishing import Publication
from sage_plugins.config.nested_keys import Policies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_deploy_remote.driver.address import DriverAddress
    from sage_deploy_remote.reach.directory import Directory
    from sage_deploy_remote.reach.listing import Listing
    from sage_deploy_remote.reach.publishing import PublishingTarget
    from sage_plugins.interfaces import EnvironmentView, Reach, ReachableService
    from sage_plugins.routing.handles.handle import ServiceHandle

__all__ = ["DriverPublication", "revive_near"]

#: Takes the place of a replica's number in the ID of such a service.
_DRIVER: Final = "driver"


class DriverPublication(Publication):
    """
    Publishes a service in the directory of another service's target; calls from other processes come to its router.

    Other processes see one replica with the slots of all. The router here decides which replica gets a call, and
    handles failed calls.
    """

    def __init__(
        self,
        target: PublishingTarget,
        service: ReachableService,
        environment: EnvironmentView,
        beside: Callable[[], Sequence[Reach]],
    ) -> None:
        super().__init__(target, service, environment)
        self._beside = beside
        self._listener: DriverListener | None = None  # guarded by _lock, as the next two; None until needed
        self._server: DriverServer | None = None
        self._address: DriverAddress | None = None

    def announce(self, after: int = 0) -> None:
        """Announce the environment's services again, if there is a directory; another service announced them before."""
        directory = self.directory
        if directory.repeat(self._known_now()):
            self._begin(directory, after)

    def _listing(self) -> Listing:
        said = super()._listing()
        methods = tuple(method._replace(max_concurrency=None) for method in said.methods)
        return said._replace(methods=methods, policies=Policies(), balancer=None, key_of=None, places=1)

    def _replicas(self, lanes: Sequence[Any]) -> tuple[ListedReplica, ...]:
        slots = sum(lane.slots for lane in lanes)
        if not slots:
            return ()
        name = self._composition.name
        return (ListedReplica(name, f"{name}#{_DRIVER}", 0, None, slots, self._reached_at(), can_reattach=True),)

    def _reached_at(self) -> DriverAddress:
        """Return the address; begin to listen there if this is the first call."""
        if self._address is None:
            self._listener = listener_for(self.directory)
            self._server = DriverServer(self._service, f"{self._composition.name}#{_DRIVER}")
            self._address = self._listener.accept_callers(self._server)
        return self._address

    def ended(self) -> None:
        """Stop listening, because all calls have been answered."""
        with self._lock:
            listener, server, address = self._listener, self._server, self._address
            self._listener = self._server = None
        if listener is not None and server is not None and address is not None:
            server.callers.close()
            listener.disconnect_callers(address.key)

    def handle_parts(self) -> tuple[Callable[..., ServiceHandle], tuple[Any, ...]]:
        """As `Reach.handle_parts`: the handle works in every process that reaches one of the directories."""
        directories = tuple(each.directory for each in self._beside() if isinstance(each, DriverPublication))
        return revive_near, (directories or (self.directory,), self._environment.name, self._composition.name)


def revive_near(
    directories: Sequence[Directory], environment: str, service: str, given: Mapping[str, Any]
) -> ServiceHandle:
    """As `client.revive`, with the first of several directories that this process reaches."""
    near = (each for each in directories if each.within_reach()) if len(directories) > 1 else iter(directories)
    return revive(next(near, directories[0]), environment, service, given)
