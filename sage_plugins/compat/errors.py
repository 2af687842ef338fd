"""Errors for SAGE's programs: they keep their own type and are a RuntimeError too."""

from __future__ import annotations

from sage_plugins.service.runtime_errors import as_runtime_error

__all__ = ["as_runtime_error", "no_context"]


def no_context(cls: type) -> RuntimeError:
    """Return the error for an instance of *cls* that calls a service but has no context."""
    return RuntimeError(
        f"Service context not initialized: this {cls.__qualname__} was made without sage-deploy. Register the class "
        "with an Environment, or set `ctx` of the instance"
    )
