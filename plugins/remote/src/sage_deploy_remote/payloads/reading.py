"""Values as their caller gets them: what unpacking one raises is the outcome of that one call."""

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
    The value in *packed*, or the error that its caller gets instead; never raises.

    What would end the caller, such as SystemExit, becomes a `RemoteError`.

    Args:
        packed: The value.
        service: Whose call it is.
        method: The method.
        what: What the value is to the call.
    """
    try:
        return unpack(packed), None
    except Exception as raised:  # noqa: BLE001 - whatever unpickling does is the caller's to know
        return None, raised
    except BaseException as raised:  # noqa: BLE001 - as above, but no class decides that its reader ends
        return None, RemoteError(
            f"a call of {service}.{method} failed, because unpacking {what} raised {text_of(raised)}. Use plain data "
            "instead",
            type_name=type(raised).__name__,
            original_message=text_of(raised).partition(": ")[2],
            service=service,
            method=method,
        )
