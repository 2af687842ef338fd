"""Errors as SAGE's programs catch them: what they are, and a RuntimeError too."""

from __future__ import annotations

from sage_plugins.service.runtime_errors import as_runtime_error

__all__ = ["as_runtime_error", "no_context"]


def no_context(cls: type) -> RuntimeError:
    """The error of an instance of *cls* that calls services and was made by hand."""
    return RuntimeError(
        f"Service context not initialized: this {cls.__qualname__} was made without sage-deploy. Register the class "
        "with an Environment, or set `ctx` of the instance"
    )
