"""What a call needs of the router that accepted it, or of the server that runs it for another process."""

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
    Who accepted a call, and is told how it goes on.

    All but `gave_up` do nothing here, which is right for an owner whose calls have their slots before they are made.

    Attributes:
        service: Name of the service, for messages.
        clock: For deadlines and durations.
        suspect: Told that an exception, raised between two steps of a thread, may have lost something on its way.
        suspect_loss_of: Told of a call whose caller waits, and which nobody has started for some time.
        aside: Runs a function in a thread that nobody waits for: a user's callbacks may never return.
        on_result: Told of each call that ends with a result, before its waiters are, as `on_result(call, None)`; None
            while nobody wants to know.
        on_error: The same of calls that end with an error, as `on_error(call, error)`.
    """

    suspect: Callable[[], None] = staticmethod(lambda: None)
    suspect_loss_of: Callable[[Any], None] = staticmethod(lambda _: None)
    service: str
    clock: Clock
    aside: Callable[[Callable[[], None]], None] = staticmethod(CALLBACKS.run)
    on_result: Callable[[Any, Any], None] | None = None
    on_error: Callable[[Any, Any], None] | None = None

    def gave_up(self, call: Call, outcome: int, *, started: bool) -> None:
        """Count *call* as ended and free its place; runs before its waiters are released."""
        raise NotImplementedError

    def failed(self, call: Call, error: BaseException) -> Callable[[], None] | None:  # noqa: ARG002 - for routers
        """
        Take *call* back, whose method raised *error*, to try it again; it is not counted then.

        Returns:
            To be called once the call's slot is free; None if the call ends with *error*.
        """
        return None

    def count_failed(self, call: Call) -> None:
        """Count *call*, which ends with what its method raised, and which its replica has left to its owner."""

    def abandoned_ended(self, call: Call) -> None:
        """The work has ended of a call that was given up while it ran; its slot is freed next."""

    def batch_started(self, batch: Any, number: int) -> None:
        """*number* calls of a `batch.Batch` are about to run; the others had been given up."""

    def can_start(self, call: Call, holders: Collection[Any], *, beside: Any = None) -> bool:  # noqa: ARG002 - for routers
        """
        Whether *call*, which waits, can get a slot.

        Args:
            call: What waits.
            holders: Work that keeps its slots.
            beside: A lane whose slots do not count.
        """
        return True
