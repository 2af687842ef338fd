"""Offers the threading strategy `single`, which sage-deploy-threading has already."""

from __future__ import annotations

from typing import Any

from sage_plugins import hookimpl
from sage_plugins.values import Registration


def create(options: Any) -> Any:
    """Make nothing: nobody gets as far as to call this."""
    raise AssertionError(options)


@hookimpl
def sage_register_threading_strategies() -> list[Registration]:
    """Offer an ID that is taken."""
    return [Registration("single", create, "not the one you know")]
