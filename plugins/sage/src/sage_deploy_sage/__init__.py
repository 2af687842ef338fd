"""Deploys the services of SAGE's pipelines with sage-deploy. A program only needs `attach(env)`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sage_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_deploy_sage.attached import DeployEnvironment, attach
    from sage_plugins.findings import Finding

__all__ = ["DeployEnvironment", "attach", "sage_register_checks"]

if not TYPE_CHECKING:  # discovery imports this module, and importing SAGE takes longer than all of discovery

    def __getattr__(name: str) -> object:
        if name not in ("DeployEnvironment", "attach"):
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(import_module("sage_deploy_sage.attached"), name)


def _check_installation() -> Iterable[Finding]:
    from sage_deploy_sage.installation import check_installation

    return check_installation()


@hookimpl
def sage_register_checks() -> list[Callable[[], Iterable[Finding]]]:
    """Offer the check of SAGE's version."""
    return [_check_installation]
