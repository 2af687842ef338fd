"""The class that replaces the user's class. It notes each call before it does anything else."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from sage_deploy_testing.chaos.run_log import is_there, machine, note, ran_line, up_line, up_path
from sage_plugins.service.methods import batch_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

__all__ = ["Probe", "ProbeError"]


class ProbeError(Exception):
    """Raised by a method of the probe on request."""


class Probe:
    """
    A service that notes its calls in the run log. Its methods do what their arguments say.

    The first argument of each method is the call's number. The answer is that number, and whether the call was noted.
    """

    def __init__(self, path: str, token: str, deployer: tuple[str, int], ctx: Any = None) -> None:
        """
        Note that this replica was built.

        Args:
            path: The file of the run log.
            token: Its first line.
            deployer: Machine and process ID of the deploying process, which is never ended.
            ctx: The replica's context.
        """
        self._path = path
        self._sees = is_there(path, token)
        self._may_end = (machine(), os.getpid()) != tuple(deployer)
        if self._sees and ctx is not None:
            note(up_path(path), up_line(ctx.name, ctx.replica_index))

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Accept any configuration."""

    def _note(self, call: int) -> tuple[int, bool]:
        if self._sees:
            note(self._path, ran_line(call))
        return call, self._sees

    def work(self, call: int, seconds: float = 0.0) -> tuple[int, bool]:
        """Take *seconds*."""
        answer = self._note(call)
        if seconds:
            threading.Event().wait(seconds)
        return answer

    async def awork(self, call: int, seconds: float = 0.0) -> tuple[int, bool]:
        """Take *seconds* without blocking the event loop."""
        answer = self._note(call)
        await asyncio.sleep(seconds)
        return answer

    def together(self, call: int) -> tuple[int, bool]:
        """Answer one call. With batches, `together_all` answers instead."""
        return self._note(call)

    @batch_of("together")
    def together_all(self, call: list[int]) -> list[tuple[int, bool]]:
        """Answer several calls of `together` at once."""
        return [self._note(each) for each in call]

    def items(self, call: int, count: int) -> Iterator[tuple[int, bool]]:
        """Yield the answer *count* times."""
        answer = self._note(call)
        for _ in range(count):
            yield answer

    async def aitems(self, call: int, count: int) -> AsyncIterator[tuple[int, bool]]:
        """Yield the answer *count* times."""
        answer = self._note(call)
        for _ in range(count):
            await asyncio.sleep(0)
            yield answer

    def fail(self, call: int) -> None:
        """Raise an exception of its own."""
        self._note(call)
        raise ProbeError(str(call))

    def leave(self, call: int) -> None:
        """Call `sys.exit`, which must end neither a worker nor a process."""
        self._note(call)
        sys.exit(3)

    def crash(self, call: int) -> None:
        """End the process as a crash in C does. In the deploying process, only raise."""
        self._note(call)
        if not self._may_end:
            raise ProbeError("this process deploys the services")
        os._exit(1)
