"""The interface of extensions, such as a server, which accompany an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sage_plugins.interfaces.operations import Operations

__all__ = ["Extension"]


class Extension(Protocol):
    """
    Accompanies an environment whose options have its ID.

    `Environment.deploy` makes and starts it once services are ready; `Environment.close` closes it before them.
    """

    def start(self, operations: Operations) -> None:
        """Start, and return when started. An exception makes `deploy` fail. Use *operations* until `close` returns."""

    def close(self) -> None:
        """Stop and release everything. Called once, if `start` was called."""
