"""The documents by name, and what changed since when."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .documents import Document


class Version(NamedTuple):
    """
    A moment in the life of one store.

    Attributes:
        store: Which store: a new one, also one that replaces it after a crash, has another value.
        changes: How many documents had been put when this was the present.
    """

    store: str = ""
    changes: int = 0


class DocStore:
    """
    Documents by name, in memory.

    The one place that is written to. Copies, such as the replicas of the index, ask `changes_since` the version that
    they have and so catch up without ever being told. Safe from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: dict[str, Document] = {}  # under _lock
        self._log: list[str] = []  # under _lock; the names in the order in which they were put
        self._id = uuid.uuid4().hex

    def put_many(self, documents: Iterable[Document]) -> Version:
        """Store *documents*, each in place of one of the same name, and return the version that has them all."""
        batch = list(documents)
        with self._lock:
            for document in batch:
                self._documents[document.name] = document
                self._log.append(document.name)
            return self._version_locked()

    def get(self, name: str) -> Document | None:
        """The document called *name*, or None."""
        with self._lock:
            return self._documents.get(name)

    def get_many(self, names: Iterable[str]) -> list[Document]:
        """The documents called *names*, in that order; unknown names are left out."""
        with self._lock:
            return [self._documents[name] for name in names if name in self._documents]

    def count(self) -> int:
        """How many documents there are."""
        with self._lock:
            return len(self._documents)

    def version(self) -> Version:
        """The present version: cheap to ask before each use of a copy."""
        with self._lock:
            return self._version_locked()

    def changes_since(self, version: Version) -> tuple[Version, list[Document]]:
        """
        The present version, and all documents put since *version*, each once and as it is now.

        A version of another store (`Version()` for none) gets everything.
        """
        with self._lock:
            seen = version.changes if version.store == self._id else 0
            names = dict.fromkeys(self._log[seen:])
            return self._version_locked(), [self._documents[name] for name in names]

    def _version_locked(self) -> Version:
        return Version(self._id, len(self._log))
