"""The actor that holds the directory of services."""

from __future__ import annotations

import asyncio

import ray

from sage_deploy_remote.reach.directory_server import DirectoryServer

__all__ = ["DirectoryActor"]


class DirectoryActor(DirectoryServer):
    """A `DirectoryServer` in an actor without user code. The deploying process keeps it alive."""

    @ray.method(max_task_retries=0)
    async def wait_ended(self) -> None:
        """Wait forever. Fails if the process dies, even if Ray restarts it."""
        await asyncio.Event().wait()
