"""Registers the target `local`: replicas in the process that deploys them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Explanation, Registration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.values import Problem

__all__ = ["sage_register_targets"]


def _create(_options: None) -> Any:
    from sage_deploy_local.target import LocalTarget  # imported here: keeps discovery cheap

    return LocalTarget()


def _check(config: Any, _options: None) -> Iterator[Problem]:
    from sage_plugins.values import Problem

    for name in ("target_nodes", "node_selector"):
        if getattr(config, name) is not None:
            yield Problem(
                "E201",
                name,
                "target 'local' runs in this process and chooses no node",
                "remove it or name another target",
                other="target",
            )
    for name, default in (("spread", "spread"), ("max_replicas_per_node", None)):
        if getattr(config, name) != default:
            message = "has no effect on target 'local': there is one node, this process"
            yield Problem("W12", name, message, "remove it or name another target", other="target")
    if config.failover_enabled:
        yield Problem(
            "W13", "failover_enabled", "has no effect on target 'local': its replicas die only with this process"
        )
    if config.gpu_count:
        yield Problem(
            "W05", "gpu_count", f"{config.gpu_count} is advisory: target 'local' reserves no GPU and hides none"
        )
    if config.cpu_cores is not None:
        yield Problem("W05", "cpu_cores", f"{config.cpu_cores:g} is advisory: threads of one process share its cores")
    if config.memory_mb is not None:
        yield Problem("W05", "memory_mb", f"{config.memory_mb} is advisory: replicas share this process's memory")


def _explain(config: Any, _options: None) -> Iterator[str | Explanation]:
    yield "arguments and results are passed by reference, nothing is copied"
    yield "replicas die only with this process; a method that hangs keeps its thread"
    noted = [name for name in ("cpu_cores", "memory_mb", "gpu_count") if getattr(config, name)]
    if noted:
        yield Explanation(f"{', '.join(noted)}: nothing is reserved in this process", "advisory")


@hookimpl
def sage_register_targets() -> list[Registration]:
    """Offer `local`."""
    return [
        Registration(
            "local",
            _create,
            "Replicas in the process that deploys them",
            check=_check,
            explain=_explain,
            capabilities=frozenset({"in_process"}),
        )
    ]
