"""Offers the threading strategy `single`, whose ID sage-deploy-threading already uses."""

from __future__ import annotations

from typing import Any

from sage_plugins import hookimpl
from sage_plugins.values import Registration


class OtherSingle:
    """Is never started: services that name `single` are refused."""

    def __init__(self, options: None) -> None: ...

    def start(self, seat: Any) -> Any:
        """Fail: nothing starts this strategy."""
        raise AssertionError(seat)


@hookimpl
def sage_register_threading_strategies() -> list[Registration]:
    """Offer an ID that is already used."""
    return [Registration("single", OtherSingle, "not the one you know")]
