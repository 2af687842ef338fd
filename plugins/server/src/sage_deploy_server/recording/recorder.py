"""Looks at what an environment measures: when somebody asks, and else once a minute."""

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

#: Seconds from one look to the next while nobody asks.
_EVERY_S: Final = 60.0


class Recorder:
    """
    Records what an environment measures. All methods are safe from any thread.

    Attributes:
        history: What was recorded.
    """

    def __init__(self, operations: Operations) -> None:
        """Record nothing yet of *operations*."""
        self.history = History()
        self._operations = operations
        self._sampler = Sampler()
        self._lock = threading.Lock()  # guards the sampler
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sage-deploy-server-recorder", daemon=True)

    def start(self) -> None:
        """Look now and once a minute, until `close`, so that who looks later sees what was before."""
        self._thread.start()

    def look(self) -> tuple[Mapping[str, dict[str, Any]], Mapping[str | None, Sample]]:
        """Record what is measured just now; gives `Operations.overview`, and the samples by service."""
        overview, counts = self._operations.overview(), self._operations.counts()
        with self._lock:
            samples = self._sampler.take(overview, counts)
        self.history.record(samples)
        return overview, samples

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.look()
            except Exception:
                logging.getLogger("sage.extension.server").exception("the metrics could not be recorded")
            self._over.wait(_EVERY_S)

    def close(self) -> None:
        """Look no more by itself. Idempotent."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
