"""
Calls with a witness: what became of each, as its caller saw it and as the service wrote it down.

The service appends a line to a file when it runs a call, which no death of its process takes back. The history knows
what callers were told. Together they say which calls were lost, ran twice, or ended as they must not.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_plugins.errors import ReplicaDiedError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sage_deploy_testing.tools.checkpoints import Checkpoint
    from sage_plugins import ServiceHandle


class Witness:
    """A service that writes down each call before it does anything else with it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _note(self, call: int) -> None:
        # One write to a file opened for appending: those of several processes do not mix.
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, b"%d %d\n" % (call, os.getpid()))
        finally:
            os.close(file)

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


class _Made(NamedTuple):
    """A call that was accepted."""

    future: Future[Any]
    idempotent: bool


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
        self._path = path
        self.file = str(path)
        self._lock = threading.Lock()
        self._made: list[_Made] = []

    @property
    def calls(self) -> int:
        """How many were made."""
        return len(self._made)

    def call(self, handle: ServiceHandle, method: str, /, *args: Any, idempotent: bool = False) -> Future[Any]:
        """Make a call whose first argument is its number."""
        with self._lock:  # the number and the place in the list are one
            future = handle.with_options(idempotent=idempotent).submit(method, len(self._made), *args)
            self._made.append(_Made(future, idempotent))
        return future

    def check(self, *, slots: int, deaths: int, patience: float) -> Findings:
        """
        What became of all calls; every one must have ended.

        Args:
            slots: Of one replica.
            deaths: How many replicas died.
            patience: Longest wait for the last ones, in seconds.

        Raises:
            AssertionError: A call was lost, was answered with another's result, ran more often than it may, ran without
                having been made, or there are more calls that died than *deaths* can explain.
        """
        made = list(self._made)
        lost = wait([each.future for each in made], patience).not_done
        assert not lost, f"{len(lost)} calls have no outcome: {sorted(self._numbers(lost))}"
        lines = self._path.read_text(encoding="ascii").splitlines() if self._path.exists() else []
        ran = Counter(int(line.split()[0]) for line in lines)
        assert set(ran) <= set(range(len(made))), "somebody ran what nobody called"
        findings = Findings(
            frozenset(), frozenset(), {}, frozenset(number for number, times in ran.items() if times > 1)
        )
        ok, died = set(), set()
        for number, each in enumerate(made):
            error = each.future.exception()
            if error is None:
                assert each.future.result() == number, f"call {number} got the result of {each.future.result()}"
                assert ran[number] >= 1, f"call {number} has a result and did not run"
                ok.add(number)
            elif isinstance(error, ReplicaDiedError):
                assert error.maybe_executed, f"call {number} had not started and was not sent elsewhere: {error}"
                died.add(number)
            else:
                findings.failed[number] = error
            most = 2 if each.idempotent else 1
            assert ran[number] <= most, f"call {number} ran {ran[number]} times"
        assert len(died) <= slots * deaths, f"{len(died)} calls died with {deaths} replicas of {slots} slots"
        return findings._replace(ok=frozenset(ok), died=frozenset(died))

    def _numbers(self, futures: set[Future[Any]]) -> list[int]:
        return [number for number, each in enumerate(self._made) if each.future in futures]
