"""What a replica answers, ready to travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.payloads.packing import pack_result

if TYPE_CHECKING:
    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["Answers"]


class Answers:
    """Packs what the methods of one replica return and raise. From any thread."""

    def __init__(self, service: str, replica: str, node: str | None, substrate: Substrate) -> None:
        """
        Prepare.

        Args:
            service: Name of the service, for errors.
            replica: ID of the replica, likewise.
            node: Its node, likewise.
            substrate: What carries them.
        """
        self._whose = {"service": service, "replica": replica, "node": node, "substrate": substrate}

    def error(self, error: BaseException, method: str) -> Any:
        """*error*, ready to travel."""
        return pack_error(error, method=method, **self._whose)  # type: ignore[arg-type] # as it asks for

    def result(self, value: Any, method: str) -> Payload:
        """*value*, ready to travel; raises ResultNotSerializableError if it cannot."""
        return pack_result(value, method=method, **self._whose)  # type: ignore[arg-type] # as above
