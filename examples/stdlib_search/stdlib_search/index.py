"""The searchable copy of the store."""

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

    A read replica: it holds a copy of the whole store and catches up by itself before it answers. So there may be as
    many as you like, each answers any question, and each knows all that was put before the question was asked.

    Safe from several threads. A search works on an immutable copy and takes no lock; only catching up does.
    """

    def __init__(self, ctx: Context, store: str = "store") -> None:
        """
        Start with an empty copy.

        Args:
            ctx: The way to the store.
            store: The name of the store's service.
        """
        self._store = ctx.service(store)
        self._catching_up = threading.Lock()
        self._copy = _Copy(Version(), Bm25())  # replaced as a whole, under _catching_up; read without

    def search(self, query: str, limit: int = 10) -> list[tuple[str, float]]:
        """The names of the *limit* best documents for *query* with their scores, best first."""
        return self._fresh().ranking.search(query, limit)

    def count(self) -> int:
        """How many documents can be found."""
        return len(self._fresh().ranking)

    def refresh(self) -> int:
        """
        Catch up with the store now rather than at the next search; return the number of documents that were new.

        Never needed for a right answer: it moves the work to a moment when nobody waits.
        """
        with self._catching_up:  # the others wait: what is missing is being added right now
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
