"""
Rolling updates: decides which replica starts or stops next while a new version replaces the old one.

A state machine without threads, timers or a clock. `deployment.updating.rolling` passes it the replicas and the time,
and carries out the returned step.

A service has *places*, one for each wanted replica, first of the old version, at the end of the new one. Two rules hold
in between:

* There are never more replicas than the places plus `max_surge`. Draining replicas do not count.
* The number of available replicas is never reduced below the places minus `max_unavailable`. A new replica is available
  once it has been ready for `min_ready_s` without a break; an old one while it is ready.

If a new replica does not become available in time, or cannot be placed, the old version becomes the wanted one. The
same rules hold, so a rollback never stops the last replicas that serve.

The settings mean the same as those of a Kubernetes Deployment.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sage_plugins.config.nested_keys import UPDATE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = [
    "MOST_DEATHS",
    "Done",
    "Halt",
    "Promote",
    "ReplicaView",
    "RollBack",
    "Rollout",
    "RolloutSettings",
    "Start",
    "Step",
    "Stop",
    "Wait",
]

#: How many new replicas in a row may die before they are available. One more ends the rollout.
MOST_DEATHS: Final = 3


class RolloutSettings(NamedTuple):
    """The field `update`; the attributes are its keys."""

    max_surge: int
    max_unavailable: int
    min_ready_s: float
    progress_deadline: float
    auto_rollback: bool

    @classmethod
    def of(cls, update: Mapping[str, Any] | None) -> RolloutSettings:
        """Return the settings in the field *update*, with defaults for missing keys; None for all defaults."""
        given = update or {}
        return cls(**{name: given.get(name, UPDATE_FIELDS[name].default) for name in cls._fields})


class ReplicaView(NamedTuple):
    """
    One replica that was not told to leave.

    Attributes:
        id: Its ID.
        index: Its place. Hides the method `index` of `NamedTuple`, which nothing uses here.
        new: Whether it has the new version.
        alive: Whether it starts or runs, or has ended and will be replaced by its version.
        ready: Whether it gets calls and is ready.
        has_place: Whether it has taken its place; then its version replaces it when it dies.
        ended: Whether it has ended, so holds no resources.
        why_hopeless: Why its version is no longer started in its place; "" if it may be.
    """

    id: str
    index: int  # type: ignore[assignment] # hides a method
    new: bool
    alive: bool
    ready: bool
    has_place: bool
    ended: bool = False
    why_hopeless: str = ""


class Start(NamedTuple):
    """Start a replica of the wanted version at a place."""

    index: int  # type: ignore[assignment] # as in ReplicaView
    new: bool


class Promote(NamedTuple):
    """The available replica *id* takes its place, and the replica *old*, if any, leaves it."""

    id: str
    old: str | None


class Stop(NamedTuple):
    """Tell the replica *id* to leave, because of *why*."""

    id: str
    why: str


class Wait(NamedTuple):
    """Do nothing until a replica changes, or the time *until* comes."""

    until: float


class RollBack(NamedTuple):
    """Roll back: the old version is wanted from now on, because of *why*. *id* is the failed replica, if any."""

    why: str
    id: str | None


class Halt(NamedTuple):
    """Stop the rollout, because of *why*; replicas of both versions may be left. *id*: as in `RollBack`."""

    why: str
    id: str | None


class Done(NamedTuple):
    """The rollout is complete: every place has the wanted version, and no other replica is left."""


Step: TypeAlias = Start | Promote | Stop | Wait | RollBack | Halt | Done


class Rollout:
    """
    Decides about one change from the old version to the new one.

    Not thread-safe. All times are readings of one clock, in seconds, and never go back.

    Attributes:
        back: Whether the old version is the wanted one.
        places: The indexes of the replicas.
    """

    def __init__(self, places: Collection[int], settings: RolloutSettings) -> None:
        """
        Begin a rollout at *places*. Each has a replica of the old version, or none that lives.

        Args:
            places: The indexes of the replicas.
            settings: The limits.
        """
        self.back = False
        self.places = sorted(places)
        self._settings = settings
        self._ready_since: dict[str, float] = {}
        self._missing_since: dict[int, float] = {}  # since when a place has no available replica of the wanted version
        self._failure: tuple[str, str | None] | None = None
        self._deaths = 0
        self._refusal = ""  # why there was no room for the last start; "" if there may be room
        self._outline_at_refusal: object = None

    # -- results of the last step --------------------------------------------------------------------------------------

    def refused(self, why: str, replicas: Sequence[ReplicaView], leaving: int) -> None:
        """
        Report that there was no room for a replica.

        Args:
            why: The target's reason.
            replicas: As for `step`.
            leaving: As for `step`.
        """
        self._refusal = why
        self._outline_at_refusal = _outline(replicas, leaving)

    def ended(self, id: str | None, why: str, *, died: bool) -> None:
        """
        Report that a new replica ended before it had taken its place.

        Args:
            id: The replica's ID; None if it was never started.
            why: How it ended.
            died: Whether its process or node died. The version may not be the cause, so another one is started, up to
                `MOST_DEATHS` times in a row.
        """
        self._deaths += died
        if not died or self._deaths > MOST_DEATHS:
            self.fail(why, id)

    def fail(self, why: str, id: str | None = None) -> None:
        """Report that the wanted version cannot be started. The next step rolls back or halts."""
        self._failure = why, id

    # -- the next step -------------------------------------------------------------------------------------------------

    def step(self, replicas: Sequence[ReplicaView], leaving: int, now: float) -> Step:
        """
        Return what to do next.

        Args:
            replicas: The replicas that are not leaving; at most one of each version at a place.
            leaving: Number of replicas that leave because of this rollout and have not stopped.
            now: The time on the clock, in seconds.
        """
        self._note(replicas, now)
        if self._refusal and _outline(replicas, leaving) != self._outline_at_refusal:
            self._refusal = ""
        if self._failure is None:
            self._look_for_failure(replicas, now)
        if self._failure is not None:
            return self._failed()
        return (
            self._replace(replicas, now)
            or self._make_room(replicas, leaving, now)
            or self._start(replicas)
            or self._end(replicas, leaving, now)
        )

    def _failed(self) -> Step:
        assert self._failure is not None  # noqa: S101 - for the type checker
        why, id = self._failure
        self._failure = None
        if self.back or not self._settings.auto_rollback:
            return Halt(why, id)
        self.back = True
        self._refusal, self._deaths = "", 0
        self._missing_since.clear()
        return RollBack(why, id)

    def _note(self, replicas: Sequence[ReplicaView], now: float) -> None:
        """Record when replicas became ready, and since when places miss one."""
        ready = {each.id for each in replicas if each.ready}
        self._ready_since = {id: self._ready_since.get(id, now) for id in ready}
        wanted = {each.index: each for each in replicas if self._is_wanted(each)}
        for index in self.places:
            each = wanted.get(index)
            if each is None or self._available(each, now):
                self._missing_since.pop(index, None)
            else:
                self._missing_since.setdefault(index, now)

    def _look_for_failure(self, replicas: Sequence[ReplicaView], now: float) -> None:
        others = [each for each in replicas if not self._is_wanted(each)]
        for each in replicas:
            if not self._is_wanted(each):
                continue
            if each.why_hopeless and not self.back:  # the old version may already have been in a crash loop
                self.fail(each.why_hopeless, each.id)
            elif each.index in self._missing_since and now >= self._latest(each):
                if self.back and each.has_place and not others:
                    continue  # it was there before the rollout, and the supervisor manages it
                self.fail(f"not ready after {self._settings.progress_deadline:g} s", each.id)

    def _latest(self, each: ReplicaView) -> float:
        """Return the time by which a replica must be available."""
        steady = self._settings.min_ready_s if each.ready and not self.back else 0.0
        return self._missing_since[each.index] + self._settings.progress_deadline + steady

    def _replace(self, replicas: Sequence[ReplicaView], now: float) -> Step | None:
        """Return a step that gives an available replica its place, or that stops one which a rollback does not need."""
        others = {each.index: each for each in replicas if not self._is_wanted(each)}
        for each in replicas:
            if not (self._is_wanted(each) and self._available(each, now)):
                continue
            other = others.get(each.index)
            if other is not None and not self._may_stop(other, replicas, now):
                continue
            if not each.has_place:
                self._deaths = 0
                return Promote(each.id, None if other is None else other.id)
            if other is not None:
                return Stop(other.id, "the update is rolled back")
        if self.back:
            idle = [each for each in others.values() if not self._available(each, now)]
            if idle:
                return Stop(idle[0].id, "the update is rolled back")
        return None

    def _start(self, replicas: Sequence[ReplicaView]) -> Step | None:
        living = sum(each.alive for each in replicas)
        if self._refusal or living >= len(self.places) + self._settings.max_surge:
            return None
        waiting = self._unserved(replicas)
        return Start(waiting[0], new=not self.back) if waiting else None

    def _make_room(self, replicas: Sequence[ReplicaView], leaving: int, now: float) -> Step | None:
        """Return a step that stops a replica to make room for its successor."""
        full = sum(each.alive for each in replicas) >= len(self.places) + self._settings.max_surge
        if not (full or self._refusal) or (self._refusal and leaving):  # a leaving replica will make room
            return None
        waiting = self._unserved(replicas)
        others = [each for each in replicas if each.index in waiting and not self._is_wanted(each) and each.alive]
        others.sort(key=lambda each: (each.ready, waiting.index(each.index)))
        why = f"there is no room to start its replacement first: {self._refusal}" if self._refusal else "it is replaced"
        awaited = any(self._is_wanted(each) and not self._available(each, now) for each in replicas)
        for each in others:
            if not each.ready and awaited:  # it may soon serve again, so wait
                continue
            if self._refusal and each.ended:
                continue
            if self._may_stop(each, replicas, now):
                return Stop(each.id, why)
        return None

    def _end(self, replicas: Sequence[ReplicaView], leaving: int, now: float) -> Step:
        waiting = self._unserved(replicas)
        wanted = [each for each in replicas if self._is_wanted(each)]
        if not waiting and len(wanted) == len(replicas):
            # A rollback does not wait for old replicas that were unavailable before.
            settled = all(each.has_place for each in wanted) if self.back else not self._missing_since
            if settled:
                return Done()
        elif waiting and self._refusal and not leaving and all(each.has_place for each in wanted):
            self.fail(f"there is no room for another replica: {self._refusal}")
            return self._failed()
        return Wait(self._next_time(replicas, now))

    def _next_time(self, replicas: Sequence[ReplicaView], now: float) -> float:
        times = [self._latest(each) for each in replicas if self._is_wanted(each) and each.index in self._missing_since]
        fresh = [each for each in replicas if each.ready and each.new]
        times += [self._ready_since[each.id] + self._settings.min_ready_s for each in fresh]
        return min((each for each in times if each > now), default=inf)

    # -- the replicas --------------------------------------------------------------------------------------------------

    def _is_wanted(self, each: ReplicaView) -> bool:
        return each.new is not self.back

    def _available(self, each: ReplicaView, now: float) -> bool:
        if not each.new or each.has_place:
            return each.ready
        return each.ready and now >= self._ready_since[each.id] + self._settings.min_ready_s

    def _may_stop(self, other: ReplicaView, replicas: Sequence[ReplicaView], now: float) -> bool:
        """Whether enough replicas are available without *other*."""
        if not self._available(other, now):
            return True
        left = sum(self._available(each, now) for each in replicas if each is not other)
        return left >= len(self.places) - self._settings.max_unavailable

    def _unserved(self, replicas: Sequence[ReplicaView]) -> list[int]:
        """Return the places without a replica of the wanted version. Places with no living replica come first."""
        wanted = {each.index for each in replicas if self._is_wanted(each)}
        living = {each.index for each in replicas if each.alive}
        unserved = [index for index in self.places if index not in wanted]
        return sorted(unserved, key=lambda index: (index in living, index))


def _outline(replicas: Sequence[ReplicaView], leaving: int) -> object:
    """Return a value that changes when there may be room again."""
    return frozenset(each.id for each in replicas if each.alive), leaving
