"""A `FakeReplica` that behaves as in another process: it gets calls ahead (`docs/design/bundles.md`)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_testing.doubles.fake_replica import Act, Behaviour, FakeReplica
from sage_plugins.call.batch import Batch
from sage_plugins.values import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Timer
    from sage_plugins.interfaces import Work

__all__ = ["PATIENCE_S", "BundlingReplica"]

#: Seconds after which calls that have not started go back.
PATIENCE_S: Final = 3 / 16


class BundlingReplica(FakeReplica):
    """
    Asks for waiting calls when it starts a call, and runs them in turn in the same slot.

    It claims these calls at once, because the router cannot know whether they have started. Calls that have not started
    after `PATIENCE_S` go back.
    """

    def __init__(self, *arguments: Any, largest: int = 4, **settings: Any) -> None:
        """
        As `FakeReplica`. Its events also need `ahead` and `returned`.

        Args:
            arguments: As for `FakeReplica`.
            largest: The most calls in one slot.
            settings: As for `FakeReplica`.
        """
        super().__init__(*arguments, **settings)
        self._largest = largest
        self._waiting: dict[Work, deque[Call]] = {}  # by the work that holds the slot
        self._patience: dict[Work, Timer] = {}

    @property
    def runs(self) -> Sequence[Sequence[Call]]:
        """As `FakeReplica.runs`, with the calls that were sent ahead."""
        return [[*calls, *self._waiting.get(work, ())] for work, calls in self.started.items()]

    def _maybe(self) -> list[Work]:
        return [
            call
            for work in self.running
            for call in ([*self.started[work], *self._waiting[work]] if work in self._waiting else [work])
        ]

    def _start(self, work: Work, calls: Sequence[Call], act: Act) -> None:
        if not isinstance(work, Batch) and self.run_here is None and self._largest > 1:
            self.running[work], self.started[work] = None, calls  # `ahead` may expire calls, whose callers look at it
            self.starting = work
            ahead = self._events.ahead(work, self._largest - 1)
            waiting = deque(call for call in ahead if not self._is_late(call) and self.claim(call))
            self.starting = None
            if self._reported:  # it died meanwhile, with the work
                self._events.lost((), tuple(waiting), self._cause)
                return
            if waiting:
                self._waiting[work] = waiting
                until = self._clock.monotonic() + PATIENCE_S
                self._patience[work] = self._clock.call_at(until, lambda: self._give_back(work))
        super()._start(work, calls, act)

    def _is_late(self, call: Call) -> bool:
        return self.too_late(call) and call.expire()

    def _end(self, work: Work, behaviour: Behaviour) -> None:
        if work not in self._waiting:
            super()._end(work, behaviour)
            return
        (call,) = self.started[work]
        if behaviour is not Behaviour.DIE_DURING:
            self._tell_executed(call)
        if behaviour in (Behaviour.DIE_DURING, Behaviour.DIE_AFTER):
            self.die()
            return
        self.started[work] = ()
        self._answer(call, *self._outcome(call, raises=behaviour is Behaviour.RAISE))
        if work in self._waiting:  # otherwise it died meanwhile
            self._go_on(work)

    def _answer(self, call: Call, outcome: int, result: Any, error: BaseException | None) -> None:
        """End a call that does not free its slot."""
        if self.claim_outcome(call):
            self._record(call.method.index, outcome, self._clock.monotonic() - call.since, 0.0)
            call.publish(result, error)
        else:
            call.owner.abandoned_ended(call)

    def _go_on(self, work: Work) -> None:
        """Start the next call in the slot of *work*, or free the slot."""
        waiting = self._waiting[work]
        while waiting:
            act = self._script(waiting[0])
            if act.behaviour is Behaviour.DIE_BEFORE:
                self.die()
                return
            settled = waiting[0].settled()
            if work not in self._waiting:  # it died meanwhile
                return
            if not waiting:  # or it gave the calls back
                break
            call = waiting.popleft()
            if settled:
                call.owner.abandoned_ended(call)
            elif self.too_late(call):
                self._answer(call, Outcome.TIMEOUT, None, call.timeout_error())
            else:
                super()._start(work, [call], act)
                return
        if work not in self._waiting:
            return
        del self.running[work], self.started[work]
        self._forget(work)
        self.free(work)

    def _give_back(self, work: Work) -> None:
        waiting = self._waiting[work]
        if self.alive and waiting:
            calls = list(waiting)
            waiting.clear()
            self._events.returned(calls)

    def _forget(self, work: Work) -> None:
        self._waiting.pop(work, None)
        patience = self._patience.pop(work, None)
        if patience is not None:
            patience.cancel()

    def _report(self) -> None:
        super()._report()
        for work in tuple(self._waiting):
            self._forget(work)
