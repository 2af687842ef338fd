"""Runs the benchmarks of `make bench`, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_BENCHMARKS = (
    "local_calls.py",
    "async_calls.py",
    "waiting.py",
    "batching.py",
    "guarding.py",
    "startup.py",
    "deployment_files.py",
    "sage_layer.py",
)


def main() -> None:
    """Run each benchmark in its own process, so that none inherits threads or imports of another."""
    for name in _BENCHMARKS:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, str(Path(__file__).with_name(name)), *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
