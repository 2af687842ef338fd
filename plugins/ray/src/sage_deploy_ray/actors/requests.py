"""Calls methods of actors, and wraps their future results as `Answer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayError

from sage_deploy_ray.cluster.connection import check_not_shut_down
from sage_deploy_remote.link.rpc_transport import failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_remote.link.rpc_transport import Answer

__all__ = ["RayAnswer", "request"]

_NOT_FETCHED: Final = object()


class RayAnswer:
    """The result of an actor's task, as an `Answer`. Ray's GetTimeoutError is a TimeoutError."""

    def __init__(self, ref: Any) -> None:
        self._ref = ref
        self._value: Any = _NOT_FETCHED

    def result(self, timeout: float | None = None) -> Any:
        """As `Answer.result`. Fetches the result in the caller's thread."""
        if self._value is _NOT_FETCHED:
            self._value = ray.get(self._ref, timeout=timeout)
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Answer.exception`. Only Ray's own errors mean that no result will come."""
        try:
            self.result(timeout)
        except GetTimeoutError:
            raise
        except RayError as error:
            return error
        return None

    def add_done_callback(self, fn: Callable[[Any], Any], /) -> None:
        """As `Answer.add_done_callback`. Ray's thread calls *fn*, or the caller's thread if Ray was shut down."""
        try:
            done = self._ref.future()
        except Exception as error:  # noqa: BLE001 - any error of Ray means that no result will come
            done = failed(error)
        done.add_done_callback(fn)


def request(begin: Callable[[], Any]) -> Answer:
    """Start a task with *begin*, and return its answer. Never blocks or raises."""
    try:
        check_not_shut_down()
        return RayAnswer(begin())
    except Exception as error:  # noqa: BLE001 - any error of Ray means that nothing was sent
        return failed(error)
