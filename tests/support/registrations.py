"""Changes fields of registrations."""

from __future__ import annotations

from typing import Any

from sage_plugins.values import Registration


def changed(registration: Registration, **fields: Any) -> Registration:
    """Return a copy of the registration with these fields set."""
    return Registration(**vars(registration) | fields)
