"""Which call the present code answers, and what goes along with the calls that it makes."""

from __future__ import annotations

from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Context

    from sage_plugins.call.call import Call

__all__ = ["CALL_LISTENER", "CARRIED", "CURRENT", "INJECTORS", "carry", "current_call", "leaving_with", "request_id"]

#: The call that runs in this context, if any: gives services their remaining time and their inner calls a deadline.
CURRENT: ContextVar[Call | None] = ContextVar("sage_deploy_call", default=None)

#: Short texts by name that go along with the calls made in this context, into other processes too. Replaced by `carry`.
CARRIED: ContextVar[Mapping[str, str]] = ContextVar("sage_deploy_carried", default=MappingProxyType({}))

#: Each is given what a call carries that leaves this process, in the context of that call, and may add to it.
INJECTORS: Final[list[Callable[[dict[str, str]], object]]] = []

#: Told of the calls and streams that coroutines make in this context, outside any service method, before they are sent.
CALL_LISTENER: ContextVar[Callable[[Call], None] | None] = ContextVar("sage_deploy_call_listener", default=None)


def current_call() -> Call | None:
    """The call on whose behalf the present code runs, or None outside any service method."""
    return CURRENT.get()


def carry(**entries: str) -> None:
    """Have *entries* go along with the calls that are made in this context from now on."""
    CARRIED.set({**CARRIED.get(), **entries})


def request_id() -> str | None:
    """ID of the request on whose behalf the present code runs; None if there is none."""
    return CARRIED.get().get("request_id")


def leaving_with(context: Context | None) -> dict[str, str] | None:
    """What a call that was made in *context* carries out of this process; None if that is nothing."""
    if context is None:
        return None
    carried = context.get(CARRIED)
    if INJECTORS:
        carried = dict(carried or ())
        for inject in INJECTORS:
            context.run(inject, carried)
    return dict(carried) if carried else None
