"""Has accidents happen to services, from a seed and within bounds."""

from __future__ import annotations

import threading
import time
from random import Random
from typing import TYPE_CHECKING, Final

from sage_deploy_testing.chaos.actions import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Collection

    from sage_deploy_testing.chaos.actions import Action, World
    from sage_deploy_testing.chaos.history import History

__all__ = ["Nemesis"]

#: Changes of the deployment are so much rarer than accidents: each starts replicas.
_CHANGES_ARE_RARER: Final = 5.0


class Nemesis:
    """
    Two threads, one for accidents and one for changes, so that replicas die while others are started.

    Each waits a random time between two actions. A replica is killed only while one of its service is ready, and so
    many seconds after the one before it: a service gets the time to come back.
    """

    def __init__(  # noqa: PLR0913 - what it consists of
        self,
        history: History,
        world: World,
        names: Collection[str],
        *,
        seed: int,
        every: float,
        kill_every: float,
    ) -> None:
        """
        Do nothing yet, but note which actions cannot be done to which service.

        Args:
            history: Where actions are noted.
            world: What they work on.
            names: Which to choose from.
            seed: What is drawn from.
            every: Mean time from one accident to the next, in seconds.
            kill_every: Shortest time from the end of one replica of a service to the end of the next, in seconds.
        """
        self._history = history
        self._world = world
        self._kill_every = kill_every
        self._killed: dict[str, float] = {}
        #: Whether the deployment may be another than the configured one.
        self.has_changed = False
        possible: list[tuple[str, str]] = []
        for name in names:
            for service in world.configs:
                why = ACTIONS[name].why_not(world, service)
                if why:
                    history.note("impossible", action=name, service=service, why=why)
                else:
                    possible.append((name, service))
        accidents = [each for each in possible if not ACTIONS[each[0]].takes_long]
        changes = [each for each in possible if ACTIONS[each[0]].takes_long]
        self._threads = [
            threading.Thread(target=self._run, args=(choice, Random(f"{seed} {name}"), pause), name=f"chaos-{name}")  # noqa: S311 - not for secrets
            for choice, name, pause in (
                (accidents, "accidents", every),
                (changes, "changes", every * _CHANGES_ARE_RARER),
            )
            if choice
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """End, with what is being done; `World.over` has to be set. Notes what has not ended after *timeout*."""
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                self._history.note("stuck", what=f"the nemesis' thread {thread.name}")

    def _run(self, choice: list[tuple[str, str]], random: Random, pause: float) -> None:
        names = sorted({name for name, _ in choice})
        while not self._world.over.wait(random.uniform(0.0, 2 * pause)):
            # An action that is possible for one service alone is as frequent as the others.
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

    def _do(self, name: str, action: Action, service: str, random: Random) -> None:
        if action.takes_long:
            self.has_changed = True
        try:
            what = action.do(self._world, service, random)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for the history
            self._history.done(name, service, "", error)
        else:
            if what is not None:
                self._history.done(name, service, what)
