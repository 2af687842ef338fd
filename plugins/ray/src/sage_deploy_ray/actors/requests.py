"""Calls of actors' methods, with what they will answer."""

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
    """A task of an actor as an `Answer`; Ray's GetTimeoutError is a TimeoutError."""

    def __init__(self, ref: Any) -> None:
        self._ref = ref
        self._value: Any = _NOT_FETCHED

    def result(self, timeout: float | None = None) -> Any:
        """As `Answer.result`; fetched in this thread."""
        if self._value is _NOT_FETCHED:
            self._value = ray.get(self._ref, timeout=timeout)
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Answer.exception`: only what is Ray's own says that there will be no result."""
        try:
            self.result(timeout)
        except GetTimeoutError:
            raise
        except RayError as error:
            return error
        return None

    def add_done_callback(self, fn: Callable[[Any], Any], /) -> None:
        """As `Answer.add_done_callback`; *fn* is called in Ray's own thread, or here if Ray was shut down."""
        try:
            done = self._ref.future()
        except Exception as error:  # noqa: BLE001 - whatever Ray says, it will not tell
            done = failed(error)
        done.add_done_callback(fn)


def request(begin: Callable[[], Any]) -> Answer:
    """The answer of the task that *begin* starts; never blocks or raises."""
    try:
        check_not_shut_down()
        return RayAnswer(begin())
    except Exception as error:  # noqa: BLE001 - whatever Ray says, nothing was sent
        return failed(error)
