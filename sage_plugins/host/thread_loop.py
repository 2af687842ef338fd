"""
The event loop of a worker thread, for `async def` methods and hooks under strategies with threads.

Also defines the types of results that still have to run.
"""

from __future__ import annotations

import threading
from contextvars import Context, copy_context
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.call.event_loops import LOOPS_OF_REPLICAS
from sage_plugins.threads import future_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["UNRUN", "WorkerLoop"]

#: Types of results that still have to run. Given to the caller, they would run there, outside the replica's slots. A
#: method may return one if a decorator hides that it is a coroutine or generator function.
UNRUN: Final = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})


class WorkerLoop(threading.local):
    """
    Runs coroutines from a thread. Each worker has a loop of its own, made for its first coroutine.

    Attributes:
        kept: Whether this thread belongs to a worker, which closes the loop; set by the worker.
    """

    kept: bool = False
    _runner: Any = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run *coroutine* with the present context variables, and return its result."""
        import asyncio

        if not self.kept:  # a caller's own thread, in which a loop may be running
            future = future_of(lambda: _run_apart(coroutine), "sage-deploy-coroutine", context=copy_context())
            return future.result()
        if self._runner is None:
            self._runner = asyncio.Runner()
            # The loop keeps the context in which it is made. The present one would keep this call's arguments alive.
            LOOPS_OF_REPLICAS[Context().run(self._runner.get_loop)] = False
        return self._runner.run(coroutine, context=copy_context())

    def close(self) -> None:
        """Close this thread's loop, if it has one."""
        self.kept = False
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


def _run_apart(coroutine: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    with asyncio.Runner() as runner:
        LOOPS_OF_REPLICAS[runner.get_loop()] = False
        return runner.run(coroutine)
