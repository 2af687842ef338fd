"""What a replica answers, ready to travel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.payloads.packing import pack_result

if TYPE_CHECKING:
    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.payloads.substrate import Substrate
    from sage_plugins.values import ReplicaSpec

__all__ = ["Answers"]


class Answers:
    """Packs what the methods of one replica return and raise. From any thread."""

    def __init__(self, spec: ReplicaSpec, node: str | None, substrate: Substrate) -> None:
        """
        Prepare.

        Args:
            spec: The replica.
            node: Its node, for errors.
            substrate: What carries them.
        """
        self._whose = {"service": spec.service, "replica": spec.id, "node": node, "substrate": substrate}

    def error(self, error: BaseException, method: str) -> Any:
        """*error*, ready to travel."""
        return pack_error(error, method=method, **self._whose)  # type: ignore[arg-type] # as it asks for

    def result(self, value: Any, method: str) -> Payload:
        """*value*, ready to travel; raises ResultNotSerializableError if it cannot."""
        return pack_result(value, method=method, **self._whose)  # type: ignore[arg-type] # as above
