"""The interface from a call to its owner: the router that accepted it, or a server that runs it for another process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.threads import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock

__all__ = ["CallOwner"]


class CallOwner:
    """
    Accepts calls, and is told how they go on.

    All methods but `gave_up` do nothing here. That suits an owner whose calls have a slot before they are made.

    Attributes:
        service: Its name, for messages.
        clock: For deadlines and durations.
        suspect: Called when an exception has interrupted a thread, and a slot or a call may be lost.
        suspect_loss_of: Called for a call whose caller waits, if no thread has started it for some time.
        aside: Runs a function in a thread for which no other thread waits: a user's callbacks may never return.
        on_result: Called as `on_result(call, None)` when a call ends with a result, before its waiters wake; None for
            no listener.
        on_error: The same for a call that ends with an error, as `on_error(call, error)`.
        kills: Whether a replica is killed if a method runs in it after its call's deadline.
    """

    suspect: Callable[[], None] = staticmethod(lambda: None)
    suspect_loss_of: Callable[[Any], None] = staticmethod(lambda _: None)
    service: str
    clock: Clock
    aside: Callable[[Callable[[], None]], None] = staticmethod(CALLBACKS.run)
    on_result: Callable[[Any, Any], None] | None = None
    on_error: Callable[[Any, Any], None] | None = None
    kills: bool = False

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Count *call* as ended and free its place; runs before its waiters are released."""
        raise NotImplementedError

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:  # noqa: ARG002 - for routers
        """
        Take back *call*, whose method raised *error*, if it is retried; it is not counted then.

        Returns:
            A function to call once the call's slot is free; None if the call ends with *error*.
        """
        return None

    def takes_calls(self) -> bool:
        """Return whether a replica takes calls now."""
        return True

    def count_failed(self, call: Call) -> None:
        """Count *call*, which ends with its method's exception, because its replica has not counted it."""

    def abandoned_ended(self, call: Call) -> None:
        """Note that the method of an abandoned call has ended; its slot is freed next."""

    def batch_started(self, batch: Any, number: int) -> None:
        """Note that *number* calls of a `batch.Batch` are about to run; the others had been given up."""

    def can_start(self, call: Call, holders: Collection[Any], *, beside: Any = None) -> bool:  # noqa: ARG002 - for routers
        """
        Return whether *call*, which waits, can get a slot.

        Args:
            call: The waiting call.
            holders: Work that keeps its slots.
            beside: A lane whose slots do not count.
        """
        return True
