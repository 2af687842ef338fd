"""The interface that these classes need from the program that deploys them."""

from __future__ import annotations

from typing import Any, Protocol


class Context(Protocol):
    """
    The type of the argument `ctx`, which gives a service handles to the other services.

    Any object with this method will do. The tests pass one that returns the other objects themselves.
    """

    def service(self, name: str) -> Any:
        """Return the handle of *name*: `handle.method(...)` waits, `handle.submit("method", ...)` returns a future."""
        ...
