"""The replicas of a simulated service: they start, fail, are replaced, and are added or removed."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from sage_deploy_testing.load_simulation.replica import ModelledReplica
from sage_deploy_testing.load_simulation.scenario.faults import Fault, FaultKind
from sage_plugins.errors import NoReplicaError
from sage_plugins.event_kinds import EventKind
from sage_plugins.resilience.restarts import CrashLoop, Restarts, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from sage_deploy_testing.load_simulation.results.tally import Tally
    from sage_deploy_testing.load_simulation.scenario.times import Draw
    from sage_deploy_testing.load_simulation.timeline import Timeline
    from sage_plugins.routing.lane import Lane
    from sage_plugins.routing.router import Router

__all__ = ["Fleet"]


class _Place:
    """A place of one replica, or of its replacement."""

    __slots__ = ("index", "lane", "life", "replica", "starting")

    def __init__(self, index: int) -> None:
        self.index = index
        self.life = 0  # the number of replicas so far; events of an earlier one are out of date
        self.starting: _Start | None = None
        self.replica: ModelledReplica | None = None
        self.lane: Lane | None = None


class _Start:
    """Replicas that start together, and get calls once all of them are ready."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.missing = 0
        self.ready: list[tuple[Lane, ModelledReplica]] = []
        self.then = then


class Fleet:
    """
    Manages replicas as `deployment` does, with the core's router and supervisor, for one thread.

    Attributes:
        places: The places of all wanted replicas, by index.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        timeline: Timeline,
        router: Router,
        tally: Tally,
        *,
        slots: int,
        nodes: int,
        startup: Draw,
        draws: Sequence[Draw],
        restarts: Restarts,
        random: Random,
        replaces_hung_after: float | None,
    ) -> None:
        """
        Start without replicas.

        Args:
            timeline: Its clock.
            router: Gets the replicas.
            tally: Gets all events.
            slots: The most calls at once in a replica.
            nodes: Number of nodes.
            startup: Draws the start time of a replica.
            draws: Draws the duration of each method, by index.
            restarts: Decides about restarts.
            random: Chooses the replica of a fault that names none.
            replaces_hung_after: Seconds of a hang after which health checks replace a replica. None if they do not.
        """
        self._timeline = timeline
        self._router = router
        self._tally = tally
        self._slots = slots
        self._startup = startup
        self._draws = draws
        self._restarts = restarts
        self._random = random
        self._replaces_hung_after = replaces_hung_after
        self._on_node = [0] * nodes  # replicas there
        self._down: set[int] = set()
        self._troubles: list[Fault] = []  # faults of nodes or of all that go on
        self._replaced = 0
        self.places: list[_Place] = []

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> list[Lane]:
        """The lanes of the replicas that take calls."""
        return [place.lane for place in self.places if place.lane is not None]

    # -- scaling -------------------------------------------------------------------------------------------------------

    def begin(self, replicas: int) -> None:
        """Add so many ready replicas."""
        for place in self._more(replicas):
            node = self._node()
            assert node is not None
            self._open(place, *self._made(place, node))

    def grow(self, replicas: int, then: Callable[[], None]) -> None:
        """Start so many more replicas, which get calls once all are ready. Then call *then*."""
        start = _Start(then)
        added = self._more(replicas)
        start.missing = len(added)
        for place in added:
            place.starting = start
            self._start(place)

    def shrink(self, replicas: int, reason: str) -> None:
        """Remove so many replicas: first those that are not ready, then the last ones."""
        for place in sorted(self.places, key=lambda each: (each.lane is None, each.index))[-replicas:]:
            self.places.remove(place)
            self._restarts.stopped(place.index)
            place.life += 1
            self._leave_start(place)
            lane, replica = place.lane, place.replica
            if lane is not None and replica is not None:
                self._tally.tell(EventKind.REPLICA_DRAINING, reason, lane.id)
                self._router.retire({lane: partial(self._left, lane.id, replica)})

    def _left(self, id: str, replica: ModelledReplica) -> None:
        self._leave_node(replica)
        self._tally.tell(EventKind.REPLICA_STOPPED, "", id)

    def _more(self, number: int) -> list[_Place]:
        added: list[_Place] = []
        taken = {place.index for place in self.places}
        index = 0
        while len(added) < number:
            if index not in taken:
                added.append(_Place(index))
            index += 1
        self.places = sorted([*self.places, *added], key=lambda place: place.index)
        return added

    # -- starting ----------------------------------------------------------------------------------------------------

    def _node(self) -> int | None:
        """Return the node with the fewest replicas that is not down, or None."""
        up = [node for node in range(len(self._on_node)) if node not in self._down]
        return min(up, key=self._on_node.__getitem__, default=None)

    def _start(self, place: _Place) -> None:
        now, node = self._timeline.now, self._node()
        place.life += 1
        if node is None:
            self._tally.tell(EventKind.REPLACEMENT_REFUSED, "no node is there", self._id(place))
            self._follow(place, self._restarts.unplaced(place.index, now))
            return
        self._restarts.started(place.index, now)
        self._tally.tell(EventKind.REPLICA_STARTING, "", self._id(place))
        lane, replica = self._made(place, node)
        place.replica = replica
        self._timeline.at(now + self._startup(), self._is_ready, (place, place.life, lane, replica))

    def _made(self, place: _Place, node: int) -> tuple[Lane, ModelledReplica]:
        lane = self._router.lane(self._id(place), place.index, self._replaced)
        name = f"node-{node}" if len(self._on_node) > 1 else None
        replica = ModelledReplica(lane, name, self._slots, self._timeline, self._tally, self._draws, self._random)
        self._on_node[node] += 1
        return lane, replica

    def _id(self, place: _Place) -> str:
        return f"{self._router.service}#{place.index}"

    def _is_ready(self, started: tuple[_Place, int, Lane, ModelledReplica]) -> None:
        place, life, lane, replica = started
        if place.life != life:
            self._leave_node(replica)
            return
        self._restarts.ready(place.index, self._timeline.now)
        self._tally.tell(EventKind.REPLICA_READY, "", lane.id)
        start = place.starting
        if start is None:
            self._open(place, lane, replica)
            return
        place.lane, place.replica = lane, replica
        start.ready.append((lane, replica))
        self._leave_start(place)

    def _leave_start(self, place: _Place) -> None:
        """Stop waiting for *place* among the replicas that start together."""
        start, place.starting = place.starting, None
        if start is None:
            return
        start.missing -= 1
        if not start.missing:
            for lane, replica in start.ready:
                if replica.alive:
                    self._router.open(lane, replica)
                    self._apply_troubles(replica)
            start.then()

    def _open(self, place: _Place, lane: Lane, replica: ModelledReplica) -> None:
        place.lane, place.replica = lane, replica
        self._router.open(lane, replica)
        self._apply_troubles(replica)

    def _leave_node(self, replica: ModelledReplica) -> None:
        self._on_node[0 if replica.node is None else int(replica.node.removeprefix("node-"))] -= 1

    # -- faults --------------------------------------------------------------------------------------------------------

    def suffer(self, fault: Fault) -> None:
        """Start *fault*."""
        places = self._places_of(fault)
        lasts = fault.replica is None and (fault.node is not None or fault.kind is FaultKind.DROP)
        missed = ""
        if not places and not lasts:  # a lasting fault also hits replicas that start later
            missed = ": no effect, " + (
                "no replica is ready" if fault.replica is None else f"there is no replica {fault.replica}"
            )
        self._tally.tell("fault", f"{fault}{missed}")
        if fault.kind is FaultKind.NODE and fault.node is not None:
            self._down.add(fault.node)
        if fault.kind in {FaultKind.CRASH, FaultKind.NODE}:
            cause = "the node was lost" if fault.kind is FaultKind.NODE else "the replica crashed"
            for place in places:
                self._crash(place, cause)
        else:
            had = [(place, place.replica) for place in places if place.replica is not None]
            if lasts:
                self._troubles.append(fault)
            for place, replica in had:
                self._trouble(replica, fault)
                if fault.kind is FaultKind.HANG and self._replaces_hung_after is not None:
                    self._timeline.at(
                        self._timeline.now + self._replaces_hung_after, self._is_unhealthy, (place, replica)
                    )
            if fault.seconds < inf:
                self._timeline.at(
                    self._timeline.now + fault.seconds, self._recover, (fault, [replica for _, replica in had], lasts)
                )
            return
        if fault.seconds < inf:
            self._timeline.at(self._timeline.now + fault.seconds, self._down.discard, fault.node)

    def _places_of(self, fault: Fault) -> list[_Place]:
        if fault.replica is not None:
            return [place for place in self.places if place.index == fault.replica]
        if fault.node is not None:
            name = f"node-{fault.node}" if len(self._on_node) > 1 else None
            return [place for place in self.places if place.replica is not None and place.replica.node == name]
        if fault.kind is FaultKind.DROP:
            return list(self.places)
        ready = [place for place in self.places if place.lane is not None]
        return [ready[int(self._random.random() * len(ready))]] if ready else []

    def _trouble(self, replica: ModelledReplica, fault: Fault) -> None:
        if fault.kind is FaultKind.SLOW:
            replica.trouble(factor=fault.factor)
        elif fault.kind is FaultKind.HANG:
            replica.trouble(hung=True)
        else:
            replica.trouble(lost_share=fault.share)

    def _apply_troubles(self, replica: ModelledReplica) -> None:
        for fault in self._troubles:
            if fault.node is None or replica.node in {None, f"node-{fault.node}"}:
                self._trouble(replica, fault)

    def _recover(self, over: tuple[Fault, list[ModelledReplica], bool]) -> None:
        fault, replicas, lasts = over
        if lasts:
            self._troubles.remove(fault)
            replicas = [place.replica for place in self.places if place.replica is not None]
        self._tally.tell("fault_over", str(fault))
        for replica in replicas:
            replica.trouble()
            if lasts:
                self._apply_troubles(replica)

    def _is_unhealthy(self, hung: tuple[_Place, ModelledReplica]) -> None:
        place, replica = hung
        if place.replica is replica and replica.hung:
            self._tally.tell(EventKind.REPLICA_UNHEALTHY, "it does not answer health checks", replica.id)
            self._crash(place, "it was unhealthy")

    def _crash(self, place: _Place, cause: str) -> None:
        """Kill the replica at *place*, whether it takes calls or still starts. Without a replica, do nothing."""
        replica, lane, now = place.replica, place.lane, self._timeline.now
        if replica is None:
            return
        been_ready = lane is not None
        place.life += 1
        place.replica = place.lane = None
        self._tally.tell(EventKind.REPLICA_FAILED, cause, replica.id)
        work = replica.die()
        if lane is not None:
            self._leave_node(replica)
            if lane in self._router.lanes:
                self._router.lost(lane, (), work, ConnectionError(cause))
        index = place.index
        self._follow(place, self._restarts.died(index, now) if been_ready else self._restarts.failed(index, now))

    def _follow(self, place: _Place, decision: Start | CrashLoop) -> None:
        """Follow the supervisor's decision."""
        if isinstance(decision, CrashLoop):
            self._tally.tell(EventKind.CRASH_LOOP, "it has failed too often", self._id(place))
            self._leave_start(place)
            if all(each.replica is None for each in self.places):
                service = self._router.service
                self._router.unavailable(lambda: NoReplicaError(f"service '{service}' has no replica", service=service))
            return
        if decision.at > self._timeline.now:
            wait = decision.at - self._timeline.now
            self._tally.tell(EventKind.REPLACEMENT_DELAYED, f"another one is started in {wait:.3g} s", self._id(place))
        self._timeline.at(decision.at, self._is_due, (place, place.life))

    def _is_due(self, due: tuple[_Place, int]) -> None:
        place, life = due
        if place.life == life:
            self._replaced += 1
            self._start(place)
