"""
Calls that have their slot in a replica, but whose arguments have not arrived yet.

Such a call takes no worker, so other calls run while it waits. Each one has a separate thread that waits for its
arguments; so there are at most as many of these threads as slots.
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
    """Resolves arguments that are references to objects in a substrate's store."""

    def fetch_present(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Return the arguments with their values, or None if `fetch` is needed. Never waits."""

    def fetch(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], remaining: Callable[[], float], method: str
    ) -> Arguments | None:
        """Wait for the values, and return the arguments with them, or None if they are not needed any more."""


class NoReferences:
    """The `ArgumentSource` of a substrate without a store: no argument is a reference."""

    def fetch_present(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Return the arguments unchanged."""
        return args, kwargs

    def fetch(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        remaining: Callable[[], float],  # noqa: ARG002 - nothing to wait for
        method: str,  # noqa: ARG002 - as above
    ) -> Arguments | None:
        """Return the arguments unchanged."""
        return args, kwargs


class LateCalls:
    """
    The calls of one replica that wait for their arguments. Thread-safe.

    The thread that takes a call out of the waiting ones reports what happened to it; so this is reported once.
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
            service: The service's name, for errors.
            clock: For deadlines.
            source: Resolves the arguments.
            arrived: Called when a call stops waiting: its arguments are there, it is over, or its deadline has passed.
            failed: Called instead if the arguments cannot be had, with the error.
        """
        self._service = service
        self._clock = clock
        self._fetch = source.fetch
        self._arrived = arrived
        self._failed = failed
        self._waiting: dict[Call, None] = {}  # changed by single operations, which need no lock

    def add(self, call: Call) -> None:
        """Wait for the arguments of *call*; never blocks."""
        self._waiting[call] = None
        if call.over():  # given up before `stop_waiting` could find it here
            self.stop_waiting(call)
            return
        thread = threading.Thread(target=self._wait, args=(call,), name=f"{self._service}-arguments", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system allows no more threads
            self._end(call, partial(self._failed, call, error))

    def stop_waiting(self, call: Call) -> None:
        """Stop waiting for *call*, which is over or whose answer nobody wants; do nothing if it does not wait."""
        self._end(call, partial(self._arrived, call))

    @property
    def waiting(self) -> list[Call]:
        """The calls that wait now."""
        return list(self._waiting)

    def _end(self, call: Call, report: Callable[[], None]) -> None:
        try:
            del self._waiting[call]
        except KeyError:
            return
        report()

    def _wait(self, call: Call) -> None:
        def remaining() -> float:
            return call.deadline - self._clock.monotonic() if call in self._waiting else 0.0

        while call in self._waiting and not call.expire():
            try:
                found = self._fetch(call.args, call.kwargs, remaining, f"{self._service}.{call.method.name}")
            except BaseException as error:  # noqa: BLE001 - any error goes to the caller
                self._end(call, partial(self._failed, call, error))
                return
            if found is not None:
                self._end(call, partial(self._begin, call, found))
                return
        self.stop_waiting(call)

    def _begin(self, call: Call, found: Arguments) -> None:
        call.args, call.kwargs = found
        self._arrived(call)
