"""
The history of a run, as a list of events: calls and their outcomes, accidents, and events of the services.

An event is a mapping of JSON values. Each has `t`, seconds since the run started, and `event`:

* `start`: `version`, `seed`, `seconds`, `slack`, `source`, `services` (see `Service`).
* `invoke`: a call was made: `call` (its number), `service`, `method`, `idempotent`, `within` (seconds until it must
  end; None for no limit).
* `cancel`: its caller cancelled `call`.
* `ok`: `call` was answered: `answer` (the number that came back), `seen` (whether its replica could note it).
* `fail`: `call` ended with an error that shows whether it ran: `error` (class), `text`, `typed` (whether sage-deploy or
  the probe defines the error), and `stage` if the error has one.
* `unknown`: as `fail`, for a call that may or may not have run.
* `ran`: a replica ran `call`, in the process `pid`.
* `told`: the environment reported `kind`, with `service`, `replica` and `reason`.
* `nemesis`: an accident was made: `action`, `service`, `what`; if it failed, also `error`, `text`, `typed`.
* `pair`: two `actions` were due on `service` at the same time; `missed` are those that did not happen.
* `impossible`: an `action` cannot be done to `service`; `why`.
* `skipped`: the number of `calls` that were not made because too many were in flight.
* `stuck`: `what` has not ended.
* `whole`: `service` had all replicas back and answered, `after` so many seconds.
* `not_whole`: it had not; `text` says why.
* `leak`: `text` says what was left. `unchecked`: `text` says what was not checked.
* `interrupted`: the accidents were ended early.
* `end`: the run is over, and nothing comes after it.
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
#: Characters of an error that are kept.
_TEXT: Final = 600

Event: TypeAlias = dict[str, Any]


class Service(NamedTuple):
    """
    The facts of a service that are known before the first call, and decide what may happen.

    Attributes:
        target: ID of its target.
        strategy: ID of its threading strategy.
        replicas: Number of replicas.
        slots: Number of slots of each replica; 0 if it changes.
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
    """Return whether the call may have run despite the error."""
    if isinstance(error, CallTimeoutError):
        return error.stage == "run"
    if isinstance(error, ReplicaDiedError):
        return error.maybe_executed
    if isinstance(error, CallCancelledError):  # of running calls, only coroutines can be cancelled
        return coroutine
    return isinstance(error, (CancelledError, ServiceStoppedError, ResultNotSerializableError))


class History:
    """
    Collects events. Thread-safe.

    Attributes:
        events: All events so far, in the order in which they were noted.
    """

    def __init__(self) -> None:
        """Start the clock of the history."""
        self.events: list[Event] = []
        self._began, self._wall = time.monotonic(), time.time()
        self._lock = threading.Lock()
        self._numbers = 0  # guarded by _lock, as the next
        self._open: dict[int, bool] = {}  # for each call without an outcome: whether its method is a coroutine

    @property
    def now(self) -> float:
        """Seconds since the history started."""
        return time.monotonic() - self._began

    @property
    def in_flight(self) -> int:
        """Number of calls without an outcome."""
        return len(self._open)

    @property
    def calls(self) -> int:
        """Number of calls made."""
        return self._numbers

    def note(self, event: str, **facts: Any) -> None:
        """Add an event with the current time."""
        self.events.append({"t": round(self.now, 6), "event": event, **facts})

    def invoke(
        self, service: str, method: str, *, idempotent: bool, within: float | None, coroutine: bool = False
    ) -> int:
        """Note that a call will be made, and return its number."""
        with self._lock:
            number, self._numbers = self._numbers, self._numbers + 1
            self._open[number] = coroutine
        self.note("invoke", call=number, service=service, method=method, idempotent=idempotent, within=within)
        return number

    def announce(self, service: str, method: str, count: int) -> list[int]:
        """Note calls of another process, none of which may run twice. Return their consecutive numbers."""
        with self._lock:
            numbers = list(range(self._numbers, self._numbers + count))
            self._numbers += count
        for number in numbers:
            self.note("invoke", call=number, service=service, method=method, idempotent=False, within=None)
        return numbers

    def abandoned(self, call: int) -> None:
        """Note that the caller of *call* was killed: if the call was made, nothing learns its outcome."""
        self.note("unknown", call=call, error="caller killed", text="its caller was killed", typed=True)

    def answered(self, call: int, answer: Any) -> None:
        """Note that a call ended with the probe's answer."""
        number, seen = answer if isinstance(answer, (tuple, list)) and len(answer) == 2 else (answer, True)  # noqa: PLR2004
        self.note("ok", call=call, answer=number, seen=seen)
        self._close(call)

    def failed(self, call: int, error: BaseException) -> None:
        """Note that a call ended with an error."""
        coroutine = self._open.get(call, False)
        self.note("unknown" if _may_have_run(error, coroutine=coroutine) else "fail", call=call, **_error(error))
        self._close(call)

    def _close(self, call: int) -> None:
        with self._lock:
            self._open.pop(call, None)

    def done(self, action: str, service: str, what: str, error: BaseException | None = None) -> None:
        """Note an action of the nemesis."""
        self.note("nemesis", action=action, service=service, what=what, **({} if error is None else _error(error)))

    def add_run_log(self, ran: Iterable[Ran]) -> None:
        """Add the calls in the run log. The replicas' clock is assumed to agree with this machine's."""
        self.events += [
            {"t": round(each.time_s - self._wall, 6), "event": "ran", "call": each.call, "pid": each.pid}
            for each in ran
        ]


def write(events: Iterable[Event], path: Path) -> None:
    """
    Write a history, one event a line.

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
        ValueError: It is not a history. The message has the line.
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
