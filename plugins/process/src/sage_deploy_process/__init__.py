"""The target `process`: replicas as child processes of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sage_deploy_process.options import ProcessOptions
    from sage_plugins.values import Explanation, Problem

__all__ = ["sage_register_targets"]

# The functions import the rest of the package when they run, which keeps plugin discovery cheap.


def _create(options: ProcessOptions) -> Any:
    from sage_deploy_process.target import ProcessTarget

    return ProcessTarget(options)


def _options() -> type:
    from sage_deploy_process.options import ProcessOptions

    return ProcessOptions


def _check(config: Any, options: ProcessOptions) -> Iterable[Problem]:
    from sage_deploy_process.checks import check

    return check(config, options)


def _explain(config: Any, options: ProcessOptions) -> Iterable[str | Explanation]:
    from sage_deploy_process.checks import explain

    return explain(config, options)


@hookimpl
def sage_register_targets() -> list[Registration]:
    """Offer `process`."""
    return [
        Registration(
            "process",
            _create,
            "Replicas as child processes of this machine",
            options=_options,
            check=_check,
            explain=_explain,
            capabilities=frozenset({"can_kill", "lists_nodes", "reachable", "replaces_unhealthy"}),
        )
    ]
