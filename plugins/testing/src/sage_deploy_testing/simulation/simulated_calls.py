"""The calls of a simulation, and the replicas where they may be, with what the rules need to know about both."""

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
    """A rule was broken. `Simulation.run` raises it as a `SimulationFailure` with the last steps."""


class SimulatedCall(Call):
    """A call as a handle makes it, with what the rules record about it."""

    number: int
    course: Course
    inside: Call | None  # the call whose method made this one
    order = -1  # its place in the order of acceptance
    ends = 0  # outcomes published
    starts = 0
    executions = 0
    registered = 0  # done-callbacks
    called_back = 0
    admitted = False  # accepted for good: sent, or given a place in the queue
    came_back = False  # returned by a replica that died or has not started it
    sent_ahead = False  # to a replica that runs others before it
    overtaken = False  # later calls may have started before it
    given_up = False  # by its caller
    may_wait_until = -inf  # for others to join its batch
    waking = False  # its caller's thread is about to notice that it has a slot
    poison = False  # its replica dies whenever it starts

    def publish(self, result: Any, error: BaseException | None = None) -> None:
        """As `Call.publish`, and check the rules."""
        self.course.ending(self, result, error)
        super().publish(result, error)
        self.course.ended(self)

    @property
    def granted(self) -> bool:
        """Whether it has a slot that its caller's thread has not noticed."""
        return "granted" in self.__dict__


class Place:
    """
    One replica in the simulation, and the router's lane to it.

    Attributes:
        lane: The router's side of the replica.
        replica: The fake replica.
        follow: Returns the next work for a slot. The replica calls it.
        closed: Whether the router was told to send nothing more there.
        lost_already: Whether the router knows that the replica is dead.
        seniority: Without a balancer, the replica with the lowest value serves. Among equals, the lowest index does.
    """

    def __init__(self, course: Course, lane: Lane, seniority: int = 0) -> None:
        self.lane = lane
        self.seniority = seniority
        self.follow = lane.follow
        self.replica: FakeReplica
        self.closed = False
        self.lost_already = False
        self._held: frozenset[Call] = frozenset()
        self._served = True
        self._opened: dict[OpenBatch, float] = {}  # when each open batch was first seen
        self._course = course

    @property
    def open(self) -> tuple[OpenBatch, ...]:
        """The batches on the router's side that wait for more calls."""
        methods = self.lane.methods
        return () if methods is None else tuple(methods.open.values())

    @property
    def taken(self) -> int:
        """Number of slots that are not free."""
        return self.replica.taken + len(self.open)

    def unstarted(self) -> list[Call]:
        """Return the calls that have a slot and have not started."""
        return [*(call for batch in self.open for call in batch.calls), *self.replica.unstarted()]

    def check_standby(self, granted: Sequence[Call], *, serves: bool) -> None:
        """Check that it gets no calls while it is a standby."""
        running = (call for work in self.replica.running for call in calls_of(work))
        held = frozenset((*granted, *self.unstarted(), *running))
        if not serves and not self._served and not held <= self._held:
            raise BrokenRuleError(f"{self.lane!r} stands by and was sent a call")
        self._held, self._served = held, serves

    def ahead(self, call: Call, most: int) -> Sequence[Call]:
        """Return more calls for the slot of *call*. The replica calls it."""
        return self._course.ahead(self, call, most)

    def returned(self, calls: Sequence[Call]) -> None:
        """Give back calls that have not started. The replica calls it."""
        self._course.returned(self, calls)

    def lost(self, not_started: Sequence[Any], maybe: Sequence[Any], cause: BaseException) -> None:
        """Report the death of the replica. The replica calls it."""
        self._course.lost(self, not_started, maybe, cause)

    # -- methods with limits of their own ----------------------------------------------------------------------------

    def turns(self, method: MethodPlan, granted: Sequence[Call]) -> int:
        """Return the number of calls and batches of *method* that hold a slot here."""
        return sum(work.method is method for work in (*granted, *self.open, *self.replica.inbox, *self.replica.running))

    def has_turn(self, method: MethodPlan, granted: Sequence[Call]) -> bool:
        """Return whether one more call of *method* may run here."""
        return method.max_concurrency is None or self.turns(method, granted) < method.max_concurrency

    def check_turns(self, granted: Sequence[Call]) -> None:
        """Check that no method runs more calls here than its limit."""
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
        """Check the members of each batch, and how long it waits. *all_done* says that no timer is due."""
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
