"""
The router's side of one replica (a lane, with its slots as tokens) and the set of all lanes of a service.

`router` says in which order tokens are taken and returned.
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
    def __call__(self, work: Work, *, stuck: bool = False) -> None: ...


class Lane:
    """
    The router's side of one replica.

    The target uses it as `interfaces.SlotEvents`, a balancer as a `Candidate`.
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
        self.seniority = seniority  # without a balancer, the lowest serves
        self.backlog: deque[Call] | tuple[()] = ()  # where its calls wait; () unless it serves
        self.node: str | None = None
        self.slots = 0
        self.lent = 0  # tokens given out before the lane opens, see `lend`
        self.free: list[None] = []  # one token for each free slot
        # Tokens taken back for good, because the lane or the service closes; guarded by Lanes.lock, as the next two.
        self.withdrawn = 0
        self.abandoned = 0  # slots held only by calls whose callers gave up
        self.dead = False  # whether the replica died
        self.granted: set[Call] = set()  # calls that were given a slot to run in their callers' threads
        self.holds: ReplicaHolds | None = None  # the work that the replica holds, if it can say so at any moment
        self.told_waits: Callable[[Call], None] | None = None  # tells the replica that a method waits for this call
        self.methods: Any = None  # a `method_limits.LaneMethods`, if methods of the service have limits
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
        """Store how to reach the replica; before the lane opens."""
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
        """Take one slot before the lane opens, for work that is sent first; the end of that work frees the slot."""
        self.withdrawn = -1

    def fill(self) -> None:
        """Give out the other slots, once the lane is open."""
        self.free.extend([None] * (self.slots - self.lent))

    def freed(self, ended: Call | None) -> None:
        """Give the slot of *ended*, or with None a slot whose token the caller took, to the oldest waiting call."""
        call = self.follow(ended)
        if call is not None:
            self.send(call)

    @property
    def address(self) -> Any:
        """The address at which other processes reach the replica, if its target is `reachable`."""
        return cast("ReachableReplica", self.replica).address

    @property
    def inflight(self) -> int:
        """Calls that hold a slot; may lag by a call."""
        return self.slots - len(self.free) - self.withdrawn

    @property
    def serves(self) -> bool:
        """Whether calls go to it now. An open lane that does not serve stands by, or is avoided or ejected."""
        return isinstance(self.backlog, deque)

    @property
    def waiting(self) -> int:
        """Calls in the backlog from which this lane takes; may lag by a call."""
        return len(self.backlog)

    def take_free(self, but: int = 0) -> None:
        """Take back all free slots for good, except *but* of them; under Lanes.lock."""
        while len(self.free) > but:
            try:
                self.free.pop()
            except IndexError:
                return
            self.withdrawn += 1

    def give_back(self) -> None:
        """Give out again the slots that were taken back; under Lanes.lock."""
        withdrawn, self.withdrawn = self.withdrawn, 0
        self.free.extend([None] * withdrawn)

    def count_abandoned(self, change: int) -> None:
        """Add *change* to the number of slots held only by abandoned calls; under Lanes.lock."""
        if not self.dead:
            self.abandoned += change

    def __repr__(self) -> str:
        return f"<Lane {self.id} {self.inflight}/{self.slots}>"


class LaneEvents:
    """
    Base of the `interfaces.ReplicaEvents` that a target gets: passes reports of slots straight to the router.

    Attributes:
        lane: The router's side of the replica.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.freed: Callable[[Work], None] = lane.freed
        self.follow: Callable[[Work], Work | None] = lane.follow
        self.refused: _Refused = lane.refused
        self.ahead: Callable[..., Sequence[Call]] = lane.ahead
        self.returned: Callable[[Sequence[Call]], None] = lane.returned


class Lanes:
    """
    The lanes of one service: which are open, which serve, and how one is picked.

    Attributes:
        lock: Guards changes of a router's parts. A call that finds a slot or room does not take it. Re-entrant: a
            signal handler may stop the service while this thread holds it.
        open: Lanes that serve or stand by, in the order of their indices. All tuples here are replaced, never changed.
        serving: The open lanes that get calls now: all, or the first one if there is no balancer.
        closed: Lanes that get no more calls and may still run some.
        avoided: Open lanes that serve only if no other is open.
        ejected: As `avoided`, but left out second.
        binding: Whether a call with a key must wait for the lane that the balancer chose.
        pick: Returns the balancer's choice for a call; None if there is nothing to choose.
        rebind: Makes the router arrange the lanes and compose its route again; set before the first call.
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
            balancer: Chooses a lane; without one, the first lane serves and the others stand by.
            key_of: Returns the key of a call whose caller gave none.
            on_balancer_error: Called when the balancer failed; round robin then replaces it.
            observe: Called with the end of each call that the balancer placed.
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
        """Set the balancer for the next `arrange`. Once calls can come: under the lock, as all down to `give_back`."""
        self._balancer = balancer
        self._key_of = key_of
        self._observe = observe
        self.binding = balancer is not None and balancer.binding

    def arrange(self) -> None:
        """Decide which of the open lanes serve, and ask the balancer how it chooses among them."""
        able = self.open
        for left_out in (self.avoided, self.ejected):
            if left_out:  # with thousands of replicas the search takes time
                able = tuple(lane for lane in able if lane not in left_out) or able
        # A replacement has a later seniority and stands by, so calls that have moved need not move back.
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
        """Return a `pick` that asks the balancer at the first call, not at each replica that opens before it."""
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
        """Close those of *lanes* that are open, and return them."""
        gone = frozenset(self.open).intersection(lanes)
        self.open = tuple(each for each in self.open if each not in gone)
        self.avoided -= gone
        self.ejected -= gone
        self.closed = (*(each for each in self.closed if each.inflight), *gone)
        return gone

    def give_back(self) -> None:
        """Give out again the slots that were taken back from serving lanes."""
        for lane in self.serving:
            lane.give_back()

    def take_slot(self, call: Call) -> Lane | None:
        """Take a free slot of any lane for *call*; None if there is none, or if it must wait for one replica."""
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
            if lane.free and not (lane.backlog or self.binding):  # all lanes share this backlog, and it is empty
                return

    def is_bound(self, call: Call) -> bool:
        """Whether the call must wait for the lane that the balancer chose: it has a key, and the balancer binds."""
        if not self.binding or call.options.key is not None:
            return self.binding
        try:
            return self._key_of is not None and self._key_of(call) is not None
        except InvalidKeyError:  # no pick has checked the key yet, as in `choice`
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
        Return whether *call*, which waits, can get a slot of a lane other than *beside* while *holders* keep theirs.

        Args:
            call: The waiting call.
            holders: Work that keeps its slots. A replica's start hooks hold all slots of that replica.
            beside: A lane whose slots do not count.
            coming: Lanes of replicas that may open soon.
            has_way: Whether a call can get a slot of one lane while the given holders keep theirs.
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
        """Return the lane for whose slots *call* waits; None if none serves. Under the lock."""
        if not self.serving:
            return None
        try:
            return self.serving[0] if self.pick is None else self.pick(call)
        except InvalidKeyError:  # the call was accepted when there was nothing to choose, so its key was not checked
            return self.serving[0]


def compose_follow(  # noqa: C901 - on the path of every call
    queue: Queue, closing: Closing, slot_is_free: Callable[[], None]
) -> Callable[[Lane, Any], Call | None]:
    """
    Return `follow(lane, ended)`, which a replica calls when work has ended; see `interfaces.SlotEvents.follow`.

    Args:
        queue: Where calls wait.
        closing: Its `watch` is set while a drain or a retiring lane waits for free slots.
        slot_is_free: Called when a slot is free for which a call or a drain may wait.
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
                # Pass the slot to the oldest waiting call, without returning its token to `free`.
                if lane.run_here is not None:
                    granted = call.grant(lane)
                    queue.leave(call)
                    return None if granted else follow(lane, call)
                call.lane = lane
                if parked or unbound:
                    queue.leave(call)
                else:  # `Queue.leave` inlined for the case that no call is parked or unbound
                    return_room(None)
                    if parked:
                        queue.admit_parked()
                return call
        lane.free.append(None)
        # A call may have queued since the backlog was read, perhaps in another backlog.
        if lane.backlog or unbound or closing.watch is not None:
            slot_is_free()
        return None

    return follow


def remove(calls: deque[Call] | tuple[()], call: Call) -> bool:
    """Remove *call* from *calls*; True for exactly one thread. Atomic; takes about 20 ns per entry."""
    if not isinstance(calls, deque):
        return False
    try:
        calls.remove(call)
    except ValueError:
        return False
    return True
