"""Which call the present code answers, and on behalf of which request."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call

__all__ = ["CALL_LISTENER", "CURRENT", "REQUEST_ID", "current_call"]

#: The call that runs in this context, if any: gives services their remaining time and their inner calls a deadline.
CURRENT: ContextVar[Call | None] = ContextVar("sage_deploy_call", default=None)

#: The request on whose behalf the present code runs, if any: its ID goes along with the calls that are made from here.
REQUEST_ID: ContextVar[str | None] = ContextVar("sage_deploy_request", default=None)

#: Told of the calls and streams that coroutines make in this context, outside any service method, before they are sent.
CALL_LISTENER: ContextVar[Callable[[Call], None] | None] = ContextVar("sage_deploy_call_listener", default=None)


def current_call() -> Call | None:
    """The call on whose behalf the present code runs, or None outside any service method."""
    return CURRENT.get()
