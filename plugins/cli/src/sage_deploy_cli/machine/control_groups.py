"""Reads the limits that the operating system's control groups, which containers use, set for this process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ControlGroups"]

#: Version 1 has no word for "no limit": it shows about the largest number that fits.
_UNLIMITED: Final = 2**60


class ControlGroups:
    """
    Limits of this process's control groups, version 1 or 2. The smallest one up to the root group counts.

    Without control groups there are no limits.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """
        Find the groups.

        Args:
            root: Root of the file system. Tests pass another one.
        """
        self._mount = root / "sys/fs/cgroup"
        try:
            lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        #: Path of the group by controller. In version 2, all controllers share one entry, whose name is empty.
        self._paths = {
            name: path.lstrip("/")
            for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1)
            for name in controllers.split(",")
        }

    def cpus(self) -> float | None:
        """Return the number of cores whose time may be used, or None for no limit."""
        quotas = [
            int(quota) / int(period)
            for quota, period in (text.split() for text in self._values("", "cpu.max"))
            if quota != "max"
        ]
        for quota, period in zip(
            self._values("cpu", "cpu.cfs_quota_us"), self._values("cpu", "cpu.cfs_period_us"), strict=False
        ):
            if int(quota) > 0:
                quotas.append(int(quota) / int(period))
        return min(quotas, default=None)

    def memory(self) -> int | None:
        """Return the bytes of memory that may be used, or None for no limit."""
        return self._least((*self._values("", "memory.max"), *self._values("memory", "memory.limit_in_bytes")))

    def threads(self) -> int | None:
        """Return how many threads all processes of the group may have together, or None for no limit."""
        return self._least((*self._values("", "pids.max"), *self._values("pids", "pids.max")))

    def _least(self, texts: tuple[str, ...]) -> int | None:
        return min((int(text) for text in texts if text != "max" and int(text) < _UNLIMITED), default=None)

    def _values(self, controller: str, name: str) -> Iterator[str]:
        """Yield the content of the files of this name, from the process's own group up to the root."""
        path = self._paths.get(controller)
        if path is None:
            return
        # Inside a container, this path may exist only outside it: such files are skipped.
        group = self._mount / controller / path
        while group.is_relative_to(self._mount / controller):
            with contextlib.suppress(OSError):
                yield (group / name).read_text(encoding="utf-8").strip()
            group = group.parent
