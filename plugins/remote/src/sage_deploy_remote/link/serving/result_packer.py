"""Packs a replica's results and errors for other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.payloads.packing import pack_result

if TYPE_CHECKING:
    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["ResultPacker"]


class ResultPacker:
    """Packs what the methods of one replica return and raise. Thread-safe."""

    def __init__(self, service: str, replica: str, node: str | None, substrate: Substrate) -> None:
        self._whose = {"service": service, "replica": replica, "node": node, "substrate": substrate}

    def pack_error(self, error: BaseException, method: str) -> Any:
        """Return *error* packed."""
        return pack_error(error, method=method, **self._whose)  # type: ignore[arg-type] # its parameters

    def pack_result(self, value: Any, method: str) -> Payload:
        """Return *value* packed; raises ResultNotSerializableError if that fails."""
        return pack_result(value, method=method, **self._whose)  # type: ignore[arg-type] # as above
