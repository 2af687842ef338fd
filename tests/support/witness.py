"""
Makes single calls and checks them with the run log, the history and the checker of `sage_deploy_testing.chaos`.

`chaos` makes calls at random. Here a test decides where each call is when a replica dies.
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
    """Return the numbers of the calls that have run, from the service's file."""
    return [each.call for each in run_log.calls_in(path)]


class Witness:
    """A service that records each call before it does anything else."""

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
        """Wait until the test continues it."""
        self._note(call)
        checkpoint.reach(self.pid())
        return call

    def run_and_die(self, call: int, unless: str | None = None) -> int:
        """Complete the call, and die before the reply leaves. With the file *unless*, die only the first time."""
        self._note(call)
        if unless is None or not Path(unless).exists():
            if unless is not None:
                Path(unless).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return call

    def exit(self, call: int) -> int:
        """End the process as a crash in C code does."""
        self._note(call)
        os._exit(1)

    def pid(self) -> int:
        return os.getpid()


class Findings(NamedTuple):
    """
    The results of the calls.

    Attributes:
        ok: Numbers of calls that returned their result.
        died: Numbers of calls whose replica died. They may have had their effect.
        failed: The other calls, with their errors.
        twice: Numbers of calls that ran more than once.
    """

    ok: frozenset[int]
    died: frozenset[int]
    failed: dict[int, BaseException]
    twice: frozenset[int]


class History:
    """
    The calls of a test, from any thread.

    Attributes:
        file: The file to give to the service.
    """

    def __init__(self, path: Path) -> None:
        """*path* is the file that the service writes."""
        self._run_log = run_log.RunLog(path)
        self.file = self._run_log.path
        self._history = history.History()
        self._made: dict[int, Future[Any]] = {}

    @property
    def calls(self) -> int:
        """The number of calls made."""
        return self._history.calls

    def call(self, handle: ServiceHandle, method: str, /, *args: Any, idempotent: bool = False) -> Future[Any]:
        """Make a call whose first argument is its number."""
        number = self._history.invoke("svc", method, idempotent=idempotent, within=None)
        future = self._made[number] = handle.with_options(idempotent=idempotent).submit(method, number, *args)
        return future

    def check(self, *, slots: int, deaths: int, patience: float) -> Findings:
        """
        Return the results of all calls. Every call must have ended.

        Args:
            slots: Slots of one replica.
            deaths: Number of replicas that died.
            patience: Maximum wait for the last calls, in seconds.

        Raises:
            AssertionError: The checker found a violation, for instance more dead calls than *deaths* can explain.
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
