"""Records an environment's metrics: on request, and once a minute."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_server.recording.history import History
from sage_deploy_server.recording.sample import Sampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_deploy_server.recording.sample import Sample
    from sage_plugins.interfaces.operations import Operations

__all__ = ["Recorder"]

#: Seconds between records without a request.
_INTERVAL_S: Final = 60.0


class Recorder:
    """
    Records an environment's metrics. Thread-safe.

    Attributes:
        history: The recorded values.
    """

    def __init__(self, operations: Operations) -> None:
        self.history = History()
        self._operations = operations
        self._sampler = Sampler()
        self._lock = threading.Lock()  # guards the sampler
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sage-deploy-server-recorder", daemon=True)

    def start(self) -> None:
        """Record now and once a minute until `close`. So later viewers see earlier values."""
        self._thread.start()

    def record(self) -> tuple[Mapping[str, dict[str, Any]], Mapping[str | None, Sample]]:
        """Record the current metrics. Returns `Operations.overview`, and the samples by service."""
        overview, counts = self._operations.overview(), self._operations.counts()
        with self._lock:
            samples = self._sampler.take(overview, counts)
        self.history.record(samples)
        return overview, samples

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self.record()
            except Exception:
                logging.getLogger("sage.extension.server").exception("the metrics could not be recorded")
            self._closed.wait(_INTERVAL_S)

    def close(self) -> None:
        """Stop recording by itself. Idempotent."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()
