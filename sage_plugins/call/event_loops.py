"""
Detects calls that block an event loop of this thread, and warns of them.

Does not import asyncio: if no other module has, no event loop runs.
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
    # Importing asyncio imports this C module, which is complete as soon as it is in `sys.modules`.
    module: Any = _modules.get("_asyncio")
    return None if module is None else module._get_running_loop()  # noqa: SLF001 - asyncio has no public name for it


def quickest_running_loop() -> Callable[[], asyncio.AbstractEventLoop | None]:
    """Return the fastest function for the running loop: asyncio's own, if asyncio is imported."""
    module: Any = _modules.get("_asyncio")
    return running_loop if module is None else module._get_running_loop  # noqa: SLF001 - as above


def holds_up_a_loop(loop: asyncio.AbstractEventLoop, outer: Call | None) -> bool:
    """
    Return whether blocking *loop* delays anything else.

    It does not if a replica's own loop runs a constructor or a hook, or answers only the waiting call. Nor does it in a
    notebook: its kernel runs each cell inside its own loop, and waits for the cell.

    Args:
        loop: The loop that runs in this thread.
        outer: The call that this thread answers, if any.
    """
    if "ipykernel" in _modules and threading.current_thread() is threading.main_thread():
        return False
    shared = LOOPS_OF_REPLICAS.get(loop)
    return shared is None or (shared and outer is not None and not outer.prepares)


def warn_of_blocking(service: str, method: str | None) -> None:
    """
    Give a `BlockingCallWarning` for the first line of code on the stack that is not sage-deploy's.

    Args:
        service: Its name.
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
