"""The settings of a `simulation.Simulation`, drawn from a seed, and its balancers, good and faulty."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_plugins.values import BatchPlan, MethodKind, MethodPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from random import Random

    from sage_plugins.interfaces import Candidate, Picker

__all__ = ["BALANCERS", "HEALTHY", "TICK", "RaisingBalancer", "Setting"]

#: Seconds. All times of a simulation are exact multiples of it, so that many events fall on the same moment.
TICK: Final = 1 / 16


# -- balancers, good and faulty ----------------------------------------------------------------------------------------


class _Turns:
    """Chooses each replica in turn."""

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        turn = 0

        def pick(_: Hashable | None, _method: str) -> Candidate:
            nonlocal turn
            turn += 1
            return candidates[turn % len(candidates)]

        return pick


class _Least:
    """Chooses the replica with the fewest calls."""

    binding = False

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        return lambda _key, _method: min(candidates, key=lambda each: each.inflight)


class _ByKey:
    """Chooses by key: a key's calls wait for the same replica."""

    binding = True

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        # Not hash(None), which differs from process to process.
        return lambda key, _method: candidates[0 if key is None else hash(key) % len(candidates)]


class RaisingBalancer:
    """
    Works for some time, then raises.

    Attributes:
        mistakes: How often it raised.
    """

    def __init__(self, picks: int, *, binding: bool) -> None:
        """Work for so many *picks*."""
        self.binding = binding
        self._picks = picks
        self.mistakes = 0

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        """Choose the first candidate, until it raises."""

        def pick(_: Hashable | None, _method: str) -> Candidate:
            self._picks -= 1
            if self._picks < 0:
                self.mistakes += 1
                raise ZeroDivisionError("a balancer's mistake")
            return candidates[0]

        if self._picks < 0:
            self.mistakes += 1
            raise ZeroDivisionError("a balancer's mistake, while it composes")
        return pick


class _Stale:
    """Never learns that replicas come and go."""

    binding = False

    def __init__(self) -> None:
        self._first: tuple[Candidate, ...] = ()

    def picker(self, candidates: tuple[Candidate, ...]) -> Picker:
        self._first = self._first or candidates
        return lambda _key, _method: self._first[0]


BALANCERS: Final[Mapping[str, Callable[[Random], Any]]] = {
    "none": lambda _: None,
    "turns": lambda _: _Turns(),
    "least": lambda _: _Least(),
    "by key": lambda _: _ByKey(),
    "raises": lambda random: RaisingBalancer(random.randrange(10), binding=random.random() < 0.3),  # noqa: PLR2004 - odds
    "stale": lambda _: _Stale(),
}
HEALTHY: Final = ("none", "turns", "least", "by key")


@attrs.frozen
class Setting:
    """
    The settings of one simulation, drawn from its seed.

    Attributes:
        queue_size: The most calls that may wait.
        reject: Whether a full queue refuses a call. If not, the call blocks.
        retry_lost: Whether idempotent calls are started again when their replica dies.
        balancer: Name of the balancer.
        slots: Number of slots of each replica.
        in_callers_thread: Whether calls run in their callers' threads, as under `inline`.
        steps: Number of steps before the end.
        dies: Probability that a call's replica dies with it.
        methods: The service's methods: one that may run twice, and one that may not.
    """

    queue_size: int
    reject: bool
    retry_lost: bool
    balancer: str
    slots: tuple[int, ...]
    in_callers_thread: bool
    steps: int
    dies: float
    methods: tuple[MethodPlan, ...] = (
        MethodPlan(0, "once", MethodKind.SYNC, idempotent=False, timeout=inf),
        MethodPlan(1, "twice", MethodKind.SYNC, idempotent=True, timeout=inf),
    )

    @classmethod
    def draw(cls, random: Random) -> Setting:
        """Draw settings. They are small, so that limits are reached often."""
        here = random.random() < 0.15  # noqa: PLR2004 - odds, as below
        replicas = random.choice((1, 1, 2, 2, 3, 4))
        return cls(
            queue_size=random.choice((0, 1, 1, 2, 3, 5, 8, 20)),
            reject=random.random() < 0.5,  # noqa: PLR2004
            retry_lost=random.random() < 0.5,  # noqa: PLR2004
            balancer=random.choice(tuple(BALANCERS)),
            slots=tuple(1 if here else random.choice((1, 1, 2, 3)) for _ in range(replicas)),
            in_callers_thread=here,
            steps=random.randrange(20, 80),
            dies=0.0 if here else random.choice((0.0, 0.03, 0.1)),
        )

    def limit(self, random: Random) -> Setting:
        """Return the same settings, and methods with limits of their own, for a `method_limits.MethodRouter`."""
        return attrs.evolve(
            self,
            methods=tuple(
                plan._replace(
                    max_concurrency=random.choice((None, 1, 1, 2)),
                    batch=random.choice(
                        (
                            None,
                            BatchPlan(f"{plan.name}_many", MethodKind.SYNC, size, random.choice((0, 1, 3, 8)) * TICK),
                        )
                    ),
                )
                for plan, size in ((plan, random.choice((2, 2, 3, 5))) for plan in self.methods)
            ),
        )
