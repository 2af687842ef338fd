"""
Calls that have their slot in a replica, and whose arguments are not there yet.

Such a call takes no worker: others run while it waits. Each has a thread of its own to wait for its arguments, so there
are no more of them than slots.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock

__all__ = ["ArgumentSource", "Arguments", "LateCalls", "NoReferences"]

#: Positional and keyword arguments.
Arguments: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"


class ArgumentSource(Protocol):
    """Has the values of arguments that are references to objects in a substrate's store."""

    def fetch_present(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """The arguments with their values; None if `fetch` is needed. Never waits."""

    def fetch(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], remaining: Callable[[], float], method: str
    ) -> Arguments | None:
        """The arguments with their values, which it waits for; None if they are wanted no more."""


class NoReferences:
    """The `ArgumentSource` of a substrate without a store: no argument is a reference."""

    def fetch_present(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """The arguments as they are."""
        return args, kwargs

    def fetch(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        remaining: Callable[[], float],  # noqa: ARG002 - nothing is waited for
        method: str,  # noqa: ARG002 - as above
    ) -> Arguments | None:
        """The arguments as they are."""
        return args, kwargs


class LateCalls:
    """
    The calls of one replica that wait for their arguments. From any thread.

    Whoever takes a call out of those that wait says what becomes of it; so that is said once.
    """

    def __init__(
        self,
        service: str,
        clock: Clock,
        source: ArgumentSource,
        arrived: Callable[[Call], None],
        failed: Callable[[Call, BaseException], None],
    ) -> None:
        """
        Wait for nothing yet.

        Args:
            service: Whose calls they are, for errors.
            clock: For deadlines.
            source: Has the arguments.
            arrived: Told that a call waits no more: it has its arguments, or is over, or its deadline has passed.
            failed: Told instead that there are none, and why.
        """
        self._service = service
        self._clock = clock
        self._fetch = source.fetch
        self._arrived = arrived
        self._failed = failed
        self._waiting: dict[Call, None] = {}  # changed in single steps, which need no lock

    def add(self, call: Call) -> None:
        """Wait for the arguments of *call*; never blocks."""
        self._waiting[call] = None
        if call.over():  # given up before it could be found here
            self.let_go(call)
            return
        thread = threading.Thread(target=self._wait, args=(call,), name=f"{self._service}-arguments", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there can be no more threads
            self._end(call, partial(self._failed, call, error))

    def let_go(self, call: Call) -> None:
        """*call* is over, or nobody wants its answer; one that does not wait is left alone."""
        self._end(call, partial(self._arrived, call))

    @property
    def waiting(self) -> list[Call]:
        """Those that wait now."""
        return list(self._waiting)

    def _end(self, call: Call, say: Callable[[], None]) -> None:
        try:
            del self._waiting[call]
        except KeyError:
            return
        say()

    def _wait(self, call: Call) -> None:
        def remaining() -> float:
            return call.deadline - self._clock.monotonic() if call in self._waiting else 0.0

        while call in self._waiting and not call.expire():
            try:
                found = self._fetch(call.args, call.kwargs, remaining, f"{self._service}.{call.method.name}")
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the caller
                self._end(call, partial(self._failed, call, error))
                return
            if found is not None:
                self._end(call, partial(self._begin, call, found))
                return
        self.let_go(call)

    def _begin(self, call: Call, found: Arguments) -> None:
        call.args, call.kwargs = found
        self._arrived(call)
