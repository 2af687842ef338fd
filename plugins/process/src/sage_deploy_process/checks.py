"""Checks and explains a configuration for target `process`."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final

from sage_plugins.texts import counted
from sage_plugins.values import Explanation, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_deploy_process.options import ProcessOptions
    from sage_plugins.config.service_config import ServiceDeploymentConfig

__all__ = ["check", "explain"]

#: Only Linux can enforce `memory_mb` and `affinity`.
_LINUX: Final = sys.platform == "linux"


def check(config: ServiceDeploymentConfig, options: ProcessOptions) -> Iterator[Problem]:
    """Find problems of a service whose replicas are child processes."""
    if sys.platform == "win32":
        fix = "use target 'local', or run on Linux, such as in WSL, or on macOS"
        yield Problem("E210", "target", "target 'process' needs a Unix system, and this is Windows", fix)
    for name in ("target_nodes", "node_selector"):
        if getattr(config, name) is not None:
            message = "target 'process' runs on this machine and chooses no node"
            yield Problem("E201", name, message, "remove it or name another target", other="target")
    if config.spread != "spread":
        message = "has no effect on target 'process': there is one node, this machine"
        yield Problem("W12", "spread", message, "remove it or name another target", other="target")
    gpus = config.gpu_count or 0
    if gpus > 1 and gpus != int(gpus):
        message = f"must be a whole number above 1, because only one GPU can be shared, got {gpus:g}"
        yield Problem("E208", "gpu_count", message, f"set gpu_count: {math.ceil(gpus)}")
    if options.affinity and not config.cpu_cores:
        message = "needs cpu_cores, which says on how many cores a replica runs"
        yield Problem("E210", "options.process.affinity", message, "set cpu_cores, or remove it", other="cpu_cores")
    if not _LINUX:
        if options.affinity:
            yield Problem("E210", "options.process.affinity", "works on Linux only", "remove it")
        if config.memory_mb is not None:
            yield Problem("W05", "memory_mb", f"{config.memory_mb} is advisory: only Linux limits a process's memory")


def explain(config: ServiceDeploymentConfig, options: ProcessOptions) -> Iterator[str | Explanation]:
    """Explain what the configuration means for child processes of this machine."""
    yield "each replica is a child process of this one, and ends with it"
    yield "arguments and results are copied: they are pickled, and sent to the replica's process"
    yield from _resources(config, options)
    yield Explanation("what runs on after that can be ended only with its replica's process", "timeout")


def _resources(config: ServiceDeploymentConfig, options: ProcessOptions) -> Iterator[str | Explanation]:
    if config.cpu_cores:
        threads = max(1, math.ceil(config.cpu_cores))
        yield Explanation(f"each replica reserves {config.cpu_cores:g} of this machine's cores", "enforced")
        yield f"OMP_NUM_THREADS and its like are {threads} in replicas where they are not set, going by cpu_cores"
        if options.affinity:
            yield Explanation(f"each replica runs on {counted(threads, 'core')} only", "enforced")
        else:
            yield Explanation("cpu_cores: a replica that uses more cores is not slowed down", "advisory")
    if config.memory_mb and _LINUX:
        yield Explanation(
            f"a service that takes more than {config.memory_mb} MiB of address space gets MemoryError", "enforced"
        )
    if config.gpu_count:
        yield Explanation(f"each replica sees {config.gpu_count:g} GPUs: CUDA_VISIBLE_DEVICES", "enforced")
    if config.max_replicas_per_node is not None:
        yield Explanation(
            f"at most {config.max_replicas_per_node} of the service's replicas on this machine", "enforced"
        )
