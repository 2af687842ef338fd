"""Registrations that differ from others in some fields."""

from __future__ import annotations

from typing import Any

from sage_plugins.values import Registration


def changed(registration: Registration, **fields: Any) -> Registration:
    """A registration like this one, with these fields set."""
    return Registration(**vars(registration) | fields)
