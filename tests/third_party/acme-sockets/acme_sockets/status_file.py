"""The extension `status_file`: writes the status to a file, for status pages and scripts on this machine."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from sage_plugins.interfaces.operations import Operations


@attrs.frozen
class StatusFileOptions:
    """
    Options of `status_file`.

    Attributes:
        path: The file to write.
        every_s: Seconds between two versions of the file.
    """

    path: str = attrs.field(validator=attrs.validators.min_len(1))
    every_s: float = attrs.field(default=5.0, validator=attrs.validators.gt(0), metadata={"unit": "seconds"})


class StatusFile:
    """Writes the status periodically, in its own thread."""

    def __init__(self, options: StatusFileOptions) -> None:
        self._path = Path(options.path)
        self._every_s = options.every_s
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, operations: Operations) -> None:
        """Write the first version, so that a wrong path fails the deployment; then start the thread."""
        self._write(operations)
        self._thread = threading.Thread(target=self._run, args=(operations,), name="status-file", daemon=True)
        self._thread.start()

    def _run(self, operations: Operations) -> None:
        while not self._closing.wait(self._every_s):
            self._write(operations)

    def _write(self, operations: Operations) -> None:
        new = self._path.with_name(self._path.name + ".new")
        new.write_text(json.dumps(operations.status(), indent=2), encoding="utf-8")
        new.replace(self._path)  # readers never see half a file

    def close(self) -> None:
        """End the thread; the file stays."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
