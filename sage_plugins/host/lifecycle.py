"""
Steps of a replica's life, done by its workers as if they were calls, so that hooks run where calls run.

A step is a generator that yields the coroutines of `async def` hooks: in a thread they are run to their end, on an
event loop they are awaited.
"""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["Hooks", "Step"]

#: Runs hooks and yields the coroutines among them.
Hooks: TypeAlias = "Generator[Coroutine[Any, Any, Any], None, None]"


class Step:
    """
    One step.

    Attributes:
        begun: Set when a worker came to it.
        done: Set when it has ended.
        error: What a hook raised, if one did.
    """

    __slots__ = ("_hooks", "_run", "begun", "done", "error")

    expires = -inf  # so that `execute` takes it aside without a question of its own

    def __init__(self, hooks: Callable[[], Hooks], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """
        Prepare a step.

        Args:
            hooks: What it does.
            run: Runs a coroutine from a thread.
        """
        self._hooks = hooks
        self._run = run
        self.begun = threading.Event()
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do it in this thread."""
        self.begun.set()
        try:
            hooks = self._hooks()
            try:
                coroutine = next(hooks)
                while True:
                    try:
                        self._run(coroutine)
                    except BaseException as error:  # noqa: BLE001 - a hook's: what is left to do is for the generator to say
                        coroutine = hooks.throw(error)
                    else:
                        coroutine = next(hooks)
            except StopIteration:
                pass
        except BaseException as error:  # noqa: BLE001 - a constructor's or hook's; the worker must live on
            self.error = error
        finally:
            self.done.set()

    async def arun(self) -> None:
        """Do it on the running loop."""
        self.begun.set()
        try:
            hooks = self._hooks()
            try:
                coroutine = next(hooks)
                while True:
                    try:
                        await coroutine
                    except BaseException as error:  # noqa: BLE001 - as above
                        coroutine = hooks.throw(error)
                    else:
                        coroutine = next(hooks)
            except StopIteration:
                pass
        except BaseException as error:  # noqa: BLE001 - as above; the loop must live on
            self.error = error
        finally:
            self.done.set()
