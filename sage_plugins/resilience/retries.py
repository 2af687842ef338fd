"""
Decides whether a failed call is retried, and after which wait.

A state machine without a clock. `routing.guarding.retrying` reports calls, asks about failed attempts and carries out
the decisions.

* A call has at most `max_attempts` attempts. At most two replicas may die while they run it, because it may be the
  cause.
* In any 10 s, all calls together get `min` retries, and one more for each `1 / budget` calls made in these 10 s. So if
  a dependency of the service is down, retries add a fifth to its load, not twice as much.
* After an exception the wait is random: up to `backoff`, then up to twice as long each time, at most 1 s. After a death
  there is no wait, because another replica runs the retry.
* The call must have more time left than the wait.

The budget, 20 % of the calls and a few more within 10 s, comes from Finagle, and so does the window. The back-off from
25 ms to 1 s, drawn from zero on ("full jitter"), comes from gRPC and Ray Serve. Three attempts are a common setting of
Envoy and gRPC.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from random import Random

    from sage_plugins.config.nested_keys import RetryPolicy

__all__ = ["LONGEST_WAIT_S", "MOST_DEATHS", "WINDOW_S", "NoRetry", "Retries", "Retry"]

#: Seconds over which calls and retries are counted.
WINDOW_S: Final = 10.0

#: Longest wait before an attempt, in seconds.
LONGEST_WAIT_S: Final = 1.0

#: How many replicas may die while they run the same call.
MOST_DEATHS: Final = 2

#: Calls within this many seconds are counted together.
_BUCKET_S: Final = 1.0


class Retry(NamedTuple):
    """
    Retry the call.

    Attributes:
        wait: Seconds until then.
        reason: The numbers behind the decision.
    """

    wait: float
    reason: str


class NoRetry(NamedTuple):
    """
    Do not retry the call: it ends as its attempt did.

    Attributes:
        reason: The numbers behind the decision.
    """

    reason: str


class Retries:
    """
    Decides about one service's calls.

    Not thread-safe: the caller must hold a lock, except for `called`. A call that is not counted makes the budget
    smaller, never larger. All times are readings of one clock, in seconds, and never go back.

    Attributes:
        calls: Number of calls since `restart_count`.
        counts_until: When `restart_count` is due again.
    """

    def __init__(self, policy: RetryPolicy, random: Random) -> None:
        """
        Start without any calls.

        Args:
            policy: The limits.
            random: Draws the waits; a seed makes them repeatable.
        """
        self.policy = policy
        self._random = random
        self._began = 0.0  # when the count in `calls` began
        self.calls = 0
        self.counts_until = _BUCKET_S
        self._buckets: deque[tuple[float, int]] = deque()  # earlier counts: when each began, and its calls
        self._spent: deque[float] = deque()  # times of retries

    def called(self, now: float) -> None:
        """Count a call."""
        if now >= self.counts_until:
            self.restart_count(now)
        self.calls += 1

    def failed(self, now: float, remaining: float, attempts: int) -> Retry | NoRetry:
        """
        Decide what follows an attempt that ended with an exception that the policy names.

        Args:
            now: The time on the clock, in seconds.
            remaining: Seconds that the call has left.
            attempts: Number of its attempts so far.
        """
        longest = min(self.policy.backoff * 2.0 ** min(attempts - 1, 30), LONGEST_WAIT_S)
        return self._decide(now, remaining, attempts, self._random.uniform(0.0, longest))

    def died(self, now: float, remaining: float, attempts: int, deaths: int) -> Retry | NoRetry:
        """As `failed`, for an attempt whose replica died. *deaths* replicas have died while they ran this call."""
        if deaths >= MOST_DEATHS:
            return NoRetry(f"{deaths} replicas have died while they ran it, and no call gets more")
        return self._decide(now, remaining, attempts, 0.0)

    def _decide(self, now: float, remaining: float, attempts: int, wait: float) -> Retry | NoRetry:
        policy = self.policy
        if attempts >= policy.max_attempts:
            return NoRetry(f"attempt {attempts} of {policy.max_attempts} was the last")
        if wait >= remaining:
            return NoRetry(f"{remaining:.3g} s are left, and the wait would be {wait:.3g} s")
        found = self.take_from_budget(now)
        if isinstance(found, NoRetry):
            return found
        return Retry(wait, f"attempt {attempts + 1} of {policy.max_attempts} in {wait:.3g} s; {found.reason}")

    def take_from_budget(self, now: float) -> Retry | NoRetry:
        """Take one attempt from the budget, if it allows one. Second attempts of unanswered calls use this directly."""
        calls, spent = self._recent_calls(now), self._recent_retries(now)
        allowed = self.policy.min + self.policy.budget * calls
        numbers = f"of {calls} calls in the last {WINDOW_S:g} s"
        if spent + 1 > allowed:
            return NoRetry(f"the budget is used up: {spent} retries, {allowed:.4g} allowed, {numbers}")
        self._spent.append(now)
        return Retry(0.0, f"retry {spent + 1}, {allowed:.4g} allowed, {numbers}")

    def restart_count(self, now: float) -> None:
        """Begin a new count of calls *now*, and keep the old one."""
        self._buckets.append((self._began, self.calls))
        self._began, self.calls, self.counts_until = now, 0, now + _BUCKET_S
        self._forget(now)

    def _forget(self, now: float) -> None:
        # A count that is only partly within the window is dropped, so that the budget is never too large.
        while self._buckets and self._buckets[0][0] <= now - WINDOW_S:
            self._buckets.popleft()

    def _recent_calls(self, now: float) -> int:
        self._forget(now)
        current = self.calls if self._began > now - WINDOW_S else 0
        return current + sum(calls for _, calls in self._buckets)

    def _recent_retries(self, now: float) -> int:
        while self._spent and self._spent[0] <= now - WINDOW_S:
            self._spent.popleft()
        return len(self._spent)
