"""Makes, starts and closes the extensions of one environment."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from sage_plugins.errors import DeployError, SageDeployError, text_of
from sage_plugins.planning.environment_options import environment_options
from sage_plugins.values import EnvironmentOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.interfaces import Extension, Operations
    from sage_plugins.plugins.registry import Registry

__all__ = ["Extensions"]


class Extensions:
    """The extensions whose IDs are in the environment's options. Thread-safe."""

    def __init__(self) -> None:
        self._running: dict[str, Extension] = {}  # guarded by _lock
        self._lock = threading.RLock()

    def start(self, registry: Registry, options: Mapping[str, Mapping[str, Any]], operations: Operations) -> None:
        """
        Start the extensions that do not run yet.

        Args:
            registry: The plugins.
            options: Options of the whole environment, by ID, already checked.
            operations: The interface that each extension gets.

        Raises:
            DeployError: An extension cannot be made or started. Those that this call had started were closed.
        """
        with self._lock:
            wanted = [id for id in registry.ids("extension") if id in options and id not in self._running]
            started: list[str] = []
            for id in wanted:
                found = registry.find("extension", id)
                cls = found.registration.options
                settings = None
                if cls is not None:
                    settings, _ = environment_options(EnvironmentOptions(id, cls, ""), options)
                try:
                    extension: Extension = found.registration.create(settings)
                    extension.start(operations)
                except BaseException as error:
                    self._close(started)
                    if isinstance(error, SageDeployError) or not isinstance(error, Exception):
                        raise
                    msg = f"extension '{id}' from {found.plugin.source} did not start: {text_of(error)}"
                    raise DeployError(msg) from error
                self._running[id] = extension
                started.append(id)

    def close(self) -> None:
        """Close all extensions, the last started first. Idempotent."""
        with self._lock:
            self._close(list(self._running))

    def after_fork(self) -> None:
        """In a forked child: forget the extensions, which run in the parent."""
        self._running = {}
        self._lock = threading.RLock()

    def _close(self, ids: list[str]) -> None:
        for id in reversed(ids):
            try:
                self._running.pop(id).close()
            except Exception:
                logging.getLogger("sage_plugins").exception("extension '%s' raised when it was closed", id)
