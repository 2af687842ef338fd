"""Ray on this machine, for one benchmark."""

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
    """A runtime of one node in a temporary folder, with *num_cpus* processors to give away; gives the module `ray`."""
    # Ray reads these when it is imported. The folder is its own, to find no other cluster, and short, for sockets.
    folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
    os.environ.pop("RAY_ADDRESS", None)
    logging.getLogger("sage_plugins.ray").setLevel(logging.ERROR)  # this runtime asks for no token
    import ray

    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=num_cpus,
            object_store_memory=2**30,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Without workers started in advance: the first contenders would be given those, and the others none.
            _system_config={"enable_worker_prestart": False},
        )
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
