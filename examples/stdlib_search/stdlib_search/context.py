"""The one thing these classes ask of whoever deploys them."""

from __future__ import annotations

from typing import Any, Protocol


class Context(Protocol):
    """
    What a service is given as `ctx`: the way to the other services.

    Any object with this method will do. The tests pass one that answers with the other objects themselves.
    """

    def service(self, name: str) -> Any:
        """The handle of service *name*: `handle.method(...)` waits, `handle.submit("method", ...)` returns a future."""
        ...
