"""
Which replica of a service is started or stopped next while a new version takes the place of the old one.

A state machine without threads, timers or a clock of its own: it is shown the replicas and the time, and says what to
do next. `deployment.updating.rolling` does it.

A service has *places*, one for each wanted replica. At first each place has a replica of the old version, in the end
each has one of the new version. On the way

* there are never more than `max_surge` replicas more than places; those that drain do not count;
* no replica is stopped that would leave fewer than places minus `max_unavailable` available. A new replica is
  available once it has been ready for `min_ready_s` without a break, an old one while it is ready.

If a new replica does not become available in time, or cannot be placed, the roles change: now the old version is the
wanted one, under the same two rules. So a rollback never stops the last replicas that serve.

The settings mean what those of a Deployment of Kubernetes mean.
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
    "RollBack",
    "Rollout",
    "RolloutSettings",
    "Seen",
    "Start",
    "Step",
    "Stop",
    "Take",
    "Wait",
]

#: New replicas in a row that may die before they are available; the next one that does ends the rollout.
MOST_DEATHS: Final = 3


class RolloutSettings(NamedTuple):
    """
    The field `update`.

    Attributes:
        max_surge: Replicas beyond the wanted number, at most.
        max_unavailable: Replicas short of the wanted number, at most.
        min_ready_s: Seconds for which a new replica must be ready before it counts as available.
        progress_deadline: Seconds that a new replica gets to become ready.
        auto_rollback: Whether the old version comes back if one does not.
    """

    max_surge: int
    max_unavailable: int
    min_ready_s: float
    progress_deadline: float
    auto_rollback: bool

    @classmethod
    def of(cls, update: Mapping[str, Any] | None) -> RolloutSettings:
        """The settings that the field says, with the defaults of its other keys; None for all defaults."""
        given = update or {}
        return cls(**{name: given.get(name, UPDATE_FIELDS[name].default) for name in cls._fields})


class Seen(NamedTuple):
    """
    One replica that was not told to leave.

    Attributes:
        id: Its ID.
        index: Its place; a `NamedTuple` has a method of that name, which nobody needs of this one.
        new: Whether it is of the new version.
        alive: Whether it starts, runs, or ended and gets a successor of its version in a moment.
        ready: Whether it gets calls and says that it is ready.
        kept: Whether its place is its own: it is replaced by one of its version when it dies.
        ended: Whether it has ended: it holds no room that another one could have.
        hopeless: Why nothing of its version starts in its place any more; "" if something may.
    """

    id: str
    index: int  # type: ignore[assignment] # as said above
    new: bool
    alive: bool
    ready: bool
    kept: bool
    ended: bool = False
    hopeless: str = ""


class Start(NamedTuple):
    """Start a replica of the wanted version at a place."""

    index: int  # type: ignore[assignment] # as in Seen
    new: bool


class Take(NamedTuple):
    """The replica *id* is available: its place is its own now, and the replica *old* leaves it, if there is one."""

    id: str
    old: str | None


class Stop(NamedTuple):
    """Have the replica *id* leave, because of *why*."""

    id: str
    why: str


class Wait(NamedTuple):
    """Do nothing before something changes, or the clock shows *until*."""

    until: float


class RollBack(NamedTuple):
    """The old version is wanted from now on, because of *why*; *id* is the replica that failed, if it was one."""

    why: str
    id: str | None


class Halt(NamedTuple):
    """Do nothing any more, because of *why*; replicas of both versions may be left. *id* is as in `RollBack`."""

    why: str
    id: str | None


class Done(NamedTuple):
    """Every place has a replica of the wanted version, and no other is left."""


Step: TypeAlias = Start | Take | Stop | Wait | RollBack | Halt | Done


class Rollout:
    """
    Decides about one change from the old version to the new one.

    Not safe from several threads at once. All times are readings of one clock, in seconds, and never go back.

    Attributes:
        back: Whether the old version is the wanted one.
        places: The indexes of the replicas.
    """

    def __init__(self, places: Collection[int], settings: RolloutSettings) -> None:
        """
        Roll out at *places*, each of which has a replica of the old version, or none that lives.

        Args:
            places: The indexes of the replicas.
            settings: Within which limits.
        """
        self.back = False
        self.places = sorted(places)
        self._settings = settings
        self._ready_since: dict[str, float] = {}
        self._missing_since: dict[int, float] = {}  # since when a place waits for its replica of the wanted version
        self._failure: tuple[str, str | None] | None = None
        self._deaths = 0
        self._refusal = ""  # why there was no room for the last start; "" if there is no reason to think so
        self._seen_at_refusal: object = None

    # -- what has become of the last step ------------------------------------------------------------------------------

    def refused(self, why: str, seen: Sequence[Seen], leaving: int) -> None:
        """
        There was no room for the replica that was to be started.

        Args:
            why: What the target says.
            seen: As for `step`.
            leaving: As for `step`.
        """
        self._refusal = why
        self._seen_at_refusal = _outline(seen, leaving)

    def ended(self, id: str | None, why: str, *, died: bool) -> None:
        """
        A new replica ended before its place was its own.

        Args:
            id: Which; None if it was never started.
            why: How.
            died: Whether its process or node went away, which may have nothing to do with the version: another one is
                started then, `MOST_DEATHS` times in a row.
        """
        self._deaths += died
        if not died or self._deaths > MOST_DEATHS:
            self.fail(why, id)

    def fail(self, why: str, id: str | None = None) -> None:
        """The version that is wanted cannot be had; the next step says what follows."""
        self._failure = why, id

    # -- what is next --------------------------------------------------------------------------------------------------

    def step(self, seen: Sequence[Seen], leaving: int, now: float) -> Step:
        """
        What to do next.

        Args:
            seen: The replicas, without those that leave; at most one of each version at a place.
            leaving: How many leave because of this rollout and have not stopped.
            now: The time.
        """
        self._note(seen, now)
        if self._refusal and _outline(seen, leaving) != self._seen_at_refusal:
            self._refusal = ""
        if self._failure is None:
            self._look_for_failure(seen, now)
        if self._failure is not None:
            return self._failed()
        return (
            self._replace(seen, now)
            or self._make_room(seen, leaving, now)
            or self._start(seen)
            or self._end(seen, leaving, now)
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

    def _note(self, seen: Sequence[Seen], now: float) -> None:
        """Take the times of what has changed."""
        ready = {each.id for each in seen if each.ready}
        self._ready_since = {id: self._ready_since.get(id, now) for id in ready}
        wanted = {each.index: each for each in seen if self._is_wanted(each)}
        for index in self.places:
            each = wanted.get(index)
            if each is None or self._available(each, now):
                self._missing_since.pop(index, None)
            else:
                self._missing_since.setdefault(index, now)

    def _look_for_failure(self, seen: Sequence[Seen], now: float) -> None:
        others = {each.index for each in seen if not self._is_wanted(each)}
        for each in seen:
            if not self._is_wanted(each):
                continue
            if each.hopeless and not self.back:  # the old version may have been so before
                self.fail(each.hopeless, each.id)
            elif each.index in self._missing_since and now >= self._latest(each):
                if self.back and each.kept and each.index not in others:
                    continue  # it was there before, and somebody else sees to it
                self.fail(f"not ready after {self._settings.progress_deadline:g} s", each.id)

    def _latest(self, each: Seen) -> float:
        """When a replica must be available."""
        steady = self._settings.min_ready_s if each.ready and not self.back else 0.0
        return self._missing_since[each.index] + self._settings.progress_deadline + steady

    def _replace(self, seen: Sequence[Seen], now: float) -> Step | None:
        """Give a place to a replica that is available, or stop one that a rollback has no use for."""
        others = {each.index: each for each in seen if not self._is_wanted(each)}
        for each in seen:
            if not (self._is_wanted(each) and self._available(each, now)):
                continue
            other = others.get(each.index)
            if other is not None and not self._may_stop(other, seen, now):
                continue
            if not each.kept:
                self._deaths = 0
                return Take(each.id, None if other is None else other.id)
            if other is not None:
                return Stop(other.id, "the update is rolled back")
        if self.back:
            idle = [each for each in others.values() if not self._available(each, now)]
            if idle:
                return Stop(idle[0].id, "the update is rolled back")
        return None

    def _start(self, seen: Sequence[Seen]) -> Step | None:
        living = sum(each.alive for each in seen)
        if self._refusal or living >= len(self.places) + self._settings.max_surge:
            return None
        waiting = self._unserved(seen)
        return Start(waiting[0], new=not self.back) if waiting else None

    def _make_room(self, seen: Sequence[Seen], leaving: int, now: float) -> Step | None:
        """Stop a replica whose successor has no room otherwise."""
        full = sum(each.alive for each in seen) >= len(self.places) + self._settings.max_surge
        if not (full or self._refusal) or (self._refusal and leaving):  # one that leaves makes room
            return None
        waiting = self._unserved(seen)
        others = [each for each in seen if each.index in waiting and not self._is_wanted(each) and each.alive]
        others.sort(key=lambda each: (each.ready, waiting.index(each.index)))
        why = f"there is no room for its successor beside it: {self._refusal}" if self._refusal else "it is replaced"
        awaited = any(self._is_wanted(each) and not self._available(each, now) for each in seen)
        for each in others:
            if not each.ready and awaited:  # it may serve again before long, and stopping it can wait
                continue
            if self._refusal and each.ended:
                continue
            if self._may_stop(each, seen, now):
                return Stop(each.id, why)
        return None

    def _end(self, seen: Sequence[Seen], leaving: int, now: float) -> Step:
        waiting = self._unserved(seen)
        wanted = [each for each in seen if self._is_wanted(each)]
        if not waiting and len(wanted) == len(seen):
            # Those of the old version that had not ended well before are not this rollout's to wait for.
            settled = all(each.kept for each in wanted) if self.back else not self._missing_since
            if settled:
                return Done()
        elif waiting and self._refusal and not leaving and all(each.kept for each in wanted):
            self.fail(f"there is no room for another replica: {self._refusal}")
            return self._failed()
        return Wait(self._next_time(seen, now))

    def _next_time(self, seen: Sequence[Seen], now: float) -> float:
        """When a replica becomes available, or is late."""
        times = [self._latest(each) for each in seen if self._is_wanted(each) and each.index in self._missing_since]
        times += [self._ready_since[each.id] + self._settings.min_ready_s for each in seen if each.ready and each.new]
        return min((each for each in times if each > now), default=inf)

    # -- how it is -----------------------------------------------------------------------------------------------------

    def _is_wanted(self, each: Seen) -> bool:
        return each.new is not self.back

    def _available(self, each: Seen, now: float) -> bool:
        """Whether it counts as one that serves."""
        if not each.new or each.kept:
            return each.ready
        return each.ready and now >= self._ready_since[each.id] + self._settings.min_ready_s

    def _may_stop(self, other: Seen, seen: Sequence[Seen], now: float) -> bool:
        """Whether enough are available without *other*."""
        if not self._available(other, now):
            return True
        left = sum(self._available(each, now) for each in seen if each is not other)
        return left >= len(self.places) - self._settings.max_unavailable

    def _unserved(self, seen: Sequence[Seen]) -> list[int]:
        """The places without a replica of the wanted version, those first where no other lives."""
        wanted = {each.index for each in seen if self._is_wanted(each)}
        living = {each.index for each in seen if each.alive}
        unserved = [index for index in self.places if index not in wanted]
        return sorted(unserved, key=lambda index: (index in living, index))


def _outline(seen: Sequence[Seen], leaving: int) -> object:
    """What has to change before there can be room where there was none."""
    return frozenset(each.id for each in seen if each.alive), leaving
