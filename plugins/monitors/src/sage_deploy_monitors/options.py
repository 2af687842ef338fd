"""Options of the monitors."""

from __future__ import annotations

import attrs

__all__ = ["EventsOptions"]


@attrs.frozen
class EventsOptions:
    """
    Options of `events`.

    Attributes:
        size: Maximum events that are kept; then each new one replaces the oldest. 1,000 take about 300 KB.
    """

    size: int = attrs.field(default=1000, validator=[attrs.validators.ge(1), attrs.validators.le(1_000_000)])
