"""Errors of calls that are what they are and a RuntimeError too, because SAGE's are RuntimeErrors."""

from __future__ import annotations

from sage_plugins.runtime_error import as_runtime_error

__all__ = ["as_runtime_error"]
