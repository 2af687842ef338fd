"""What lives beside an environment, such as a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sage_plugins.interfaces.operations import Operations

__all__ = ["Extension"]


class Extension(Protocol):
    """
    Made for an environment whose options have its ID.

    `Environment.deploy` makes and starts it once its services are ready; `Environment.close` closes it first.
    """

    def start(self, operations: Operations) -> None:
        """
        Begin; returns when it has. What it raises makes `deploy` fail.

        Args:
            operations: What it may see and do; safe from any thread, until `close` has returned.
        """

    def close(self) -> None:
        """End, and let go of everything. Called once, if `start` was called."""
