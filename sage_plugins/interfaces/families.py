"""Metrics of a service in Prometheus's form: each family is one metric, with its values by labels."""

from __future__ import annotations

from operator import add as plus
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MOST_LABEL_SETS", "Families", "Family", "add_up", "growing", "is_summable"]

#: Maximum number of label sets of one family when families are added up. Values of more sets are added to `other`.
MOST_LABEL_SETS: Final = 1_000


class Family(NamedTuple):
    """
    One metric of a service.

    Attributes:
        name: The metric's name, such as `sage_requests_total`. The name of a counter ends in `_total`.
        kind: `counter`, `gauge` or `histogram`.
        help: Meaning of the metric, in one sentence.
        labels: Names of the labels. The exporter adds `service`.
        values: Numbers, keyed by the tuple of label values. For a histogram: its sum, then the count of each bucket.
        edges: Upper edges of a histogram's buckets. One more bucket, without an edge, counts the larger values.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[Any, Any]
    edges: tuple[float, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return the values as a status shows them: one mapping for each, with its labels."""
        return [{**dict(zip(self.labels, key, strict=True)), "value": value} for key, value in self.values.items()]


#: Families by name.
Families: TypeAlias = dict[str, Family]


def add_up(parts: Iterable[Mapping[str, Family]]) -> Families:
    """
    Return the sum of several sets of families, without changing them.

    If the parts disagree about the kind, labels or edges of a family, the earlier values are dropped.
    """
    total: Families = {}
    for part in parts:
        for name, family in part.items():
            sum_ = total.get(name)
            if sum_ is None or (sum_.kind, sum_.labels, sum_.edges) != (family.kind, family.labels, family.edges):
                total[name] = family._replace(values=dict(family.values))
                continue
            values: dict[tuple[str, ...], Any] = cast("dict[tuple[str, ...], Any]", sum_.values)
            for labels, value in family.values.items():
                key = labels if labels in values or len(values) < MOST_LABEL_SETS else ("other",) * len(labels)
                before = values.get(key)
                if before is None:
                    values[key] = value
                else:
                    values[key] = tuple(map(plus, before, value)) if family.edges else before + value
    return total


def is_summable(family: Family) -> bool:
    """Whether the family's values are about the whole service, not about single replicas."""
    return "replica" not in family.labels


def growing(families: Mapping[str, Family]) -> Families:
    """Return the families whose values never fall, and that stay when replicas leave."""
    return {name: each for name, each in families.items() if each.kind != "gauge" and is_summable(each)}
