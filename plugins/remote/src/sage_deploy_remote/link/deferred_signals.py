"""
Defers signal handlers during steps of the main thread that must not stop halfway: that would lose a slot or frame.
"""

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

#: Signals whose handlers raise in practice while the program continues: Ctrl-C, timeouts, user signals. Each one adds
#: cost to every call.
_DEFERRED: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGALRM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)

# Use the C module if there is one: `signal` converts numbers to enums, which takes ten times as long.
_QUICK: Final[Any] = sys.modules.get("_signal", signal)
_get_handler: Final = _QUICK.getsignal
_set_handler: Final = _QUICK.signal


# ID of the main thread; in a forked child, of the thread that forked.
_main: Final = [threading.main_thread().ident]


def _after_fork() -> None:
    _main[0] = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class DeferredSignals:
    """
    Defers Python's signal handlers in a `with` block. They run when the block ends, and may raise then.

    Python runs handlers in the main thread only, between any two bytecodes. In other threads, and inside another block,
    this does nothing.
    """

    _entered: ClassVar[bool] = False  # whether the main thread is inside a block

    __slots__ = ("_defers_here", "_handlers", "_pending", "_waits")

    def __init__(self, *, waits: bool = False) -> None:
        """
        Defer nothing yet.

        Args:
            waits: Whether the block begins with a wait. A signal ends that wait with KeyboardInterrupt until `waited`
                is called, because every substrate's wait ends for KeyboardInterrupt. If no handler raises another
                exception, the block swallows it.
        """
        self._waits = waits
        self._defers_here = False  # whether this block defers
        self._pending: list[int] = []
        self._handlers: list[tuple[int, Any]] = []

    def __enter__(self) -> Self:
        if not DeferredSignals._entered and get_ident() == _main[0]:
            try:
                DeferredSignals._entered = self._defers_here = True
                for number in _DEFERRED:
                    handler = _get_handler(number)
                    if callable(handler):
                        self._handlers.append((number, handler))  # first: then it is restored in any case
                        _set_handler(number, self._defer)
            except BaseException:
                self._waits = False
                self._restore()
                raise
        return self

    def waited(self) -> None:
        """End the interruptible part: the rest of the block is not interrupted."""
        self._waits = False

    def _defer(self, number: int, _: Any) -> None:
        self._pending.append(number)
        if self._waits:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Restore the handlers, and run those of the signals that came."""
        waits, self._waits = self._waits, False
        if not self._defers_here:
            return False
        came = self._restore()
        return waits and came and kind is not None and issubclass(kind, KeyboardInterrupt)

    def _restore(self) -> bool:
        """
        Restore all handlers, then run those of the signals that came, and raise what they raise.

        Return whether any came.
        """
        raised: BaseException | None = None
        while self._handlers:
            try:
                number, handler = self._handlers[-1]
                _set_handler(number, handler)
                self._handlers.pop()
            except BaseException as by_handler:  # noqa: BLE001 - raised by a handler that is already restored
                raised = by_handler
        DeferredSignals._entered = False
        came = bool(self._pending)
        while self._pending:
            try:
                signal.raise_signal(self._pending.pop(0))
            except BaseException as by_handler:  # noqa: BLE001 - the other handlers must run too
                raised = by_handler
        if raised is not None:
            raise raised
        return came
