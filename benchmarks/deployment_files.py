"""The cost of reading the largest deployment files, against parsing them into PyYAML's events."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rounds import interleave
from table import goal, rounds_asked, show

from sage_deploy_files.reading.nodes import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ = """
import sys
from sage_deploy_files import read
from sage_plugins.errors import ConfigError
try:
    read(sys.argv[1])
except ConfigError:
    pass
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def _filled(head: str, line: Callable[[int], str]) -> str:
    """Return *head* and as many lines as a file may have."""
    parts, size, number = [head], len(head), 0
    while size + len(text := line(number)) < MAX_BYTES:
        parts.append(text)
        size += len(text)
        number += 1
    return "".join(parts)


def _files() -> Iterator[tuple[str, str]]:
    yield "services", _filled("services:\n", lambda number: f"  s{number}: {{replicas: 1}}\n")
    yield "values", _filled("services: {a: {user_config: {x: [\n", lambda _: "1, 2, 3, 4,\n") + "]}}}\n"
    yield "mistakes", _filled("services:\n  a:\n", lambda number: f"    tim{number}: 1\n")
    yield (
        "bomb",
        "services:\n  a:\n    user_config:\n      b0: &b0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"      b{number}: &b{number} [{', '.join([f'*b{number - 1}'] * 10)}]\n" for number in range(1, 30)),
    )


def _read(path: Path) -> float:
    from sage_deploy_files import read
    from sage_plugins.errors import ConfigError

    start = time.perf_counter()
    with contextlib.suppress(ConfigError):
        read(path)
    return time.perf_counter() - start


def _parse(path: Path) -> float:
    import yaml

    start = time.perf_counter()
    for _ in yaml.parse(path.read_text(encoding="utf-8")):
        pass
    return time.perf_counter() - start


def _peak(path: Path) -> int:
    """Return the peak memory, in MiB, of a process that only reads the file. Linux only."""
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], check=True, capture_output=True, text=True)
    return int(done.stdout) // 1024


def main() -> None:
    """Measure each file. Print its times, the ratio, and the memory of a process that reads it."""
    rounds = rounds_asked(__doc__, 5)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _files():
            path = Path(folder, f"{name}.yaml")
            path.write_text(text, encoding="utf-8")
            measured = interleave({"read": lambda at=path: _read(at), "events": lambda at=path: _parse(at)}, rounds)
            show(f"{name}: {len(text) / 1024:.0f} KiB (ms)", measured, 1e3)
            goal(measured, "read", "events")
            print(f"  peak of a process that reads it: {_peak(path)} MiB")


if __name__ == "__main__":
    main()
