"""Makes, places and starts replicas of one service, and opens them for calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.deployment.replicas.canary import send_canary
from sage_plugins.deployment.replicas.member import Member
from sage_plugins.errors import DeployError, SageDeployError, text_of
from sage_plugins.host.lifecycle import Canary
from sage_plugins.process_end import close_first
from sage_plugins.texts import counted
from sage_plugins.values import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.stopper import ReplicaStopper
    from sage_plugins.deployment.replicas.waiting import Readiness
    from sage_plugins.interfaces import EarlierService, Replica, Target
    from sage_plugins.values import Choice, Placed, ReplicaSpec

__all__ = ["Launcher", "NoRoomError"]


class NoRoomError(DeployError):
    """The target has no room for a replica."""


class Launcher:
    """Starts replicas on the service's target. Thread-safe."""

    def __init__(
        self,
        replicas: ReplicaSet,
        stopper: ReplicaStopper,
        readiness: Readiness,
        find_service: Callable[[str], Any],
    ) -> None:
        self._replicas = replicas
        self._stopper = stopper
        self._readiness = readiness
        self._find_service = find_service
        self._targets: list[tuple[Choice, Target]] = []  # guarded by ReplicaSet.starting
        self._generations: dict[int, int] = {}  # of the next replica, by index; guarded by ReplicaSet.condition

    # -- several replicas --------------------------------------------------------------------------------------------

    def start(self, indices: Sequence[int], *, held: bool = False, newer: bool = False) -> tuple[Member, ...]:
        """
        Start a replica at each of *indices*, and return at once.

        After an error, all replicas started here are stopped.

        Args:
            indices: Positions.
            held: Whether they get no calls before `release`. If false, each gets calls as soon as it is ready.
            newer: Whether they have the version that is being rolled out.

        Raises:
            NoRoomError: The target has no room for a replica.
            DeployError: The target raised an error, or the service was stopped.
        """
        with self._replicas.starting:
            # Replicas in this process start very fast, so all of them can be opened together.
            together = "in_process" in self._replicas.version(newer=newer).target.registration.capabilities
            members = self._make(indices, held=held or together, newer=newer)
            try:
                self._launch(members)
            except BaseException as error:
                self._stopper.discard(members)
                if isinstance(error, NoRoomError):  # none was started, so their generations can be used again
                    with self._replicas.condition:
                        self._generations.update((each.spec.index, each.spec.generation) for each in members)
                if isinstance(error, SageDeployError) or not isinstance(error, Exception):
                    raise
                target = self._replicas.composition.target
                msg = (
                    f"service '{self._replicas.name}': target '{target.id}' from {target.source} failed to start it: "
                    f"{text_of(error)}"
                )
                raise DeployError(msg, service=self._replicas.name) from error
            if together and not held:
                self.release(members)
        close_first()
        return members

    def start_and_wait(self, indices: Sequence[int]) -> tuple[Member, ...]:
        """
        Start replicas and wait until all are ready. Starts all or none. They get no calls before `release`.

        Raises:
            DeployError: As `start`, or a replica did not become ready.
        """
        started = self.start(indices, held=True)
        try:
            self._readiness.wait(started, self._replicas.composition.config.startup_timeout)
        except BaseException:
            self._stopper.discard(started)
            raise
        return started

    def _make(self, indices: Sequence[int], *, held: bool, newer: bool) -> tuple[Member, ...]:
        made = []
        with self._replicas.condition:
            self._replicas.check_wanted()
            for index in indices:
                member = self.make(index, newer=newer)
                member.held = held
                made.append(member)
            self._replicas.add(made)
        return tuple(made)

    def _launch(self, members: Sequence[Member]) -> None:
        target = self.target(newer=any(member.newer for member in members))
        places: list[Placed] = []
        for member, place in zip(members, target.place([member.spec for member in members]), strict=True):
            if isinstance(place, Refused):
                msg = f"replica {member.id} cannot be placed: {place}"
                raise NoRoomError(msg, service=self._replicas.name, replica=member.id)
            places.append(place)
        self._replicas.reach.announce()
        for member, placed in zip(members, places, strict=True):
            self.launch(member, placed)

    def take_over(self, earlier: EarlierService) -> None:
        """
        Take over the replicas that an earlier process left, start missing ones, and return at once.

        Each gets calls as soon as it is ready.

        Raises:
            DeployError: The service was stopped, or a missing replica cannot be started.
            ClusterUnavailableError: The takeover cannot be published.
        """
        replicas = self._replicas
        with replicas.starting:
            self._replicas.reach.announce(earlier.version)
            with replicas.condition:
                replicas.check_wanted()
                members = []
                for each in earlier.replicas:
                    self._generations[each.index] = each.generation
                    members.append(self.make(each.index))
                    members[-1].may_open = True  # it has been serving, and all its slots may be taken
                replicas.add(members)
            for member, each in zip(members, earlier.replicas, strict=True):
                self._register_replica(member, self._replicas.reach.adopt(each, member.spec, member, replicas.clock))
        taken = {member.spec.index for member in members}
        free = [index for index in range(earlier.places) if index not in taken]
        missing = free[: earlier.places - len(taken)] if taken or earlier.places else [0]
        if missing:
            self.start(missing)
        reason = f"{counted(len(taken), 'replica')} of an earlier process taken over, {len(missing)} to start"
        replicas.monitors.tell("adopted", reason)

    # -- one replica -------------------------------------------------------------------------------------------------

    def next_spec(self, index: int, *, newer: bool = False) -> ReplicaSpec:
        """Return the spec of the next replica at *index*; under `ReplicaSet.condition`."""
        return self._replicas.version(newer=newer).spec(index, self._generations.get(index, 0))

    def make(self, index: int, seniority: int = 0, *, newer: bool = False) -> Member:
        """Make a replica at *index*. Does not start it or add it to the set. Under `ReplicaSet.condition`."""
        spec = self.next_spec(index, newer=newer)._replace(find_service=self._replicas.reach.find_service)
        self._generations[index] = spec.generation + 1
        lane = self._replicas.router.lane(spec.id, index, seniority)
        member = Member(self._replicas, spec, lane, self._find_service, newer=newer)
        target = self._replicas.version(newer=newer).target
        member.may_open = "in_process" in target.registration.capabilities
        return member

    def place(self, spec: ReplicaSpec, *, newer: bool = False) -> Placed | Refused:
        """Return a place for one more replica, or why there is none. Does not raise what the target raises."""
        (place,) = self.place_all([spec], newer=newer)
        return place

    def place_all(self, specs: Sequence[ReplicaSpec], *, newer: bool = False) -> Sequence[Placed | Refused]:
        """As `place`, for several replicas together."""
        try:
            places: Sequence[Placed | Refused] = self.target(newer=newer).place(specs)
        except Exception as error:  # noqa: BLE001 - a target that cannot answer now may do so later
            target = self._replicas.composition.target
            refused = Refused(f"target '{target.id}' from {target.source} failed to place it: {text_of(error)}")
            return [refused] * len(specs)
        return places

    def launch(self, member: Member, place: Placed) -> None:
        """Start *member* at its place. It gets calls as soon as it is ready, unless it is `held`."""
        with self._replicas.condition:
            member.not_on = place.refused
        target = self.target(newer=member.newer)
        self._register_replica(member, target.start(member.spec, place, member, self._replicas.clock))

    def _register_replica(self, member: Member, replica: Replica) -> None:
        with self._replicas.condition:
            member.replica = replica
            self._replicas.condition.notify_all()
        self.send_canary_if_started(member)
        self.open_if_ready(member)

    # -- calls -------------------------------------------------------------------------------------------------------

    def release(self, members: Sequence[Member]) -> None:
        """Send calls to *members*, which were `held` until now, as soon as they are ready."""
        with self._replicas.condition:
            for member in members:
                member.held = False
        self.open_if_ready(*members)

    def send_canary_if_started(self, member: Member) -> None:
        """
        Send a canary to *member*, if its target has reported it ready and has returned it from `start`.

        Called after each of the two, because either may come first.
        """
        with self._replicas.condition:
            replica = member.replica
            if replica is None or not member.has_started or member.may_open or member.canary is not None:
                return
            if not member.is_coming:  # it was told to leave before it was ready
                return
            member.canary = Canary(self._replicas.name, self._replicas.clock)
            if replica.run_here is None:
                member.lane.lend()
        send_canary(member, member.canary, replica)

    def open_if_ready(self, *members: Member) -> None:
        """Send calls to those of *members* that are ready and returned by the target; either may come first."""
        replicas = self._replicas
        with replicas.condition:
            ready = {
                member.lane: member.replica
                for member in members
                if member.replica is not None and member.up and not member.held and not member.lane.slots
            }
            if not ready or not replicas.wanted:
                return
            replicas.router.open_all(ready)
            reports = replicas.supervision.opened()
            replicas.condition.notify_all()
        replicas.tell(reports)

    # -- the target --------------------------------------------------------------------------------------------------

    def target(self, *, newer: bool = False) -> Target:
        """
        Return the service's target, made when first needed. With *newer*, that of the version being rolled out.

        A target with earlier options stays open until the service stops: replicas and other processes may need it.
        """
        with self._replicas.starting:
            choice = self._replicas.version(newer=newer).target
            found = next((target for made, target in self._targets if made == choice), None)
            if found is None:
                found = choice.create()
                self._targets.append((choice, found))
            return found

    def close(self) -> None:
        """Close the targets, after every replica has stopped or goes on without this process."""
        for _, target in self._targets:
            target.close()
