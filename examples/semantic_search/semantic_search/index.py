"""Stores vectors and finds the nearest ones, with sageVDB, a vector database in C++."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sagevdb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike


class VectorIndex:
    """
    Finds the vectors nearest to a given vector.

    Neither the database nor its results can be pickled. So the constructor creates the database in the replica's
    process, and `search` returns tuples.

    Run one replica only: it holds the data. Safe from several threads.
    """

    def __init__(self, dimension: int = 384) -> None:
        """
        Create an empty index.

        Args:
            dimension: The length of each vector.
        """
        config = sagevdb.DatabaseConfig(dimension)
        config.index_type = sagevdb.IndexType.FLAT  # compares with every vector: exact, and fast for a few thousand
        config.metric = sagevdb.DistanceMetric.INNER_PRODUCT
        self._database = sagevdb.SageVDB(config)

    def add(self, name: str, vector: Sequence[float]) -> None:
        """Add *vector* under *name*."""
        self._database.add(vector, {"name": name})

    def search(self, vector: ArrayLike, limit: int = 5) -> list[tuple[str, float]]:
        """Return the names of the *limit* nearest vectors and their dot products with *vector*, nearest first."""
        found = sagevdb.search_numpy(self._database, vector, sagevdb.SearchParams(limit))
        return [(result.metadata["name"], result.score) for result in found]

    def count(self) -> int:
        """Return the number of vectors."""
        return self._database.size()
