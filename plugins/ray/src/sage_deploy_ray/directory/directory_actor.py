"""The directory of services as an actor."""

from __future__ import annotations

import asyncio

import ray

from sage_deploy_remote.reach.directory_server import DirectoryServer

__all__ = ["DirectoryActor"]


class DirectoryActor(DirectoryServer):
    """A `DirectoryServer` that a process which deploys keeps, without user code."""

    @ray.method(max_task_retries=0)
    async def wait_ended(self) -> None:
        """Wait for ever; ends with an error if the process dies, also if Ray starts it again."""
        await asyncio.Event().wait()
