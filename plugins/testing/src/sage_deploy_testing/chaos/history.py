"""
What happened, as a list of events: calls and their outcomes, accidents, what the services told.

An event is a mapping that JSON has. Each has `t`, seconds since the run began, and `event`:

* `start`: `version`, `seed`, `seconds`, `slack`, `source`, `services` (see `Service`).
* `invoke`: a call was made: `call` (its number), `service`, `method`, `idempotent`, `within` (seconds in which it has
  to end; None for no limit).
* `cancel`: its caller cancelled `call`.
* `ok`: `call` was answered: `answer` (the number that came back), `seen` (whether its replica could note it).
* `fail`: `call` ended with an error after which it is known whether it ran: `error` (class), `text`, `typed` (whether
  the error is one of sage-deploy, or the probe's own), and `stage` if the error has one.
* `unknown`: as `fail`, of a call that may have run or not.
* `ran`: a replica ran `call`, in the process `pid`.
* `told`: the environment told of `kind`, with `service`, `replica` and `reason`.
* `nemesis`: an accident was made: `action`, `service`, `what`; if it did not succeed `error`, `text`, `typed`.
* `pair`: two `actions` were to happen to `service` at the same time; `missed` are those that did not.
* `impossible`: an `action` cannot be done to `service`, `why`.
* `skipped`: how many `calls` were not made, because so many were in flight.
* `stuck`: `what` has not ended.
* `whole`: `service` had all replicas back and answered, `after` so many seconds.
* `not_whole`: it had not, `text` says why.
* `leak`: `text` says what was left. `unchecked`: `text` says what was not looked at.
* `end`: the run was over, so nothing comes after it. `interrupted`: whether before its time.
"""

from __future__ import annotations

import json
import threading
import time
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sage_deploy_testing.chaos.probe import ProbeError
from sage_plugins.errors import (
    CallCancelledError,
    CallTimeoutError,
    ReplicaDiedError,
    ResultNotSerializableError,
    SageDeployError,
    ServiceStoppedError,
    line_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sage_deploy_testing.chaos.run_log import Ran

__all__ = ["VERSION", "Event", "History", "Service", "read", "write"]

#: Version of the format.
VERSION: Final = 1
#: Characters that are kept of an error.
_TEXT: Final = 600

Event: TypeAlias = dict[str, Any]


class Service(NamedTuple):
    """
    What is known of a service before it is called, and decides what may happen.

    Attributes:
        target: ID of its target.
        strategy: ID of its threading strategy.
        replicas: How many it has.
        slots: Of each replica; 0 if that changes.
        attempts: How often an idempotent call may run.
        batch: How many calls may share a slot.
    """

    target: str
    strategy: str
    replicas: int
    slots: int
    attempts: int
    batch: int


def _error(error: BaseException) -> Event:
    typed = isinstance(error, (SageDeployError, ProbeError))
    facts: Event = {"error": type(error).__name__, "text": line_of(error)[:_TEXT], "typed": typed}
    if isinstance(error, CallTimeoutError):
        facts["stage"] = error.stage
    if isinstance(error, ReplicaDiedError):
        facts["maybe"] = error.maybe_executed
    return facts


def _may_have_run(error: BaseException, *, coroutine: bool) -> bool:
    """Whether the error leaves open if the call ran."""
    if isinstance(error, CallTimeoutError):
        return error.stage == "run"
    if isinstance(error, ReplicaDiedError):
        return error.maybe_executed
    if isinstance(error, CallCancelledError):  # of what runs, only coroutines can be cancelled
        return coroutine
    return isinstance(error, (CancelledError, ServiceStoppedError, ResultNotSerializableError))


class History:
    """
    Collects events; from any thread.

    Attributes:
        events: All of them so far, in the order in which they were noted.
    """

    def __init__(self) -> None:
        """Begin now."""
        self.events: list[Event] = []
        self._began, self._wall = time.monotonic(), time.time()
        self._lock = threading.Lock()
        self._numbers = 0  # guarded by _lock, as the next
        self._open: dict[int, bool] = {}  # calls without an outcome: whether their method is a coroutine

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    @property
    def in_flight(self) -> int:
        """How many calls have no outcome."""
        return len(self._open)

    @property
    def calls(self) -> int:
        """How many were made."""
        return self._numbers

    def note(self, event: str, **facts: Any) -> None:
        """Add an event of now."""
        self.events.append({"t": round(self.now, 6), "event": event, **facts})

    def invoke(
        self, service: str, method: str, *, idempotent: bool, within: float | None, coroutine: bool = False
    ) -> int:
        """A call is about to be made; gives its number."""
        with self._lock:
            number, self._numbers = self._numbers, self._numbers + 1
            self._open[number] = coroutine
        self.note("invoke", call=number, service=service, method=method, idempotent=idempotent, within=within)
        return number

    def announce(self, service: str, method: str, count: int) -> list[int]:
        """A caller elsewhere is about to make calls, none of which may run twice; gives their numbers, in a row."""
        with self._lock:
            numbers = list(range(self._numbers, self._numbers + count))
            self._numbers += count
        for number in numbers:
            self.note("invoke", call=number, service=service, method=method, idempotent=False, within=None)
        return numbers

    def abandoned(self, call: int) -> None:
        """The caller was killed: if the call was made, its outcome reaches nobody."""
        self.note("unknown", call=call, error="caller killed", text="its caller was killed", typed=True)

    def answered(self, call: int, answer: Any) -> None:
        """A call ended with what the probe answers."""
        number, seen = answer if isinstance(answer, (tuple, list)) and len(answer) == 2 else (answer, True)  # noqa: PLR2004
        self.note("ok", call=call, answer=number, seen=seen)
        self._close(call)

    def failed(self, call: int, error: BaseException) -> None:
        """A call ended with an error."""
        coroutine = self._open.get(call, False)
        self.note("unknown" if _may_have_run(error, coroutine=coroutine) else "fail", call=call, **_error(error))
        self._close(call)

    def _close(self, call: int) -> None:
        with self._lock:
            self._open.pop(call, None)

    def done(self, action: str, service: str, what: str, error: BaseException | None = None) -> None:
        """The nemesis has done something."""
        self.note("nemesis", action=action, service=service, what=what, **({} if error is None else _error(error)))

    def add_run_log(self, ran: Iterable[Ran]) -> None:
        """Add what replicas have noted; their clock is taken for that of this machine."""
        self.events += [
            {"t": round(each.time_s - self._wall, 6), "event": "ran", "call": each.call, "pid": each.pid}
            for each in ran
        ]


def write(events: Iterable[Event], path: Path) -> None:
    """
    Write a history, an event a line.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        for event in events:
            file.write(f"{json.dumps(event)}\n")


def read(path: Path) -> list[Event]:
    """
    Read a history.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is none; the message says in which line.
    """
    events: list[Event] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            event = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: is no JSON: {error}") from None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str) or "t" not in event:
            raise ValueError(f"{path}:{number}: is no event: it needs `t` and `event`")
        events.append(event)
    if not events or events[0]["event"] != "start" or events[0].get("version") != VERSION:
        raise ValueError(f"{path}:1: is not the start of a history of version {VERSION}")
    return events
