"""The search index: a copy of the store that is searched by words."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from .bm25 import Bm25
from .store import Version

if TYPE_CHECKING:
    from .context import Context


class _Copy(NamedTuple):
    version: Version
    ranking: Bm25


class DocIndex:
    """
    Finds documents by words, ranked by BM25.

    Each replica holds a copy of the whole store, and updates it before it answers. So any number of replicas may run,
    and each finds every document stored before the question was asked.

    Safe from several threads. A search reads an immutable copy without a lock; only updates take one.
    """

    def __init__(self, ctx: Context, store: str = "store") -> None:
        """
        Start with an empty copy.

        Args:
            ctx: Gives a handle to the store.
            store: The name of the store's service.
        """
        self._store = ctx.service(store)
        self._catching_up = threading.Lock()
        self._copy = _Copy(Version(), Bm25())  # replaced as a whole, under _catching_up; read without the lock

    def search(self, query: str, limit: int = 10) -> list[tuple[str, float]]:
        """Return the names of the *limit* best documents for *query* with their scores, best first."""
        return self._fresh().ranking.search(query, limit)

    def count(self) -> int:
        """Return the number of documents that can be found."""
        return len(self._fresh().ranking)

    def refresh(self) -> int:
        """
        Update the copy now instead of at the next search; return the number of new or changed documents.

        Answers are right without it: it moves the work to a time when no caller waits.
        """
        with self._catching_up:  # other callers wait for the update, which they need too
            old = self._copy
            version, documents = self._store.changes_since(old.version)
            if version != old.version:
                ranking = old.ranking if version.store == old.version.store else Bm25()
                self._copy = _Copy(version, ranking.with_documents(documents))
            return len(documents)

    def _fresh(self) -> _Copy:
        if self._store.version() != self._copy.version:
            self.refresh()
        return self._copy
