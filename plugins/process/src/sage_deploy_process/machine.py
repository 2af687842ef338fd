"""This machine's cores, memory and GPUs that this process may use."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sage_deploy_remote.placement.nodes import Node, Resources

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NAME", "cores", "gpus", "node"]

#: Name of this machine in plans and messages.
NAME: Final = "this machine"

_GPUS: Final = Path("/proc/driver/nvidia/gpus")
_CGROUPS: Final = Path("/sys/fs/cgroup")
#: About the limit in bytes that a cgroup (version 1) without a limit reports.
_NO_LIMIT: Final = 1 << 60


def cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gpus() -> list[str]:
    """Return the GPUs that this process sees, as in `CUDA_VISIBLE_DEVICES`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for each in visible.split(",") if (name := each.strip()) and name != "-1"]
    return [str(number) for number in range(len(list(_GPUS.iterdir())))] if _GPUS.is_dir() else []


def node(free: Resources | None = None) -> Node:
    """Return this machine as a node for placement. Without *free*, all of it is free."""
    total = Resources(min(float(len(cores())), _cpu_quota()), min(_memory(), _memory_limit()), float(len(gpus())))
    return Node(NAME, NAME, socket.gethostname(), "127.0.0.1", {}, total, total if free is None else free)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_quota() -> float:
    """Return how many cores' time the cgroups of this process allow; inf for no limit."""
    found = [float("inf")]
    for folder in _cgroup_folders("cpu"):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(int(quota) / int(period))
        with suppress(OSError, ValueError):
            time = int((folder / "cpu.cfs_quota_us").read_text())
            if time > 0:
                found.append(time / int((folder / "cpu.cfs_period_us").read_text()))
    return min(found)


def _memory_limit() -> int:
    """Return the memory limit of this process's cgroups, in bytes."""
    found = [_NO_LIMIT]
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                found.append(int((folder / name).read_text()))
    return min(found)


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the cgroup folders of this process, from its own to the root, for both versions of cgroups."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = _CGROUPS / controller if controllers else _CGROUPS
            own = root / path.lstrip("/")
            yield from (each for each in (own, *own.parents) if each == root or root in each.parents)
