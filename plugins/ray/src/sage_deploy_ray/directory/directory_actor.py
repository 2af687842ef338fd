"""The directory of services as an actor."""

from __future__ import annotations

import asyncio

from sage_deploy_remote.reach.directory_server import DirectoryServer

__all__ = ["DirectoryActor"]


class DirectoryActor(DirectoryServer):
    """A `DirectoryServer` that a process which deploys keeps, without user code."""

    async def wait_ended(self) -> None:
        """Wait for ever; ends with an error if the process dies."""
        await asyncio.Event().wait()
