"""Context variables: the call that the present code answers, and the texts that its own calls carry."""

from __future__ import annotations

from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Context

    from sage_plugins.call.call import Call

__all__ = ["CALL_LISTENER", "CARRIED", "CURRENT", "INJECTORS", "carry", "current_call", "leaving_with", "request_id"]

#: The call that runs in this context, if any. Nested calls inherit its deadline.
CURRENT: ContextVar[Call | None] = ContextVar("sage_deploy_call", default=None)

#: Short texts by name that calls made in this context carry, also into other processes. `carry` replaces the mapping.
CARRIED: ContextVar[Mapping[str, str]] = ContextVar("sage_deploy_carried", default=MappingProxyType({}))

#: Called for each call that leaves this process, in its context, with the texts that it carries; may add more.
INJECTORS: Final[list[Callable[[dict[str, str]], object]]] = []

#: Called for each call and stream that a coroutine makes in this context outside service methods, before it is sent.
CALL_LISTENER: ContextVar[Callable[[Call], None] | None] = ContextVar("sage_deploy_call_listener", default=None)


def current_call() -> Call | None:
    """Return the call that the present code answers, or None outside service methods."""
    return CURRENT.get()


def carry(**entries: str) -> None:
    """Add *entries* to the texts carried by calls that are made in this context from now on."""
    CARRIED.set({**CARRIED.get(), **entries})


def request_id() -> str | None:
    """Return the ID of the request that the present code serves; None if there is none."""
    return CARRIED.get().get("request_id")


def leaving_with(context: Context | None) -> dict[str, str] | None:
    """Return the texts that a call made in *context* carries out of this process; None if there are none."""
    if context is None:
        return None
    carried = context.get(CARRIED)
    if INJECTORS:
        carried = dict(carried or ())
        for inject in INJECTORS:
            context.run(inject, carried)
    return dict(carried) if carried else None
