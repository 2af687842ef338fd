"""The settings with which the service is deployed."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from sage_plugins import ServiceDeploymentConfig

__all__ = ["BALANCERS", "STRATEGIES", "UNIT_S", "Setting", "settings"]

#: A step of virtual time. It is far longer than any example takes, so that no real wait for a deadline ends before the
#: machine has passed that time.
UNIT_S = 1000.0

#: Longer than any example: draining lasts until the calls have ended.
DRAIN_TIMEOUT_S = 1000 * UNIT_S

STRATEGIES = ("single", "multi", "pool", "async", "inline")
BALANCERS = ("round_robin", "least_loaded")


class Setting(NamedTuple):
    """The settings of one deployment."""

    strategy: str
    threads: int
    max_threads: int
    replicas: int
    balancer: str | None
    reject: bool
    queue_size: int
    queue_timeout: float | None
    limit: int | None  # maximum concurrent calls of `work`

    @property
    def slots_each(self):
        """Slots of a replica."""
        return 1 if self.strategy in ("single", "inline") else self.max_threads

    def config(self):
        counts = {
            "multi": {"thread_count": self.max_threads},
            "pool": {"thread_count": self.threads, "thread_pool_size": self.max_threads},
            "async": {"max_concurrency": self.max_threads},
        }
        return ServiceDeploymentConfig(
            threading_strategy=self.strategy,
            replicas=self.replicas,
            load_balancing=self.balancer is not None,
            load_balancer=self.balancer,
            failover_enabled=self.balancer is None and self.replicas > 1,
            overload="reject" if self.reject else "block",
            queue_size=self.queue_size,
            queue_timeout=self.queue_timeout,
            drain_timeout=DRAIN_TIMEOUT_S,
            # Not `health`: it would keep calls away from a replica that is full of abandoned ones.
            monitors=["metrics", "events"],
            methods={} if self.limit is None else {"work": {"max_concurrency": self.limit}},
            timeout=None,
            **counts.get(self.strategy, {}),
        )


@st.composite
def settings(draw):
    """Draw the settings that do not depend on the strategy."""
    threads, replicas = draw(st.sampled_from(((1, 1), (1, 1), (2, 1), (1, 2), (1, 3), (2, 2))))
    balancer = draw(st.sampled_from((None, *BALANCERS))) if replicas > 1 else None
    return Setting(
        strategy=STRATEGIES[0],
        threads=threads,
        max_threads=threads + draw(st.integers(0, 1)),
        replicas=replicas,
        balancer=balancer,
        reject=draw(st.booleans()),
        queue_size=draw(st.integers(0, 3)),
        queue_timeout=draw(st.sampled_from((None, 2 * UNIT_S))),
        # With a balancer, its choices would decide which call gets a slot, because each replica has its own limit.
        limit=draw(st.sampled_from((None, 1, 2))) if balancer is None else None,
    )
