"""What these classes need from their deployment."""

from __future__ import annotations

from typing import Any, Protocol


class Context(Protocol):
    """
    The `ctx` of a service: finds the other services.

    Any object with this method is enough. The tests pass one that returns the other objects themselves.
    """

    def service(self, name: str) -> Any:
        """The handle of service *name*: `handle.method(...)` waits, `handle.submit("method", ...)` returns a future."""
        ...
