"""
Whether waiting in this thread holds up an event loop.

Imports no asyncio: where nobody has imported it, no event loop of asyncio runs.
"""

from __future__ import annotations

import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from sage_plugins.errors import BlockingCallWarning

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sage_plugins.call.call import Call

__all__ = ["LOOPS_OF_REPLICAS", "holds_up_a_loop", "quickest_running_loop", "running_loop", "warn_of_blocking"]

#: The event loops of replicas in this process, and whether several calls share each.
LOOPS_OF_REPLICAS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, bool]] = WeakKeyDictionary()

_modules: Final = sys.modules


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    # The module in C is there as soon as asyncio is, and its functions are there as soon as it is.
    module: Any = _modules.get("_asyncio")
    return None if module is None else module._get_running_loop()  # noqa: SLF001 - asyncio has no public name for it


def quickest_running_loop() -> Callable[[], asyncio.AbstractEventLoop | None]:
    """What to ask for the running loop on the path of every call: asyncio's own function, once asyncio is imported."""
    module: Any = _modules.get("_asyncio")
    return running_loop if module is None else module._get_running_loop  # noqa: SLF001 - as above


def holds_up_a_loop(loop: asyncio.AbstractEventLoop, outer: Call | None) -> bool:
    """
    Whether anybody notices that *loop* waits.

    Nobody notices it while a replica's own loop runs a constructor or a hook, or answers only the call that waits.
    Nor in a notebook: its kernel runs each cell inside its own loop, and waits for it.

    Args:
        loop: Runs in this thread.
        outer: The call that is being answered here, if any.
    """
    if "ipykernel" in _modules and threading.current_thread() is threading.main_thread():
        return False
    shared = LOOPS_OF_REPLICAS.get(loop)
    return shared is None or (shared and outer is not None and not outer.prepares)


def warn_of_blocking(service: str, method: str | None) -> None:
    """
    Give a `BlockingCallWarning` for the first line of code on the stack that is not sage-deploy's.

    Args:
        service: Name of the service.
        method: Name of the method that is called; None if the call waits for the service to be deployed.
    """
    frame, level = sys._getframe(1), 2  # noqa: SLF001 - `skip_file_prefixes` came with Python 3.12
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("sage_plugins."):
        frame, level = frame.f_back, level + 1
    if method is None:
        text = (
            f"the first call of service '{service}' waits until it is deployed, and the event loop of this thread "
            "stands still until then. Deploy it before with `await env.adeploy()`, or call it with "
            "`await handle.aio.<method>(...)` or `await handle.acall(<method>, ...)`"
        )
    else:
        text = (
            f"this call of {service}.{method} blocks the event loop that runs in this thread. Use "
            f"`handle.aio.{method}(...)`, or `acall` (`astream` for generator methods)"
        )
    warnings.warn(text, BlockingCallWarning, stacklevel=level)
