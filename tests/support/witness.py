"""
Calls that a test makes one by one, with the run log, the history and the checker of `sage_deploy_testing.chaos`.

`chaos` makes calls at random. Here a test decides which call is where when a replica dies.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_deploy_testing.chaos import history, run_log
from sage_deploy_testing.chaos.checker import check
from sage_plugins.errors import ReplicaDiedError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sage_deploy_testing.tools.checkpoints import Checkpoint
    from sage_plugins import ServiceHandle


def calls_in(path: Path) -> list[int]:
    """The numbers of the calls that have run, by the file of their service."""
    return [each.call for each in run_log.calls_in(path)]


class Witness:
    """A service that writes down each call before it does anything else with it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _note(self, call: int) -> None:
        run_log.note(self._path, run_log.ran_line(call))

    def run(self, call: int, seconds: float = 0.0) -> int:
        """Take *seconds*."""
        self._note(call)
        if seconds:
            threading.Event().wait(seconds)
        return call

    def hold(self, call: int, checkpoint: Checkpoint) -> int:
        """Stay until the test lets go."""
        self._note(call)
        checkpoint.reach(self.pid())
        return call

    def run_and_die(self, call: int, unless: str | None = None) -> int:
        """Do all there is to do, and die before the answer leaves; not if there is a file *unless*, else make it."""
        self._note(call)
        if unless is None or not Path(unless).exists():
            if unless is not None:
                Path(unless).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return call

    def exit(self, call: int) -> int:
        """Poison: end the process as a crash in C does."""
        self._note(call)
        os._exit(1)

    def pid(self) -> int:
        return os.getpid()


class Findings(NamedTuple):
    """
    What became of the calls.

    Attributes:
        ok: Numbers of those that ended with their result.
        died: Those that ended with their replica, and may have had their effect.
        failed: Those that ended otherwise, with the error.
        twice: Those that ran more than once.
    """

    ok: frozenset[int]
    died: frozenset[int]
    failed: dict[int, BaseException]
    twice: frozenset[int]


class History:
    """
    The calls of a test, from any thread.

    Attributes:
        file: What to hand to the service.
    """

    def __init__(self, path: Path) -> None:
        """*path* is where the service writes."""
        self._run_log = run_log.RunLog(path)
        self.file = self._run_log.path
        self._history = history.History()
        self._made: dict[int, Future[Any]] = {}

    @property
    def calls(self) -> int:
        """How many were made."""
        return self._history.calls

    def call(self, handle: ServiceHandle, method: str, /, *args: Any, idempotent: bool = False) -> Future[Any]:
        """Make a call whose first argument is its number."""
        number = self._history.invoke("svc", method, idempotent=idempotent, within=None)
        future = self._made[number] = handle.with_options(idempotent=idempotent).submit(method, number, *args)
        return future

    def check(self, *, slots: int, deaths: int, patience: float) -> Findings:
        """
        What became of all calls; every one must have ended.

        Args:
            slots: Of one replica.
            deaths: How many replicas died.
            patience: Longest wait for the last ones, in seconds.

        Raises:
            AssertionError: The checker found a violation; there are more calls that died than *deaths* can explain, for
                instance.
        """
        wait(list(self._made.values()), patience)
        errors = {number: future.exception() for number, future in self._made.items() if future.done()}
        for number, error in errors.items():
            if error is None:
                self._history.answered(number, self._made[number].result())
            else:
                self._history.failed(number, error)
        ran = self._run_log.ran()
        self._history.add_run_log(ran)
        for _ in range(deaths):
            self._history.note("told", kind="replica_failed", service="svc", replica=None, reason="")
        self._history.note("end")
        service = {"slots": slots, "attempts": 2, "batch": 1}
        found = check([{"t": 0.0, "event": "start", "slack": 0.0, "services": {"svc": service}}, *self._history.events])
        assert not found, "\n".join(f"{each.rule}: {each.text}" for each in found)
        died = {number for number, error in errors.items() if isinstance(error, ReplicaDiedError)}
        numbers = [each.call for each in ran]
        return Findings(
            frozenset(number for number, error in errors.items() if error is None),
            frozenset(died),
            {number: error for number, error in errors.items() if error is not None and number not in died},
            frozenset(number for number in numbers if numbers.count(number) > 1),
        )
