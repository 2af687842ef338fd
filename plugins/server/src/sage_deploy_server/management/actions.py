"""What clients have asked an environment to do, and what has come of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_deploy_server.web.problems import problem_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Action", "Actions"]

#: Actions that are remembered.
_REMEMBERED: Final = 100

#: Where services log: an action on one stands among its own lines.
_SERVICES: Final = logging.getLogger("sage.service")
_SERVER: Final = logging.getLogger("sage.extension.server")


@attrs.define
class Action:
    """
    One change of an environment.

    Attributes:
        id: Counts up from 1.
        what: Such as `"scale"`.
        service: Name of the service; None if it is about all.
        by: Who asked: `"socket"`, `"token"` or `"login"`.
        details: What was asked for.
        state: `"running"`, `"done"` or `"failed"`.
        error: Of a failed one: `status`, `code` and `detail`.
        started: Seconds since the epoch.
        ended: The same; None while it runs.
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
    over: threading.Event = attrs.field(factory=threading.Event, repr=False)

    def shown(self) -> dict[str, Any]:
        """As a client sees it."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "over")


class Actions:
    """The latest ones. Each runs in a thread of its own, since it may wait for replicas. From any thread."""

    def __init__(self) -> None:
        """Remember none yet."""
        self._numbers = count(1)
        self._latest: OrderedDict[int, Action] = OrderedDict()  # guarded by _lock
        self._lock = threading.Lock()

    def start(self, what: str, service: str | None, by: str, details: dict[str, Any], do: Callable[[], None]) -> Action:
        """Begin *do*; what it raises becomes the action's error."""
        with self._lock:
            action = Action(next(self._numbers), what, service, by, details)
            self._latest[action.id] = action
            while len(self._latest) > _REMEMBERED:
                self._latest.popitem(last=False)
        log = _SERVER if service is None else _SERVICES.getChild(service)

        def run() -> None:
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - whatever it is, who asks for the action is told
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
            action.over.set()

        threading.Thread(target=run, name=f"sage-deploy-server-{what}", daemon=True).start()
        return action

    def find(self, id: int) -> Action | None:
        """The action of that number, unless it is forgotten or never was."""
        with self._lock:
            return self._latest.get(id)
