"""`Guards`: combines the guards of one router; each is made only if the service asks for it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from sage_plugins.config.nested_keys import RetryPolicy
from sage_plugins.routing.guarding.breaking import Breaking
from sage_plugins.routing.guarding.ejecting import Ejecting
from sage_plugins.routing.guarding.hedging import Hedge, Hedging
from sage_plugins.routing.guarding.killing import Killing
from sage_plugins.routing.guarding.parts import Parts, RateLimitedTell
from sage_plugins.routing.guarding.retrying import Budget, Retrying
from sage_plugins.routing.guarding.unguarded import NO_RETRIES, Unguarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.config.nested_keys import Policies
    from sage_plugins.routing.guarding.parts import Tell
    from sage_plugins.routing.guarding.unguarded import Follow
    from sage_plugins.routing.lane import Lane

__all__ = ["Guards"]


class Guards(Unguarded):
    """
    Handles the failing calls of one service, as its policies say.
    """

    def __init__(
        self,
        policies: Policies,
        tell: Tell = lambda _kind, _reason, _replica: None,
        *,
        kills: bool = False,
        random: Random | None = None,
    ) -> None:
        """
        Guard nothing until the router calls `join`.

        Args:
            policies: The policies from the configuration.
            tell: Called for every decision.
            kills: Whether to kill replicas in which calls run on after their deadline.
            random: Draws the waits between attempts; None for a generator of its own.
        """
        self._policies = policies
        self._tell = tell
        self._random = Random() if random is None else random  # noqa: S311 - not used for secrets
        self._budget: Budget | None = None
        self._retrying: Retrying | None = None
        self._hedging: Hedging | None = None
        self._breaking: Breaking | None = None
        self._kills = kills
        self._killing: Killing | None = None
        self._ejecting = None if policies.outlier is None else Ejecting(policies.outlier, tell)

    def join(self, *parts_of_router: Any) -> None:
        """Guard the router with these `Parts`; once."""
        parts = Parts(*parts_of_router)
        rarely = RateLimitedTell(parts.clock, self._tell)
        retry, hedge = self._policies.retry, self._policies.hedge
        if retry is not None or hedge is not None:
            self._budget = Budget(retry or RetryPolicy(), self._random)
            if retry is not None:
                self._retrying = Retrying(retry, parts, self._budget, rarely)
            if hedge is not None:
                self._hedging = Hedging(hedge, parts, self._budget, rarely)
        if self._ejecting is not None:
            self._ejecting.join(parts)
        if self._kills:
            self._killing = Killing(parts, self._tell)
        if self._policies.breaker is not None:
            self._breaking = Breaking(self._policies.breaker, self._policies.retry, parts, self._tell)

    def guard(self, route: Callable[[Call], bool]) -> Callable[[Call], bool]:
        """Wrap *route* so that the guards note or refuse each call."""
        if self._retrying is not None:
            self._retrying.lanes_changed()
        if self._hedging is not None:
            route = self._hedging.guard(route)
        if self._budget is not None:
            route = self._budget.guard(route)
        if self._ejecting is not None:
            self._ejecting.lanes_changed()
        if self._killing is not None:
            route = self._killing.guard(route)
        return route if self._breaking is None else self._breaking.guard(route)

    def follow(self, lane: Lane, follow: Follow) -> Follow:
        """As `Unguarded.follow`."""
        return follow if self._retrying is None else self._retrying.follow(lane, follow)

    def not_again(self, call: Call) -> str:
        """As for `Losses`."""
        return NO_RETRIES if self._retrying is None or isinstance(call, Hedge) else self._retrying.not_again(call)

    def overdue(self, call: Call) -> None:
        """As `Unguarded.overdue`."""
        if self._killing is not None:
            self._killing.overdue(call)

    def stopped(self, call: Call) -> None:
        """As `Unguarded.stopped`."""
        if self._killing is not None:
            self._killing.stopped(call)

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:
        """As `CallOwner.failed`."""
        return None if self._retrying is None else self._retrying.failed(call, error)

    def end(self) -> None:
        """Stop, at the end of the router."""
        if self._retrying is not None:
            self._retrying.end()
        if self._hedging is not None:
            self._hedging.end()
        if self._ejecting is not None:
            self._ejecting.end()
        if self._killing is not None:
            self._killing.end()
