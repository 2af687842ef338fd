"""Steps of the main thread that no signal handler may interrupt: half of one would lose a slot, or a frame."""

from __future__ import annotations

import os
import signal
import sys
import threading
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["DeferredSignals"]

#: Signals whose handlers raise in practice, and the program goes on: Ctrl-C, timeouts, and what users define. Each one
#: costs every call something.
_HELD_BACK: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGALRM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)

# The module in C, if there is one: `signal` makes enumerations of numbers, which takes ten times as long.
_QUICK: Final[Any] = sys.modules.get("_signal", signal)
_get_handler: Final = _QUICK.getsignal
_set_handler: Final = _QUICK.signal


# Identity of the main thread, which is the one that has forked in a forked child.
_main: Final = [threading.main_thread().ident]


def _after_fork() -> None:
    _main[0] = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class DeferredSignals:
    """
    Holds back Python's handlers of signals in a `with` block; they run when it ends, and may raise then.

    Python runs handlers in the main thread only, between any two of its steps. In other threads this does nothing, and
    inside another block neither.
    """

    _entered: ClassVar[bool] = False  # by the main thread

    __slots__ = ("_came", "_handlers", "_mine", "_waits")

    def __init__(self, *, waits: bool = False) -> None:
        """
        Hold back nothing yet.

        Args:
            waits: Whether the block begins with a wait: then a signal ends it with KeyboardInterrupt until `waited` is
                called. That is the one exception for which every wait ends; if no handler raises another one, it goes
                no further.
        """
        self._waits = waits
        self._mine = False  # whether it is this one that holds back
        self._came: list[int] = []
        self._handlers: list[tuple[int, Any]] = []

    def __enter__(self) -> Self:
        """Begin to hold back."""
        if not DeferredSignals._entered and get_ident() == _main[0]:
            try:
                DeferredSignals._entered = self._mine = True
                for number in _HELD_BACK:
                    handler = _get_handler(number)
                    if callable(handler):
                        self._handlers.append((number, handler))  # first: then it is put back in any case
                        _set_handler(number, self._hold_back)
            except BaseException:
                self._waits = False
                self._restore()
                raise
        return self

    def waited(self) -> None:
        """The wait is over: what follows is not to be interrupted."""
        self._waits = False

    def _hold_back(self, number: int, _: Any) -> None:
        self._came.append(number)
        if self._waits:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Put the handlers back, and run those of what came."""
        waits, self._waits = self._waits, False
        if not self._mine:
            return False
        came = self._restore()
        return waits and came and kind is not None and issubclass(kind, KeyboardInterrupt)

    def _restore(self) -> bool:
        """Whether anything came; raises what the handlers raise, but only once all is as it was."""
        raised: BaseException | None = None
        while self._handlers:
            try:
                number, handler = self._handlers[-1]
                _set_handler(number, handler)
                self._handlers.pop()
            except BaseException as by_handler:  # noqa: BLE001 - of one that is back already
                raised = by_handler
        DeferredSignals._entered = False
        came = bool(self._came)
        while self._came:
            try:
                signal.raise_signal(self._came.pop(0))
            except BaseException as by_handler:  # noqa: BLE001 - the others are to be told, too
                raised = by_handler
        if raised is not None:
            raise raised
        return came
