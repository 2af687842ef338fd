"""The options of the monitors."""

from __future__ import annotations

import attrs

__all__ = ["EventsOptions"]


@attrs.frozen
class EventsOptions:
    """
    Options of `events`.

    Attributes:
        size: Events that are kept; the oldest is dropped for a new one. 1,000 take some 300 KB.
    """

    size: int = attrs.field(default=1000, validator=[attrs.validators.ge(1), attrs.validators.le(1_000_000)])
