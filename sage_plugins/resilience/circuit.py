"""
Whether a service that keeps failing is called at all.

A state machine without a clock of its own: it is asked about each call and told how those ended that it let through.
`routing.guarding.breaking` does so.

* *Closed*: every call goes through. `failures` failures in a row within `window` seconds open it; a success in between
  has the count begin anew.
* *Open*: no call goes through for `open` seconds.
* *Half open*: `probes` calls go through, the others do not. When as many have succeeded it closes; when one fails it
  opens again.

What says nothing of the service, such as a call that its caller cancelled, counts as nothing; a probe that ends so
makes room for another. Closed, open and half open with few probes are Akka's and Finagle's; five failures in a row are
the default of both.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sage_plugins.config.nested_keys import BreakerPolicy

__all__ = ["CLOSED", "HALF_OPEN", "OPEN", "Circuit", "Passed", "Stopped"]

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"


class Passed(NamedTuple):
    """
    The call goes through.

    Attributes:
        probe: In which half-open time it is a probe, counted from 1; 0 if it is none.
    """

    probe: int = 0


class Stopped(NamedTuple):
    """
    The call does not go through.

    Attributes:
        retry_after: Seconds after which one may.
        reason: The numbers that decided.
    """

    retry_after: float
    reason: str


class Circuit:
    """
    The circuit breaker of one service.

    Not safe from several threads at once; who drives it has a lock. All times are readings of one clock, in seconds.

    Attributes:
        state: `closed`, `open` or `half_open`.
        watches: Whether successes matter now: it is not closed, or there were failures.
        changes: What it has come to and why, oldest first; whoever tells it takes it out.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        """Be closed."""
        self._policy = policy
        self.state = CLOSED
        self.watches = False
        self.changes: deque[tuple[str, str]] = deque()
        self._failures: deque[float] = deque(maxlen=policy.failures)  # when calls failed in a row
        self._until = 0.0  # when it is half open
        self._round = 0  # how often it has been half open
        self._probes = 0  # calls that are being tried
        self._succeeded = 0  # of those of this round

    def admit(self, now: float) -> Passed | Stopped:
        """Whether a call may go through."""
        if self.state == CLOSED:
            return Passed()
        if self.state == OPEN:
            if now < self._until:
                return Stopped(self._until - now, f"it is open for another {self._until - now:.3g} s")
            self.state = HALF_OPEN
            self._round += 1
            self._probes = self._succeeded = 0
            self._change(f"{self._policy.open:g} s have passed, {self._policy.probes} calls are let through")
        if self._probes + self._succeeded < self._policy.probes:
            self._probes += 1
            return Passed(self._round)
        return Stopped(min(1.0, self._policy.open), f"{self._probes} probes of {self._policy.probes} are on their way")

    def succeeded(self, probe: int) -> None:
        """A call that was let through has shown that the service works."""
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
        """A call that was let through has failed, and that is the service's fault."""
        policy = self._policy
        if self.state == CLOSED:
            self._failures.append(now)
            self.watches = True
            within = now - self._failures[0]
            if len(self._failures) == policy.failures and within <= policy.window:
                self._open(now, f"{policy.failures} calls in a row failed within {within:.3g} s of {policy.window:g} s")
        elif self._is_current(probe):
            self._open(now, "a probe failed")

    def said_nothing(self, probe: int) -> None:
        """A call that was let through has ended, and that says nothing of the service."""
        if self._is_current(probe):
            self._probes -= 1

    def _is_current(self, probe: int) -> bool:
        # Calls that were made before it opened come too late to change anything.
        return self.state == HALF_OPEN and probe == self._round

    def _open(self, now: float, why: str) -> None:
        self.state, self.watches = OPEN, True
        self._until = now + self._policy.open
        self._failures.clear()
        self._change(f"{why}; no call for {self._policy.open:g} s")

    def _change(self, why: str) -> None:
        self.changes.append((self.state, why))
