"""
Whether a call that failed is tried again, and after which wait.

A state machine without a clock of its own: it is told of calls, asked about attempts that failed, and says what is to
be done. `routing.guarding.retrying` does it.

* A call has at most `max_attempts`, and at most two replicas die of it: it may be what kills them.
* All calls together have at most `min` attempts beyond their first in any 10 s, and one more for each `1 / budget`
  calls that were made in these 10 s. So when whatever the service depends on is down, retries add a fifth to its load,
  not twice as much.
* After an exception the wait is random, up to `backoff`, twice that the next time, and so on up to 1 s. After a death
  there is none: the replica that has what was lost is another one.
* What is left of the call's time must be longer than the wait.

The budget, 20 % of the calls and a few more within 10 s, is Finagle's; so is the window. From 25 ms to 1 s, drawn from
zero on ("full jitter"), is the back-off of gRPC and of Ray Serve. Three attempts are Envoy's and gRPC's common setting.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from random import Random

    from sage_plugins.config.nested_keys import RetryPolicy

__all__ = ["LONGEST_WAIT_S", "MOST_DEATHS", "WINDOW_S", "Again", "NotAgain", "Retries"]

#: Seconds over which calls and retries are counted.
WINDOW_S: Final = 10.0

#: Seconds before an attempt, at most.
LONGEST_WAIT_S: Final = 1.0

#: Replicas that may die of one call.
MOST_DEATHS: Final = 2

#: Calls are counted together for so many seconds.
_SLOT_S: Final = 1.0


class Again(NamedTuple):
    """
    Try the call again.

    Attributes:
        wait: Seconds until then.
        reason: The numbers that decided.
    """

    wait: float
    reason: str


class NotAgain(NamedTuple):
    """
    The call ends with what ended its attempt.

    Attributes:
        reason: The numbers that decided.
    """

    reason: str


class Retries:
    """
    Decides about the calls of one service.

    Not safe from several threads at once; who drives it has a lock. Only `called` needs none: a call that is not
    counted makes the budget smaller, never larger. All times are readings of one clock, in seconds, and never go back.

    Attributes:
        calls: Calls that were made since `restart_count`.
        counts_until: When that is due again.
    """

    def __init__(self, policy: RetryPolicy, random: Random) -> None:
        """
        No call has been made.

        Args:
            policy: What is allowed.
            random: Draws the waits; seed it to have the same course of events again.
        """
        self.policy = policy
        self._random = random
        self._began = 0.0  # the time from which on calls are counted in `calls`, not in a slot
        self.calls = 0
        self.counts_until = _SLOT_S
        self._slots: deque[tuple[float, int]] = deque()  # when calls began to be counted together, and how many
        self._spent: deque[float] = deque()  # when calls were tried again

    def called(self, now: float) -> None:
        """A call was made."""
        if now >= self.counts_until:
            self.restart_count(now)
        self.calls += 1

    def failed(self, now: float, remaining: float, attempts: int) -> Again | NotAgain:
        """
        An attempt ended with an exception that the policy names.

        Args:
            now: Seconds on the clock.
            remaining: Seconds that the call has left.
            attempts: How many it has had.
        """
        longest = min(self.policy.backoff * 2.0 ** min(attempts - 1, 30), LONGEST_WAIT_S)
        return self._decide(now, remaining, attempts, self._random.uniform(0.0, longest))

    def died(self, now: float, remaining: float, attempts: int, deaths: int) -> Again | NotAgain:
        """The replica died that ran an attempt, as the *deaths*-th one of this call; the rest is as for `failed`."""
        if deaths >= MOST_DEATHS:
            return NotAgain(f"{deaths} replicas died of it, the most that one call may take along")
        return self._decide(now, remaining, attempts, 0.0)

    def _decide(self, now: float, remaining: float, attempts: int, wait: float) -> Again | NotAgain:
        policy = self.policy
        if attempts >= policy.max_attempts:
            return NotAgain(f"attempt {attempts} of {policy.max_attempts} was the last")
        if wait >= remaining:
            return NotAgain(f"{remaining:.3g} s are left, and the wait would be {wait:.3g} s")
        found = self.hedged(now)
        if isinstance(found, NotAgain):
            return found
        return Again(wait, f"attempt {attempts + 1} of {policy.max_attempts} in {wait:.3g} s; {found.reason}")

    def hedged(self, now: float) -> Again | NotAgain:
        """Whether one attempt more, which does not wait for another to fail, is within the budget."""
        calls, spent = self._calls_of_late(now), self._spent_of_late(now)
        allowed = self.policy.min + self.policy.budget * calls
        numbers = f"of {calls} calls in the last {WINDOW_S:g} s"
        if spent + 1 > allowed:
            return NotAgain(f"the budget is used up: {spent} retries, {allowed:.4g} allowed, {numbers}")
        self._spent.append(now)
        return Again(0.0, f"retry {spent + 1}, {allowed:.4g} allowed, {numbers}")

    def restart_count(self, now: float) -> None:
        """Count calls together that are made within a second from *now* on."""
        self._slots.append((self._began, self.calls))
        self._began, self.calls, self.counts_until = now, 0, now + _SLOT_S
        self._forget(now)

    def _forget(self, now: float) -> None:
        # A slot counts if all of it is of late: the budget is rather too small than too large.
        while self._slots and self._slots[0][0] <= now - WINDOW_S:
            self._slots.popleft()

    def _calls_of_late(self, now: float) -> int:
        self._forget(now)
        current = self.calls if self._began > now - WINDOW_S else 0
        return current + sum(calls for _, calls in self._slots)

    def _spent_of_late(self, now: float) -> int:
        while self._spent and self._spent[0] <= now - WINDOW_S:
            self._spent.popleft()
        return len(self._spent)
