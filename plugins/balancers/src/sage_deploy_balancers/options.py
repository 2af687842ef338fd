"""The options of the balancers."""

from __future__ import annotations

from typing import cast

import attrs

__all__ = ["ConsistentHashOptions", "RandomOptions"]


@attrs.frozen
class RandomOptions:
    """
    Options of `random` and `power_of_two`.

    Attributes:
        seed: Makes the choices of one caller the same in every run; None for others each time.
    """

    seed: int | None = None


@attrs.frozen
class ConsistentHashOptions:
    """
    Options of `consistent_hash`.

    Attributes:
        key: Name of the methods' argument that is the key of a call; None if only `with_options(key=...)` gives keys,
            which wins over the argument.
        vnodes: Points of each replica on the ring. The shares of the key space that replicas get differ by some
            1/sqrt(vnodes): 9 per cent with 128.
        load_bound: How many times the mean number of calls a replica may have before its keys go on to the next one on
            the ring: the paper's 1 + epsilon. 1.25 by default; None sends a key to its own replica whatever the load,
            for services that hold state by key.
    """

    key: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.min_len(1)))
    vnodes: int = attrs.field(default=128, validator=[attrs.validators.ge(1), attrs.validators.le(4096)])
    load_bound: float | None = attrs.field(
        default=cast("float | None", 1.25), validator=attrs.validators.optional(attrs.validators.ge(1.0))
    )
