"""The calls of a simulation and the places where they may be, as the rules see them."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, cast

from sage_deploy_testing.doubles.fake_replica import calls_of
from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_testing.doubles.fake_replica import FakeReplica
    from sage_deploy_testing.simulation.simulation_rules import Course
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.open_batch import OpenBatch
    from sage_plugins.values import MethodPlan


__all__ = ["BrokenRuleError", "Place", "SimulatedCall"]


class BrokenRuleError(AssertionError):
    """A rule was broken; becomes a `SimulationFailure` with the course of events."""


class SimulatedCall(Call):
    """A call as a handle makes it, that the rules follow."""

    number: int
    course: Course
    inside: Call | None  # on behalf of which call it is made
    order = -1  # in which it was accepted
    ends = 0  # outcomes published
    starts = 0
    executions = 0
    registered = 0  # done-callbacks
    called_back = 0
    admitted = False  # accepted for good: sent, or given room in the queue
    came_back = False  # given back by a replica, which died or has not started it
    sent_ahead = False  # to a replica that runs others before it
    overtaken = False  # later calls may have started before it
    given_up = False  # by its caller
    may_wait_until = -inf  # for others to join the batch that it is in
    waking = False  # its caller's thread is about to notice that it has a slot
    poison = False  # whenever it starts its replica dies

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        """As `Call.publish`, under the rules' eyes."""
        self.course.ending(self, result, error)
        super().publish(result, error)
        self.course.ended(self)

    @property
    def granted(self) -> bool:
        """Whether it has a slot that its caller's thread has not noticed."""
        return "granted" in self.__dict__


class Place:
    """
    One replica's place in the simulation.

    Attributes:
        lane: The router's side of it.
        replica: What runs there.
        follow: For the replica.
        closed: Whether the router was told to send nothing more there.
        lost_already: Whether the router knows that the replica is dead.
        seniority: Without a balancer the one with the lowest serves, of several the one with the lowest index.
    """

    def __init__(self, course: Course, lane: Lane, seniority: int = 0) -> None:
        """Take *lane*."""
        self.lane = lane
        self.seniority = seniority
        self.follow = lane.follow
        self.replica: FakeReplica
        self.closed = False
        self.lost_already = False
        self._held: frozenset[Call] = frozenset()
        self._served = True
        self._opened: dict[OpenBatch, float] = {}  # when batches that wait for others were first seen
        self._course = course

    @property
    def open(self) -> tuple[OpenBatch, ...]:
        """The batches that wait for others on the router's side."""
        methods = self.lane.methods
        return () if methods is None else tuple(methods.open.values())

    @property
    def taken(self) -> int:
        """Slots that are not free."""
        return self.replica.taken + len(self.open)

    def unstarted(self) -> list[Call]:
        """The calls that have a slot and have not started."""
        return [*(call for batch in self.open for call in batch.calls), *self.replica.unstarted()]

    def check_standby(self, granted: Sequence[Call], *, serves: bool) -> None:
        """It gets no calls while it stands by."""
        running = (call for work in self.replica.running for call in calls_of(work))
        held = frozenset((*granted, *self.unstarted(), *running))
        if not serves and not self._served and not held <= self._held:
            raise BrokenRuleError(f"{self.lane!r} stands by and was sent a call")
        self._held, self._served = held, serves

    def ahead(self, call: Call, most: int) -> Sequence[Call]:
        """What a replica asks when it has room for more in one slot."""
        return self._course.ahead(self, call, most)

    def returned(self, calls: Sequence[Call]) -> None:
        """What a replica gives back that it has not started."""
        self._course.returned(self, calls)

    def lost(self, not_started: Sequence[Any], maybe: Sequence[Any], cause: BaseException) -> None:
        """What a replica reports of its death."""
        self._course.lost(self, not_started, maybe, cause)

    # -- methods with limits of their own ----------------------------------------------------------------------------

    def turns(self, method: MethodPlan, granted: Sequence[Call]) -> int:
        """Calls and batches of *method* that hold a slot here."""
        return sum(work.method is method for work in (*granted, *self.open, *self.replica.inbox, *self.replica.running))

    def has_turn(self, method: MethodPlan, granted: Sequence[Call]) -> bool:
        """Whether one more call of *method* may run here."""
        return method.max_concurrency is None or self.turns(method, granted) < method.max_concurrency

    def check_turns(self, granted: Sequence[Call]) -> None:
        """No method has more calls here at once than it may."""
        for method in self._course.setting.methods:
            most = method.max_concurrency
            if most is None:
                continue
            turns, counted = self.turns(method, granted), self.lane.methods.running.get(method.index, 0)
            if turns > most:
                raise BrokenRuleError(f"{self.lane!r} has {turns} of {method.name} at once, which may have {most}")
            if turns != counted:
                raise BrokenRuleError(f"{self.lane!r} has {turns} of {method.name}, and counts {counted}")

    def check_batches(self, now: float, *, all_done: bool) -> None:
        """Who is in a batch, and how long it waits for others; *all_done* if nothing is due any more."""
        for batch in (*self.replica.inbox, *self.replica.running):
            if isinstance(batch, Batch):
                self._check_members(batch)
                for call in batch.calls:
                    if call.batch is not batch or call.lane is not self.lane:
                        raise BrokenRuleError(f"{call!r} is in a batch of {self.lane!r} and does not know it")
        for batch in self.open:
            self._check_members(batch)
            opened = self._opened.setdefault(batch, now)
            wait = batch.plan.wait
            if all_done and now >= opened + wait:
                raise BrokenRuleError(f"a batch of {batch.method.name} waits longer than {wait} s for others")
            for call in batch.calls:
                cast("SimulatedCall", call).may_wait_until = batch.until
                if all_done and not call.settled() and call.since < call.expires <= now:
                    raise BrokenRuleError(f"{call!r} missed its time while its batch waited for others")

    @staticmethod
    def _check_members(batch: Batch | OpenBatch) -> None:
        size = batch.plan.size
        if len(batch.calls) > size:
            raise BrokenRuleError(f"{len(batch.calls)} calls are in a batch for {size}")
        for call in batch.calls:
            if call.method is not batch.method:
                raise BrokenRuleError(f"a call of {call.method.name} is in a batch of {batch.method.name}")
