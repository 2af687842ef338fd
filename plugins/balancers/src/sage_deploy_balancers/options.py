"""Options of the load balancers."""

from __future__ import annotations

from typing import cast

import attrs

__all__ = ["ConsistentHashOptions", "RandomOptions"]


@attrs.frozen
class RandomOptions:
    """
    Options of `random` and `power_of_two`.

    Attributes:
        seed: Seed that makes the choices of one caller the same in every run; null: a different seed each time.
    """

    seed: int | None = None


@attrs.frozen
class ConsistentHashOptions:
    """
    Options of `consistent_hash`.

    Attributes:
        key: Name of the method argument that is a call's key; null: no argument. A key given with
            `with_options(key=...)` takes precedence.
        vnodes: Points of each replica on the ring. The replicas' shares of the key space differ by about
            1/sqrt(vnodes): 9 % with 128.
        load_bound: Maximum calls of a replica, as a multiple of the mean of all replicas: the paper's 1 + epsilon.
            Above it, calls go to the next replica on the ring. Null: a key always goes to the same replica, for
            services that hold state by key.
    """

    key: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.min_len(1)))
    vnodes: int = attrs.field(default=128, validator=[attrs.validators.ge(1), attrs.validators.le(4096)])
    load_bound: float | None = attrs.field(
        default=cast("float | None", 1.25), validator=attrs.validators.optional(attrs.validators.ge(1.0))
    )
