"""
A replica as the router sees it, its slots as tokens; what the replica reports of them; and the set of all replicas.

What is done with the tokens, and in which order, is said in `router`.
"""

from __future__ import annotations

import threading
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, cast

from sage_plugins.errors import InvalidKeyError
from sage_plugins.routing.picking import fenced_picker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sage_plugins.call.call import Call
    from sage_plugins.interfaces import Balancer, Candidate, ReachableReplica, Replica, ReplicaHolds, Work
    from sage_plugins.routing.draining import Closing
    from sage_plugins.routing.observing import Observe
    from sage_plugins.routing.queue import Queue
    from sage_plugins.service.call_key import KeyOf

__all__ = ["Lane", "LaneEvents", "Lanes", "compose_follow", "remove"]


class _Refused(Protocol):
    """As `interfaces.SlotEvents.refused`."""

    def __call__(self, work: Work, *, stuck: bool = False) -> None: ...


class Lane:
    """
    The router's side of one replica.

    To its target it is `interfaces.SlotEvents`, to a balancer a `Candidate`.
    """

    __slots__ = (
        "abandoned",
        "ahead",
        "backlog",
        "call_record",
        "dead",
        "follow",
        "free",
        "give_up",
        "granted",
        "holds",
        "id",
        "index",
        "lent",
        "methods",
        "node",
        "refused",
        "replica",
        "returned",
        "run_here",
        "send",
        "seniority",
        "slots",
        "told_waits",
        "withdrawn",
    )

    def __init__(self, id: str, index: int, seniority: int = 0) -> None:
        self.id = id
        self.index = index
        self.seniority = seniority  # where one serves and the others stand by, lower ones come first
        self.backlog: deque[Call] | tuple[()] = ()  # where its calls wait; () unless it is open
        self.node: str | None = None
        self.slots = 0
        self.lent = 0  # slots of which it has given out tokens when it is opened, see `lend`
        self.free: list[None] = []  # one token for each free slot
        # Tokens taken back for good, because the lane or the service closes; guarded by Lanes.lock, as the next two.
        self.withdrawn = 0
        self.abandoned = 0  # slots held by nothing but calls whose callers gave up
        self.dead = False  # whether the replica died with whatever it ran
        self.granted: set[Call] = set()  # calls that were given a slot to run in their callers' threads
        self.holds: ReplicaHolds | None = None  # what the replica holds, if it can say so at any instant
        self.told_waits: Callable[[Call], None] | None = None  # wants to know which calls a method waits for
        self.methods: Any = None  # a `method_limits.LaneMethods`, if the service has methods with limits
        self.call_record: Any = None  # an `outliers.CallRecord` once it is open, if failing replicas are ejected
        self.send: Callable[[Work], None]
        self.run_here: Callable[[Call], None] | None = None
        self.give_up: Callable[[Call, int, float], bool]
        self.replica: Replica
        # The router sets these four when it makes the lane.
        self.follow: Callable[[Call | None], Call | None]
        self.refused: _Refused
        self.ahead: Callable[..., Sequence[Call]]
        self.returned: Callable[[Sequence[Call]], None]

    def attach(self, replica: Replica) -> None:
        """Learn how to reach the replica; before the lane is opened."""
        self.node = replica.node
        self.lent, self.withdrawn = -self.withdrawn, 0
        self.slots = replica.slots
        self.send = replica.send
        self.run_here = replica.run_here
        self.give_up = replica.give_up
        self.holds = getattr(replica, "holds", None)
        self.told_waits = getattr(replica, "told_waits", None)
        self.replica = replica

    def lend(self) -> None:
        """Before it is opened: one of its slots is taken by what is about to be sent, and the end of that frees it."""
        self.withdrawn = -1

    def fill(self) -> None:
        """Give out the other slots, once it is open."""
        self.free.extend([None] * (self.slots - self.lent))

    def freed(self, ended: Call | None) -> None:
        """The slot of *ended* is free again, or with None its token was taken: the oldest waiting call gets it."""
        call = self.follow(ended)
        if call is not None:
            self.send(call)

    @property
    def address(self) -> Any:
        """By which other processes reach the replica, if its target is `reachable`."""
        return cast("ReachableReplica", self.replica).address

    @property
    def inflight(self) -> int:
        """Calls that hold a slot; may lag by a call."""
        return self.slots - len(self.free) - self.withdrawn

    @property
    def serves(self) -> bool:
        """Whether calls go to it now; an open one that does not stands by, or is avoided."""
        return isinstance(self.backlog, deque)

    @property
    def waiting(self) -> int:
        """Calls in the backlog from which this lane takes; may lag by a call."""
        return len(self.backlog)

    def take_free(self, but: int = 0) -> None:
        """Take the free slots back for good, *but* so many; under Lanes.lock."""
        while len(self.free) > but:
            try:
                self.free.pop()
            except IndexError:
                return
            self.withdrawn += 1

    def give_back(self) -> None:
        """Give out the slots again that were taken back; under Lanes.lock."""
        withdrawn, self.withdrawn = self.withdrawn, 0
        self.free.extend([None] * withdrawn)

    def count_abandoned(self, change: int) -> None:
        """So many slots more or less are held by nothing but abandoned calls; under Lanes.lock."""
        if not self.dead:
            self.abandoned += change

    def __repr__(self) -> str:
        """Id and slots taken."""
        return f"<Lane {self.id} {self.inflight}/{self.slots}>"


class LaneEvents:
    """
    The base of what a target is handed as `interfaces.ReplicaEvents`: reports of slots go straight to the router.

    Attributes:
        lane: The router's side of the replica.
    """

    def __init__(self, lane: Lane) -> None:
        """Report the slots of a replica to *lane*; the rest is the subclass's."""
        self.lane = lane
        self.freed: Callable[[Work], None] = lane.freed
        self.follow: Callable[[Work], Work | None] = lane.follow
        self.refused: _Refused = lane.refused
        self.ahead: Callable[..., Sequence[Call]] = lane.ahead
        self.returned: Callable[[Sequence[Call]], None] = lane.returned


class Lanes:
    """
    The replicas of one service, which of them serve, and who chooses among those.

    Attributes:
        lock: Guards every change of a router's parts; never taken by a call that finds its way. Re-entrant: a signal
            handler may stop the service in the middle of it.
        open: Those that take calls or stand by, in the order of their indices. All tuples here are replaced, never
            changed.
        serving: Those of them to which calls go now: all, or without a balancer the first.
        closed: Those that get no more calls and may still run some.
        avoided: Open ones that serve only while there is no other.
        ejected: Likewise, for a reason that comes second.
        binding: Whether a call with a key waits for the balancer's choice alone.
        pick: The balancer's choice for a call; None if there is nothing to choose.
        rebind: Has the router arrange them and compose its way anew; given before the first call.
    """

    rebind: Callable[[], None]

    def __init__(
        self,
        balancer: Balancer | None,
        key_of: KeyOf | None,
        on_balancer_error: Callable[[BaseException], None],
        observe: Observe | None = None,
    ) -> None:
        """
        Make an empty set.

        Args:
            balancer: Chooses; None has the first lane serve and the others stand by.
            key_of: The key of a call whose caller gave none; None if there is none then.
            on_balancer_error: Told when the balancer failed and turns take its place.
            observe: Told how calls ended for which the balancer chose; None if it does not want to know.
        """
        self.lock = threading.RLock()
        self.open: tuple[Lane, ...] = ()
        self.serving: tuple[Lane, ...] = ()
        self.closed: tuple[Lane, ...] = ()
        self.avoided: frozenset[Lane] = frozenset()
        self.ejected: frozenset[Lane] = frozenset()
        self.pick: Callable[[Call], Candidate] | None = None
        self.binding = False
        self._called = False  # whether a call has asked for a choice
        self._on_balancer_error = on_balancer_error
        self.choose_by(balancer, key_of, observe)

    def choose_by(self, balancer: Balancer | None, key_of: KeyOf | None, observe: Observe | None) -> None:
        """Have *balancer* choose from the next `arrange` on; under the lock once calls can come, as the next four."""
        self._balancer = balancer
        self._key_of = key_of
        self._observe = observe
        self.binding = balancer is not None and balancer.binding

    def arrange(self) -> None:
        """Decide which of the open lanes serve, and ask the balancer how it chooses among them."""
        able = self.open
        for left_out in (self.avoided, self.ejected):
            if left_out:  # it takes its time to look for those, with thousands of replicas
                able = tuple(lane for lane in able if lane not in left_out) or able
        # What took a dead one's place stands by at the end of the row: calls that have moved need not move back.
        first = min(able, key=attrgetter("seniority"), default=None)
        self.serving = able if self._balancer is not None or first is None else (first,)
        self.pick = None
        if self._balancer is not None and len(self.serving) > 1:
            if not self._called:
                self.pick = self._pick_first()
                return
            self.pick = fenced_picker(
                self._balancer, self.serving, self._key_of, self._on_balancer_error, self._observe
            )

    def _pick_first(self) -> Callable[[Call], Candidate]:
        """The choice for the first call, which composes it: else each replica that comes before would do so."""
        serving = self.serving

        def pick(call: Call) -> Candidate:
            with self.lock:
                if not self._called:
                    self._called = True
                    self.rebind()
                composed = self.pick
            return serving[0] if composed is None else composed(call)

        return pick

    def add(self, replicas: Mapping[Lane, Replica]) -> None:
        """Open the lanes of *replicas*."""
        for lane, replica in replicas.items():
            lane.attach(replica)
        self.open = tuple(sorted((*self.open, *replicas), key=attrgetter("index")))

    def close(self, lanes: Iterable[Lane]) -> frozenset[Lane]:
        """Have those of *lanes* that are open get no more calls; gives them."""
        gone = frozenset(self.open).intersection(lanes)
        self.open = tuple(each for each in self.open if each not in gone)
        self.avoided -= gone
        self.ejected -= gone
        self.closed = (*(each for each in self.closed if each.inflight), *gone)
        return gone

    def give_back(self) -> None:
        """Give out the slots again that were taken back from lanes that serve."""
        for lane in self.serving:
            lane.give_back()

    def take_slot(self, call: Call) -> Lane | None:
        """Take a free slot for *call* wherever there is one; None if there is none, or it waits for one replica."""
        if self.is_bound(call):
            return None
        for lane in self.serving:
            if lane.free and not lane.backlog and lane not in call.tried:
                try:
                    lane.free.pop()
                except IndexError:
                    continue
                return lane
        return None

    def fill_slots(self) -> None:
        """Give free slots to calls that wait for them."""
        for lane in self.serving:
            while lane.free and lane.backlog:
                try:
                    lane.free.pop()
                except IndexError:
                    break
                lane.freed(None)
            if lane.free and not (lane.backlog or self.binding):  # nothing waits: all have this backlog
                return

    def is_bound(self, call: Call) -> bool:
        """Whether the call must wait for the balancer's choice: a binding one binds calls that have a key."""
        if not self.binding or call.options.key is not None:
            return self.binding
        try:
            return self._key_of is not None and self._key_of(call) is not None
        except InvalidKeyError:  # accepted when there was nothing to choose, as in `choice`
            return True

    def can_start(
        self,
        call: Call,
        holders: Collection[Work],
        beside: Lane | None,
        coming: Collection[Lane],
        has_way: Callable[[Call, Lane, Collection[Work]], bool],
    ) -> bool:
        """
        Whether *call*, which waits, can get a slot of a lane other than *beside* while *holders* keep theirs.

        Args:
            call: What waits.
            holders: Work that keeps its slots. A replica's start hooks keep all that it is to have.
            beside: A lane whose slots do not count.
            coming: Lanes of replicas that are not open yet and may be soon.
            has_way: Whether a call can get a slot of one lane while its holders keep theirs.
        """
        if any(all(holder.lane is not lane for holder in holders) for lane in coming):
            return True
        with self.lock:
            lanes: Sequence[Lane] = self.serving
            if self.is_bound(call):
                lanes = [lane for lane in lanes if call in list(lane.backlog)] or lanes
            return not (lanes or coming) or any(
                has_way(call, lane, [holder for holder in holders if holder.lane is lane])
                for lane in lanes
                if lane is not beside
            )

    def choice(self, call: Call) -> Any:
        """The lane for whose slots *call* is to wait; None if none serves. Under the lock."""
        if not self.serving:
            return None
        try:
            return self.serving[0] if self.pick is None else self.pick(call)
        except InvalidKeyError:  # accepted when there was nothing to choose, so that nobody looked at its key
            return self.serving[0]


def compose_follow(  # noqa: C901 - on the path of every call
    queue: Queue, closing: Closing, slot_is_free: Callable[[], None]
) -> Callable[[Lane, Any], Call | None]:
    """
    What the replica of a lane asks when the work of one call has ended; see `interfaces.SlotEvents.follow`.

    Args:
        queue: Where calls wait for it.
        closing: Knows who waits for slots that get free for good.
        slot_is_free: Called when there is a free slot that somebody may be waiting for.
    """
    return_room, parked, unbound = queue.room.append, queue.parked, queue.unbound
    measures = queue.admission is not None

    def follow(lane: Lane, ended: Call | None) -> Call | None:
        backlog = lane.backlog
        if measures and backlog and ended is not None:
            queue.worked(ended)
        while backlog:
            try:
                call = backlog.popleft()
            except IndexError:
                break
            else:
                if measures and lane.run_here is None and queue.pass_over(call):
                    backlog = lane.backlog
                    continue
                # The slot goes straight on to the oldest waiting call.
                if lane.run_here is not None:
                    granted = call.grant(lane)
                    queue.leave(call)
                    return None if granted else follow(lane, call)
                call.lane = lane
                if parked or unbound:
                    queue.leave(call)
                else:  # `Queue.leave` written out for the case that nobody waits for room, and all are bound
                    return_room(None)
                    if parked:
                        queue.admit_parked()
                return call
        lane.free.append(None)
        # A call may have come to wait between the two looks, and not necessarily in the same place.
        if lane.backlog or unbound or closing.watch is not None:
            slot_is_free()
        return None

    return follow


def remove(calls: deque[Call] | tuple[()], call: Call) -> bool:
    """Take *call* out of *calls*; True for exactly one caller. One step of the interpreter, at some 20 ns an entry."""
    if not isinstance(calls, deque):
        return False
    try:
        calls.remove(call)
    except ValueError:
        return False
    return True
