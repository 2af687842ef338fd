"""
Circuit breaker: decides whether calls to a failing service are sent at all.

A state machine without a clock. `routing.guarding.breaking` asks it about each call, and reports how each admitted call
ended.

* *Closed*: every call is admitted. `failures` failures in a row within `window` seconds open it. A success in between
  resets the count.
* *Open*: no call is admitted for `open` seconds.
* *Half open*: only `probes` calls are admitted. When all of them have succeeded, it closes. When one fails, it opens
  again.

An outcome that says nothing about the service is not counted, for example a call that its caller cancelled. If it was a
probe, another one is admitted. The three states with few probes come from Akka and Finagle. Five failures in a row are
the default of both.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sage_plugins.config.nested_keys import BreakerPolicy

__all__ = ["CLOSED", "HALF_OPEN", "OPEN", "Admitted", "Circuit", "Rejected"]

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"


class Admitted(NamedTuple):
    """
    The call is admitted.

    Attributes:
        probe: Number of the half-open period that it probes, from 1; 0 if it is no probe.
    """

    probe: int = 0


class Rejected(NamedTuple):
    """
    The call is not admitted.

    Attributes:
        retry_after: Seconds after which a call may be admitted.
        reason: The numbers behind the decision.
    """

    retry_after: float
    reason: str


class Circuit:
    """
    The circuit breaker of one service.

    Not thread-safe: the caller must hold a lock. All times are readings of one clock, in seconds.

    Attributes:
        state: `closed`, `open` or `half_open`.
        watches: Whether successes must be reported now: it is not closed, or there were failures.
        changes: New states and their reasons, oldest first. The code that reports one removes it.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.state = CLOSED
        self.watches = False
        self.changes: deque[tuple[str, str]] = deque()
        self._failures: deque[float] = deque(maxlen=policy.failures)  # times of the failures in a row
        self._until = 0.0  # when it becomes half open
        self._round = 0  # number of the half-open period
        self._probes = 0  # probes that are under way
        self._succeeded = 0  # probes of this period that succeeded

    def admit(self, now: float) -> Admitted | Rejected:
        """Decide whether a call is admitted."""
        if self.state == CLOSED:
            return Admitted()
        if self.state == OPEN:
            if now < self._until:
                return Rejected(self._until - now, f"it is open for another {self._until - now:.3g} s")
            self.state = HALF_OPEN
            self._round += 1
            self._probes = self._succeeded = 0
            self._change(f"{self._policy.open:g} s have passed, {self._policy.probes} calls are let through")
        if self._probes + self._succeeded < self._policy.probes:
            self._probes += 1
            return Admitted(self._round)
        return Rejected(min(1.0, self._policy.open), f"{self._probes} probes of {self._policy.probes} are on their way")

    def succeeded(self, probe: int) -> None:
        """Report that an admitted call has shown that the service works."""
        if self.state == CLOSED:
            self._failures.clear()
            self.watches = False
        elif self._is_current(probe):
            self._probes -= 1
            self._succeeded += 1
            if self._succeeded >= self._policy.probes:
                self.state, self.watches = CLOSED, False
                self._failures.clear()
                self._change(f"{self._succeeded} of {self._policy.probes} probes succeeded")

    def failed(self, now: float, probe: int) -> None:
        """Report that an admitted call failed because of the service."""
        policy = self._policy
        if self.state == CLOSED:
            self._failures.append(now)
            self.watches = True
            within = now - self._failures[0]
            if len(self._failures) == policy.failures and within <= policy.window:
                self._open(now, f"{policy.failures} calls in a row failed within {within:.3g} s of {policy.window:g} s")
        elif self._is_current(probe):
            self._open(now, "a probe failed")

    def inconclusive(self, probe: int) -> None:
        """Report that an admitted call has ended, with an outcome that says nothing about the service."""
        if self._is_current(probe):
            self._probes -= 1

    def _is_current(self, probe: int) -> bool:
        # Calls from before it opened no longer count.
        return self.state == HALF_OPEN and probe == self._round

    def _open(self, now: float, why: str) -> None:
        self.state, self.watches = OPEN, True
        self._until = now + self._policy.open
        self._failures.clear()
        self._change(f"{why}; no call for {self._policy.open:g} s")

    def _change(self, why: str) -> None:
        self.changes.append((self.state, why))
