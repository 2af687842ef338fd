"""The nemesis: makes accidents happen to services, from a seed and within bounds."""

from __future__ import annotations

import threading
import time
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING, Final

from sage_deploy_testing.chaos.actions import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Collection

    from sage_deploy_testing.chaos.actions import Action, World
    from sage_deploy_testing.chaos.history import History
    from sage_deploy_testing.chaos.run import Setting

__all__ = ["Nemesis", "Pairs"]

#: How many times as long the pauses between changes of the deployment are: each change starts replicas.
_CHANGES_ARE_RARER: Final = 5.0
#: Seconds until an accident that found no replica is tried again.
_AGAIN_S: Final = 0.1


class Nemesis:
    """
    Two threads, one for accidents and one for changes, so that replicas die while others start.

    Each waits a random time between two actions. It kills a replica only while the service has a ready replica, and at
    least `Setting.kill_every` seconds after the last kill. So a service gets time to recover.

    Attributes:
        seconds: How long accidents happen.
        has_changed: Whether the deployment may differ from the configuration.
    """

    def __init__(self, history: History, world: World, setting: Setting) -> None:
        self._history = history
        self._world = world
        self._killed: dict[str, float] = {}
        self._kill_every = setting.kill_every
        self._seed = setting.seed
        self._ends = float("inf")
        self.seconds = setting.seconds
        self.has_changed = False
        self._threads = self._make_threads(setting, list(_possible(history, world, setting.actions)))

    def start(self) -> None:
        """Start the threads."""
        self._ends = time.monotonic() + self.seconds
        for thread in self._threads:
            thread.start()

    @property
    def remaining(self) -> float:
        """Seconds until accidents should stop."""
        return self._ends - time.monotonic()

    def stop(self, timeout: float) -> None:
        """Stop after the current actions, and note what has not ended after *timeout* s. `World.over` must be set."""
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self._history.note("stuck", what=f"the nemesis' thread {thread.name}")

    def _make_threads(self, setting: Setting, possible: list[tuple[str, str]]) -> list[threading.Thread]:
        accidents = [each for each in possible if not ACTIONS[each[0]].takes_long]
        changes = [each for each in possible if ACTIONS[each[0]].takes_long]
        return [
            threading.Thread(target=self._run, args=(choice, self._random(name), pause), name=f"chaos-{name}")
            for choice, name, pause in (
                (accidents, "accidents", setting.every),
                (changes, "changes", setting.every * _CHANGES_ARE_RARER),
            )
            if choice
        ]

    def _random(self, what: str) -> Random:
        return Random(f"{self._seed} {what}")  # noqa: S311 - not for secrets

    def _run(self, choice: list[tuple[str, str]], random: Random, pause: float) -> None:
        names = sorted({name for name, _ in choice})
        while not self._world.over.wait(random.uniform(0.0, 2 * pause)):
            # An action that is possible for only one service is as frequent as the others.
            name = random.choice(names)
            service = random.choice([service for possible, service in choice if possible == name])
            action = ACTIONS[name]
            if not action.kills or self._may_kill(service):
                self._do(name, action, service, random)

    def _may_kill(self, service: str) -> bool:
        now = time.monotonic()
        if now - self._killed.get(service, float("-inf")) < self._kill_every or not self._world.ready(service):
            return False
        self._killed[service] = now
        return True

    def _do(self, name: str, action: Action, service: str, random: Random) -> bool | None:
        """Do the action, and return whether it succeeded, or None if nothing was there to do it to."""
        if action.takes_long:
            self.has_changed = True
        try:
            what = action.do(self._world, service, random)
        except Exception as error:  # noqa: BLE001 - the history gets any error
            self._history.done(name, service, "", error)
            return False
        if what is None:
            return None
        self._history.done(name, service, what)
        return True


class Pairs(Nemesis):
    """
    Does every pair of actions once to every service, both at the same time, in a random order.

    A pair takes `Setting.seconds`, or longer until both actions have ended. An action that finds no replica waits for
    one, at most `Setting.recovery` seconds.
    """

    def _make_threads(self, setting: Setting, possible: list[tuple[str, str]]) -> list[threading.Thread]:
        self._each, self._recovery = setting.seconds, setting.recovery
        self._left = [
            (service, pair)
            for service in setting.services
            for pair in combinations([name for name, of in possible if of == service], 2)
        ]
        self._random("pairs").shuffle(self._left)
        self.seconds = self._each * len(self._left)
        return [threading.Thread(target=self._run_all, name="chaos-pairs")]

    @property
    def remaining(self) -> float:
        """Seconds until accidents should stop. Above 0 until the last pair has ended."""
        return self._each * len(self._left)

    def _run_all(self) -> None:
        while self._left and not self._world.over.is_set():
            service, pair = self._left[-1]
            until = time.monotonic() + self._each
            done: list[str] = []
            threads = [
                threading.Thread(target=self._insist, args=(name, service, done), name=f"chaos-{name}") for name in pair
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._history.note("pair", actions=list(pair), service=service, missed=sorted({*pair} - {*done}))
            self._world.over.wait(max(0.0, until - time.monotonic()))
            self._left.pop()

    def _insist(self, name: str, service: str, done: list[str]) -> None:
        """Do the action as soon as it finds something to do it to, for example a ready replica."""
        random, until = self._random(f"{name} {len(self._left)}"), time.monotonic() + self._recovery
        while (succeeded := self._do(name, ACTIONS[name], service, random)) is None:
            if time.monotonic() >= until or self._world.over.wait(_AGAIN_S):
                return
        if succeeded:
            done.append(name)


def _possible(history: History, world: World, names: Collection[str]) -> list[tuple[str, str]]:
    """Return the possible pairs of action and service, and note why the others are impossible."""
    found = []
    for name in names:
        for service in world.configs:
            why = ACTIONS[name].why_not(world, service)
            if why:
                history.note("impossible", action=name, service=service, why=why)
            else:
                found.append((name, service))
    return found
