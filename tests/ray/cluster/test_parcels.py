"""Ray sends payloads without copying their buffers into the pickle."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from textwrap import dedent

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

#: It runs in its own process, because Ray keeps sockets and log files open after its shutdown.
DRIVER = """
    import pickle

    import ray
    from sage_deploy_remote.payloads.packing import pack
    from sage_deploy_remote.payloads.payload import unpack

    SIZE = 1 << 20

    class Memory:
        # As an array: its numbers are not part of its pickle.
        def __init__(self, numbers):
            self.numbers = numbers

        def __reduce_ex__(self, protocol):
            return Memory, (pickle.PickleBuffer(self.numbers),)

    @ray.remote
    def measure(packed):
        return [pack([each, len(each.numbers)]) for each in map(unpack, packed)]

    ray.init(
        address="local", include_dashboard=False, num_cpus=2, object_store_memory=80 * 2**20, log_to_driver=False
    )
    try:
        # A buffer is used where it lies in the object store, so it is read-only; the pickle beside it is small.
        payload = ray.get(ray.put(pack(Memory(bytearray(SIZE)))))
        arrived = unpack(payload)
        assert len(payload[0]) < SIZE / 100, len(payload[0])
        assert len(arrived.numbers) == SIZE
        assert memoryview(arrived.numbers).readonly

        # To a task, which cannot import the class, and back.
        packed = [pack(Memory(bytearray(SIZE))) for _ in range(2)]
        for answer in ray.get(measure.remote(packed)):
            arrived, size = unpack(answer)
            assert type(arrived) is Memory
            assert size == SIZE == len(arrived.numbers)
    finally:
        ray.shutdown()
    print("well")
"""


@pytest.mark.slow
def test_parcels_travel_through_ray():
    """
    Payloads go to the object store, to a task and back, with a script's class and without a copy of their buffers.
    """
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-"],
            input=dedent(DRIVER),
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("well\n")
