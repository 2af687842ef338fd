"""Offers the threading strategy `single`, which sage-deploy-threading has already."""

from __future__ import annotations

from typing import Any

from sage_plugins import hookimpl
from sage_plugins.values import Registration


class OtherSingle:
    """Never started: services that name `single` are refused."""

    def __init__(self, options: None) -> None: ...

    def start(self, seat: Any) -> Any:
        """Start nothing."""
        raise AssertionError(seat)


@hookimpl
def sage_register_threading_strategies() -> list[Registration]:
    """Offer an ID that is taken."""
    return [Registration("single", OtherSingle, "not the one you know")]
