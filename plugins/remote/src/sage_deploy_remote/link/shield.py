"""Steps of the main thread that no signal handler may interrupt: half of one would lose a slot, or a frame."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Shield"]

#: Signals whose handlers raise in practice: Ctrl-C, timeouts, and requests to end or to do something.
_HELD_BACK: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGALRM", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)

# Without what makes enumerations of numbers, which takes ten times as long.
_get_handler: Final[Any] = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_set_handler: Final[Any] = getattr(signal.signal, "__wrapped__", signal.signal)


class Shield:
    """
    Holds back Python's handlers of signals in a `with` block; they run when it ends, and may raise then.

    Python runs handlers in the main thread only, between any two of its steps. In other threads this does nothing.
    """

    __slots__ = ("_came", "_handlers", "_waits")

    def __init__(self, *, waits: bool = False) -> None:
        """
        Hold back nothing yet.

        Args:
            waits: Whether the block does nothing but wait: then a signal ends it with KeyboardInterrupt. That is the
                one exception for which every wait ends; if no handler raises another one, it goes no further.
        """
        self._waits = waits
        self._came: list[int] = []
        self._handlers: list[tuple[int, Any]] = []

    def __enter__(self) -> Self:
        """Begin to hold back."""
        if threading.current_thread() is threading.main_thread():
            try:
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

    def _hold_back(self, number: int, _: Any) -> None:
        self._came.append(number)
        if self._waits:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Put the handlers back, and run those of what came."""
        waited, self._waits = self._waits, False
        if not self._handlers:
            return False
        came = self._restore()
        return waited and came and kind is not None and issubclass(kind, KeyboardInterrupt)

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
        came = bool(self._came)
        while self._came:
            try:
                signal.raise_signal(self._came.pop(0))
            except BaseException as by_handler:  # noqa: BLE001 - the others are to be told, too
                raised = by_handler
        if raised is not None:
            raise raised
        return came
