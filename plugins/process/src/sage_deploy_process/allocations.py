"""Shares of this machine that the replicas of this process hold. No core or GPU is given out beyond its capacity."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from sage_deploy_process import machine
from sage_deploy_remote.placement.decision import needs
from sage_deploy_remote.placement.nodes import Resources
from sage_plugins.errors import DeployError

if TYPE_CHECKING:
    from sage_deploy_process.options import ProcessOptions
    from sage_deploy_remote.placement.nodes import Node
    from sage_plugins.values import ReplicaSpec

__all__ = ["ALLOCATIONS", "THREAD_VARIABLES", "Allocation", "need_of"]

#: Variables for the number of threads in numeric libraries. The user's values have priority.
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

#: Tolerance for rounding errors in fractions of a GPU.
_TOLERANCE: Final = 1e-6


def need_of(config: object) -> Resources:
    """Return what a replica reserves. Without `cpu_cores`, it reserves no core."""
    return needs(config, 0.0)  # type: ignore[arg-type] # a ServiceDeploymentConfig


class Allocation(NamedTuple):
    """
    The share of this machine that one replica holds.

    Attributes:
        need: Amount of each resource.
        cores: Cores that it runs on; empty for all.
        gpus: GPUs that it sees; None for all.
        env: Environment variables of its process.
    """

    need: Resources
    cores: tuple[int, ...]
    gpus: tuple[str, ...] | None
    env: dict[str, str]


class Allocations:
    """The shares of all running replicas that this process has started. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, Allocation] = {}  # by identity; guarded by _lock

    def node(self) -> Node:
        """Return this machine with its free resources."""
        node = machine.node()
        with self._lock:
            held = [each.need for each in self._held.values()]
        taken = [sum(amounts) for amounts in zip(*held, strict=True)] or [0, 0, 0]
        return node._replace(free=Resources(*(has - used for has, used in zip(node.total, taken, strict=True))))

    def take(self, spec: ReplicaSpec, options: ProcessOptions) -> Allocation:
        """
        Allocate what a replica needs.

        Raises:
            DeployError: No suitable GPU is free.
        """
        need = need_of(spec.config)
        with self._lock:
            gpus = self._gpus(need.gpu, spec)
            cores = self._cores(math.ceil(need.cpu)) if options.affinity else ()
            allocation = Allocation(need, cores, gpus, _environment(spec, options, gpus))
            self._held[id(allocation)] = allocation
        return allocation

    def release(self, allocation: Allocation) -> None:
        """Free the share of a replica that has ended. Idempotent."""
        with self._lock:
            self._held.pop(id(allocation), None)

    def _cores(self, count: int) -> tuple[int, ...]:
        """Choose the cores that the fewest replicas run on."""
        used = Counter(core for each in self._held.values() for core in each.cores)
        return tuple(sorted(sorted(machine.cores(), key=lambda core: (used[core], core))[:count]))

    def _gpus(self, amount: float, spec: ReplicaSpec) -> tuple[str, ...] | None:
        """Choose GPUs for *amount*: whole ones, or a share of the fullest GPU with enough room."""
        if not amount:
            return None
        used: Counter[str] = Counter()
        for each in self._held.values():
            for gpu in each.gpus or ():
                used[gpu] += min(1.0, each.need.gpu)  # type: ignore[assignment] # fractions
        share = min(1.0, amount)
        able = [gpu for gpu in machine.gpus() if used[gpu] + share <= 1 + _TOLERANCE]
        count = max(1, round(amount))
        if len(able) < count:
            msg = f"replica {spec.id} needs {amount:g} GPUs, and {machine.NAME} has not so many free"
            raise DeployError(msg, service=spec.service, replica=spec.id)
        return tuple(sorted(able, key=lambda gpu: -used[gpu])[:count])


def _environment(spec: ReplicaSpec, options: ProcessOptions, gpus: tuple[str, ...] | None) -> dict[str, str]:
    """Return the environment variables of a replica. The user's values win, except for CUDA_VISIBLE_DEVICES."""
    defaults: dict[str, str] = {}
    if spec.config.cpu_cores is not None:
        defaults = dict.fromkeys(THREAD_VARIABLES, str(max(1, math.ceil(spec.config.cpu_cores))))
    if spec.config.memory_mb is not None:
        defaults["MALLOC_ARENA_MAX"] = "2"  # each arena takes 64 MiB of address space, which `memory_mb` limits
    environment = {**defaults, **os.environ, **options.env}
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


ALLOCATIONS: Final = Allocations()
