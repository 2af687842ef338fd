"""This machine as the node of a private runtime, for plans. Starts no runtime."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sage_deploy_remote.placement.nodes import Node, Resources

__all__ = ["ID", "node"]

#: Placeholder for the node ID. The node gets its ID when the runtime starts.
ID = "private"

_GPUS = Path("/proc/driver/nvidia/gpus")
#: Share of the memory that Ray offers to actors. The rest is for its object store and itself.
_MEMORY_SHARE = 0.7


def node() -> Node:
    """Return the only node of a private runtime on this machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = len([each for each in visible.split(",") if each.strip()])
    else:
        gpus = len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _MEMORY_SHARE)
    total = Resources(float(len(os.sched_getaffinity(0))), memory, float(gpus))
    return Node(ID, "this machine", socket.gethostname(), "127.0.0.1", {}, total, total)
