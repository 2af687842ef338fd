"""The service that clients call: it fills the store and answers questions."""

from __future__ import annotations

from concurrent.futures import as_completed
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from .context import Context


class Answer(NamedTuple):
    """
    One answer to a question.

    Attributes:
        name: Where it is defined, such as `"random.Random.shuffle"`.
        signature: How it is called; empty for a module.
        summary: The first sentence of its docstring.
        score: Its BM25 score. Higher is better; compare it only with scores for the same question.
    """

    name: str
    signature: str
    summary: str
    score: float


class Search:
    """The service that clients call. It holds no data; it calls the other services through their handles."""

    def __init__(
        self, ctx: Context, reader: str = "reader", store: str = "store", index: str = "index", index_replicas: int = 1
    ) -> None:
        """
        Look up the other services.

        Args:
            ctx: Gives handles to the other services.
            reader: The name of the reader's service.
            store: The name of the store's service.
            index: The name of the index's service.
            index_replicas: How many replicas of the index `build` updates.
        """
        self._reader = ctx.service(reader)
        self._store = ctx.service(store)
        self._index = ctx.service(index)
        self._index_replicas = index_replicas

    def build(self, progress: Callable[[int, int], None] | None = None) -> int:
        """
        Read every module into the store and update the index; return the number of documents.

        Args:
            progress: Called after each module with the number of modules done and the number of all modules.
        """
        modules = self._reader.modules()
        # Submit all modules at once, so that the replicas of the reader share them.
        readings = [self._reader.submit("read", module) for module in modules]
        for done, reading in enumerate(as_completed(readings), 1):
            self._store.put_many(reading.result())
            if progress is not None:
                progress(done, len(modules))
        # Submitted at once, these calls go to different replicas, because the least loaded one gets each. A replica
        # without such a call updates its copy at its first search.
        for refresh in [self._index.submit("refresh") for _ in range(self._index_replicas)]:
            refresh.result()
        return int(self._store.count())

    def query(self, text: str, limit: int = 5) -> list[Answer]:
        """Return the *limit* best answers to *text*, best first."""
        scores = dict(self._index.search(text, limit))
        return [
            Answer(document.name, document.signature, document.summary, scores[document.name])
            for document in self._store.get_many(scores)
        ]
