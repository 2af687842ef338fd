"""Remembers the changes that clients requested, and their results."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_server.web.problems import problem_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Action", "Actions"]

#: Number of actions to remember.
_REMEMBERED: Final = 100

#: Services log below this logger. An action on a service logs among that service's lines.
_SERVICES: Final = logging.getLogger("sage.service")
_SERVER: Final = logging.getLogger("sage.extension.server")


@attrs.define
class Action:
    """
    One requested change of an environment.

    Attributes:
        id: Number of the action, counting from 1.
        what: Kind of action, such as `"scale"`.
        service: The service's name; None if it concerns all.
        by: Who asked: `"socket"`, `"token"` or `"login"`.
        details: What was requested.
        state: `"running"`, `"done"` or `"failed"`.
        error: `status`, `code` and `detail` of the failure; None if it has not failed.
        started: Seconds since the epoch.
        ended: Seconds since the epoch; None while it runs.
        done: Has a result when the action has ended.
    """

    id: int
    what: str
    service: str | None
    by: str
    details: dict[str, Any]
    state: str = "running"
    error: dict[str, Any] | None = None
    started: float = attrs.field(factory=time.time)
    ended: float | None = None
    done: Future[None] = attrs.field(factory=Future, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that clients see."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "done")


class Actions:
    """The latest actions. Each runs in its own thread, because it may wait for replicas. Thread-safe."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._latest: OrderedDict[int, Action] = OrderedDict()  # guarded by _lock
        self._lock = threading.Lock()

    def start(self, what: str, service: str | None, by: str, details: dict[str, Any], do: Callable[[], None]) -> Action:
        """Run *do* in a new thread. Its exception becomes the action's error."""
        with self._lock:
            action = Action(next(self._numbers), what, service, by, details)
            self._latest[action.id] = action
            while len(self._latest) > _REMEMBERED:
                self._latest.popitem(last=False)
        log = _SERVER if service is None else _SERVICES.getChild(service)

        def run() -> None:
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - the client gets any error
                problem = problem_of(error)
                action.error = {
                    "status": problem.status,
                    "code": problem.code,
                    "detail": problem.detail,
                    **problem.more,
                }
                action.state = "failed"
                log.warning("%s failed: %s", what, problem.detail)
            else:
                action.state = "done"
            action.ended = time.time()
            action.done.set_result(None)

        threading.Thread(target=run, name=f"sage-deploy-server-{what}", daemon=True).start()
        return action

    def find(self, id: int) -> Action | None:
        """Return the action with that number, or None if it is unknown or forgotten."""
        with self._lock:
            return self._latest.get(id)
