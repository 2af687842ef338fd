"""Starts Ray on this machine for one benchmark."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["private_ray"]


@contextmanager
def private_ray(num_cpus: int = 16) -> Iterator[Any]:
    """Start a runtime of one node in a temporary folder, with *num_cpus* processors. Yield the module `ray`."""
    # Ray reads these on import. With its own folder it finds no other cluster; the path is short because of sockets.
    folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
    os.environ.pop("RAY_ADDRESS", None)
    logging.getLogger("sage_plugins.ray").setLevel(logging.ERROR)  # this runtime needs no token
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=num_cpus,
            object_store_memory=2**30,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Start no workers in advance: only the first contenders would get them.
            _system_config={"enable_worker_prestart": False},
        )
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
