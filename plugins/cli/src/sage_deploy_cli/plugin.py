"""Registers the machine checks as a plugin, so that every inspection of an environment runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sage_plugins.findings import Finding

__all__ = ["sage_register_checks"]


def _check_machine() -> Iterable[Finding]:
    from sage_deploy_cli.machine.checks import check_machine

    return check_machine()


@hookimpl
def sage_register_checks() -> list[Callable[[], Iterable[Finding]]]:
    """Offer the checks of this machine and this Python."""
    return [_check_machine]
