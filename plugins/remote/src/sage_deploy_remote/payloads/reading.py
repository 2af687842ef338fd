"""Unpacks values for their caller: an error of unpacking becomes the outcome of that one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_deploy_remote.payloads.payload import unpack
from sage_plugins.errors import RemoteError, text_of

if TYPE_CHECKING:
    from sage_deploy_remote.payloads.payload import Payload

__all__ = ["read"]


def read(
    packed: Payload, service: str, method: str, what: str = "what it returned"
) -> tuple[Any, BaseException | None]:
    """
    Return the value in *packed*, or the error that its caller gets instead; never raises.

    An exception that would end the caller, such as SystemExit, becomes a `RemoteError`.

    Args:
        packed: The value.
        service: Name of the called service.
        method: Name of the called method.
        what: What the value is to the call, for the error.
    """
    try:
        return unpack(packed), None
    except Exception as raised:  # noqa: BLE001 - any error goes to the caller
        return None, raised
    except BaseException as raised:  # noqa: BLE001 - as above, but no class may end its reader
        return None, RemoteError(
            f"a call of {service}.{method} failed, because unpacking {what} raised {text_of(raised)}. Use plain data "
            "instead",
            type_name=type(raised).__name__,
            original_message=text_of(raised).partition(": ")[2],
            service=service,
            method=method,
        )
