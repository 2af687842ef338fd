"""Stores the documents by name, and a log of their changes."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .documents import Document


class Version(NamedTuple):
    """
    A version of one store.

    Attributes:
        store: Identifies the store. A new store has a new value, even if it replaces a crashed one.
        changes: How many documents had been stored at this version.
    """

    store: str = ""
    changes: int = 0


class DocStore:
    """
    Documents by name, in memory.

    All writes go here. A copy, such as a replica of the index, passes its version to `changes_since` and gets what is
    new, so the store needs no list of its copies. Safe from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: dict[str, Document] = {}  # under _lock
        self._log: list[str] = []  # under _lock; the names in the order in which they were stored
        self._id = uuid.uuid4().hex

    def put_many(self, documents: Iterable[Document]) -> Version:
        """Store *documents*, replacing those of the same name; return the version that includes them."""
        batch = list(documents)
        with self._lock:
            for document in batch:
                self._documents[document.name] = document
                self._log.append(document.name)
            return self._version_locked()

    def get(self, name: str) -> Document | None:
        """Return the document called *name*, or None."""
        with self._lock:
            return self._documents.get(name)

    def get_many(self, names: Iterable[str]) -> list[Document]:
        """Return the documents called *names*, in that order, without unknown names."""
        with self._lock:
            return [self._documents[name] for name in names if name in self._documents]

    def count(self) -> int:
        """Return the number of documents."""
        with self._lock:
            return len(self._documents)

    def version(self) -> Version:
        """Return the current version. It costs little, so a copy can check it before each use."""
        with self._lock:
            return self._version_locked()

    def changes_since(self, version: Version) -> tuple[Version, list[Document]]:
        """
        Return the current version, and the documents stored since *version*, each once, in its current form.

        If *version* comes from another store (or is `Version()`), return all documents.
        """
        with self._lock:
            seen = version.changes if version.store == self._id else 0
            names = dict.fromkeys(self._log[seen:])
            return self._version_locked(), [self._documents[name] for name in names]

    def _version_locked(self) -> Version:
        return Version(self._id, len(self._log))
