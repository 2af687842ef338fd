"""Checks and explains a configuration for the Ray targets, without asking a cluster."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from sage_deploy_remote.placement.decision import needs
from sage_deploy_remote.placement.label_selectors import FORMS, SelectorError, parse_requirement
from sage_plugins.texts import did_you_mean
from sage_plugins.values import Explanation, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_deploy_ray.options import ClusterGroupOptions, RayOptions
    from sage_plugins.config.service_config import ServiceDeploymentConfig

__all__ = [
    "check_any",
    "check_group",
    "check_specific",
    "explain_any",
    "explain_group",
    "explain_specific",
]

#: Text of the explanation for each value of the option `calls`.
_CALLS: Final = {
    "auto": (
        "calls go over a socket to each replica; where no connection can be made they are tasks of Ray, which are "
        "slower, and an event 'replica_remark' says why (options.ray.calls)"
    ),
    "socket": "calls go over a socket to each replica; one that cannot be connected to fails (options.ray.calls)",
    "tasks": "calls are tasks of Ray, which are slower than a socket (options.ray.calls)",
}

#: Ray counts CPUs and GPUs in steps of a ten-thousandth.
_STEPS: Final = 10_000


# -- checks ------------------------------------------------------------------------------------------------------------


def check_any(config: ServiceDeploymentConfig) -> Iterator[Problem]:
    """Find problems of a service that may run on any node."""
    if config.target_nodes is not None:
        yield _not_read(config, "target_nodes", "may place a replica on any node", "remote_specific")
    if config.node_selector is not None:
        yield _not_read(config, "node_selector", "may place a replica on any node", "cluster_group")
    yield from _resources(config)


def check_specific(config: ServiceDeploymentConfig) -> Iterator[Problem]:
    """Find problems of a service that runs on named nodes."""
    nodes, most = config.target_nodes or (), config.max_replicas_per_node
    if not nodes:
        fix = "name at least one node, or use target 'remote_any'"
        yield Problem("E202", "target_nodes", "target 'remote_specific' needs the names of nodes", fix, other="target")
    if config.node_selector is not None:
        yield _not_read(config, "node_selector", "goes by target_nodes", "cluster_group")
    if nodes and most is not None and config.replicas > len(nodes) * most:
        yield Problem(
            "E206",
            "replicas",
            f"is {config.replicas}, but {len(nodes)} of target_nodes with at most {most} each hold {len(nodes) * most}",
            "name more nodes, or raise max_replicas_per_node",
            other="max_replicas_per_node",
        )
    if config.replicas < len(nodes):
        yield Problem(
            "W12",
            f"target_nodes.{config.replicas}",
            f"has no effect: with {config.replicas} of replicas the first {config.replicas} of target_nodes are used",
            f"set replicas: {len(nodes)}",
            other="replicas",
        )
    if config.spread != "spread":
        message = "has no effect: target_nodes says which replica goes to which node"
        yield Problem("W12", "spread", message, "remove it", other="target_nodes")
    yield from _resources(config)


def check_group(
    config: ServiceDeploymentConfig, options: ClusterGroupOptions, environment: RayOptions
) -> Iterator[Problem]:
    """Find problems of a service that runs on a group of nodes."""
    if config.target_nodes is not None:
        yield _not_read(config, "target_nodes", "goes by the labels of nodes, or by a named group", "remote_specific")
    if not config.node_selector and options.group is None:
        fix = "set node_selector, or options.cluster_group.group"
        message = "target 'cluster_group' needs the labels of nodes, or the name of a group"
        yield Problem("E204", "node_selector", message, fix, other="target")
    if config.node_selector and options.group is not None:
        message = f"and options.cluster_group.group, which is {options.group!r}, both say which nodes"
        fix = "remove one of them"
        yield Problem("E203", "node_selector", message, fix, other="options.cluster_group.group")
    if options.group is not None and options.group not in environment.groups:
        near = did_you_mean(options.group, environment.groups)
        known = ", ".join(sorted(environment.groups)) or "none"
        fix = f"did you mean {near!r}?" if near else f"define it at the top of the file; groups there: {known}"
        message = f"is {options.group!r}, but options.ray.groups defines no such group"
        yield Problem("E204", "options.cluster_group.group", message, fix)
    for label, text in (config.node_selector or {}).items():
        try:
            parse_requirement(label, text)
        except SelectorError as error:
            fix = f"write {FORMS}" if error.position else "correct the name of the label"
            yield Problem("E209", f"node_selector.{label}", str(error), fix)
    yield from _resources(config)


def _not_read(config: ServiceDeploymentConfig, name: str, does: str, better: str) -> Problem:
    message = f"target '{config.target}' {does}, and does not read it"
    return Problem("E203", name, message, f"remove it, or use target '{better}'", other="target")


def _resources(config: ServiceDeploymentConfig) -> Iterator[Problem]:
    for name in ("cpu_cores", "gpu_count"):
        amount = getattr(config, name)
        if amount is not None and not _is_whole(amount * _STEPS):
            fix = f"set {name}: {max(1, round(amount * _STEPS)) / _STEPS:g}"
            yield Problem("E208", name, f"must be a multiple of 0.0001 on Ray, got {amount:g}", fix)
    gpus = config.gpu_count or 0
    if gpus > 1 and gpus != int(gpus):
        message = f"must be a whole number above 1 on Ray, where only one GPU can be shared, got {gpus:g}"
        yield Problem("E208", "gpu_count", message, f"set gpu_count: {math.ceil(gpus)}")


def _is_whole(steps: float) -> bool:
    """Whether *steps* is a whole number, up to the rounding error of the multiplication."""
    return math.isclose(steps, round(steps), rel_tol=1e-12, abs_tol=1e-9)


# -- explanations ------------------------------------------------------------------------------------------------------


def explain_any(config: ServiceDeploymentConfig, environment: RayOptions) -> Iterator[str | Explanation]:
    """Explain what the configuration means on any node."""
    yield f"replicas go to any live node: {_order(config)}"
    yield from _explain(config, environment)


def explain_specific(config: ServiceDeploymentConfig, environment: RayOptions) -> Iterator[str | Explanation]:
    """Explain what the configuration means on named nodes."""
    yield "replicas go to target_nodes in turn, from the first on, and to no other node"
    yield from _explain(config, environment)


def explain_group(
    config: ServiceDeploymentConfig, options: ClusterGroupOptions, environment: RayOptions
) -> Iterator[str | Explanation]:
    """Explain what the configuration means on a group of nodes."""
    labels = ", ".join(f"{label}: {text}" for label, text in (config.node_selector or {}).items())
    which = f"with labels {labels}" if options.group is None else f"of group '{options.group}'"
    yield f"replicas go to live nodes {which}: {_order(config)}"
    yield from _explain(config, environment)


def _order(config: ServiceDeploymentConfig) -> str:
    if config.spread == "pack":
        return "first to the node with the most replicas of the service, then to that with the fewest CPUs free"
    return "first to the node with the fewest replicas of the service, then to that with the most CPUs free"


def _explain(config: ServiceDeploymentConfig, environment: RayOptions) -> Iterator[str | Explanation]:
    need = needs(config)
    cores = f"{need.cpu:g} CPU{'' if need.cpu == 1 else 's'}"
    cores += " (cpu_cores is not given)" if config.cpu_cores is None else ""
    memory = f", {config.memory_mb} MiB memory" if config.memory_mb else ""
    gpus = f", {need.gpu:g} GPU{'' if need.gpu == 1 else 's'}" if need.gpu else ""
    yield Explanation(f"each replica reserves {cores}{memory}{gpus}: a node never holds more than it has", "enforced")
    if config.max_replicas_per_node is not None:
        yield Explanation(f"at most {config.max_replicas_per_node} of the service's replicas on a node", "enforced")
    used = "cpu_cores and memory_mb" if config.memory_mb else "cpu_cores"
    yield Explanation(f"{used}: a replica that uses more than it reserves is not stopped", "advisory")
    yield f"OMP_NUM_THREADS is {max(1, math.floor(need.cpu))} in replicas where it is not set, going by cpu_cores"
    yield _CALLS[environment.calls]
    yield "arguments and results are copied: they are pickled, and sent to the replica's process"
    yield "a method that hangs keeps its slot, and can be ended only with its process"
    yield Explanation("what runs on after that can be ended only with its replica's process", "timeout")
