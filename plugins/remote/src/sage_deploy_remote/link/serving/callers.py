"""Who has calls in a replica, and which of them are gone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Protocol

from sage_deploy_remote.link.serving.outbox import FORGOTTEN_AFTER_S, Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_deploy_remote.link.protocol import Reply
    from sage_deploy_remote.link.serving.outbox import Bundle
    from sage_deploy_remote.link.serving.pushing import PushedReplies
    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock, Timer

__all__ = ["GONE_AFTER_S", "LOOK_AFTER_S", "Callers", "Mailbox"]

#: Seconds after which a replica looks whether its callers are there. An exchange that has been waiting since the last
#: time is answered with an empty response: a caller that lives comes back at once.
LOOK_AFTER_S: Final = 15.0

#: Seconds without an exchange after which a caller is gone for which something is done: one that lives keeps one here.
GONE_AFTER_S: Final = 60.0


class Mailbox(Protocol):
    """
    What one caller is to be told: an `outbox.Outbox` or a `pushing.PushedReplies`.

    Attributes:
        caller: Whose it is.
        calls: Those that have not been answered, by the caller's number.
        sends_at_once: Whether what is posted is sent at once, rather than with what else comes in a moment.
    """

    sends_at_once: bool
    caller: str
    calls: dict[int, Call]

    @property
    def has_replies(self) -> bool:
        """Whether there is something that nobody has taken away."""

    def begin(self) -> None:
        """A unit of this caller begins."""

    def post(self, reply: Reply, *, wakes: bool = True) -> None:
        """Say *reply*, unless not *wakes*: then it goes with another one that is about to come."""

    def tell_start(self, id: int) -> bool:
        """Say that a call starts; whether its caller learns of it even if this process ends now."""

    def keep(self, reply: Reply) -> object:
        """Say *reply* with what is said next; its caller learns of it even if this process ends before."""

    def end(self, reply: Reply | None = None) -> None:
        """A unit has ended; say *reply*."""

    def forget(self, id: int) -> None:
        """A call is over, and no notice about it is awaited."""

    def watch(self, bundle: Bundle) -> None:
        """Return what waits in *bundle* when it is due."""

    def close_if_silent(self, before: float) -> bool:
        """Forget the caller if it has said nothing since *before* and nothing runs for it; whether that is so."""

    def is_gone(self, before: float) -> bool:
        """Whether something is done for the caller, and it has not been heard of since *before*."""


class _Server(Protocol):
    @property
    def clock(self) -> Clock:
        """Its time."""

    def looked(self) -> None:
        """A response is taken away."""


class Callers:
    """
    The callers of one replica. From any thread.

    Those that ask for their answers are gone when they have not asked for long; those with a connection when it ends.
    """

    def __init__(self, server: _Server, works: Callable[[], bool], give_up: Callable[[Call, str], None]) -> None:
        """
        Nobody has called yet.

        Args:
            server: Whose callers they are.
            works: Whether anybody has a slot, or waits for one.
            give_up: Ends a call whose caller is gone; why that is so goes into its error.
        """
        self._server = server
        self._works = works
        self._give_up = give_up
        self._lock = threading.Lock()
        self._mailboxes: dict[str, Mailbox] = {}  # by caller; guarded by _lock, as the next two
        self._looking: Timer | None = None  # what looks after callers next
        self._ended = False

    @property
    def mailboxes(self) -> Collection[Mailbox]:
        """What all callers are to be told."""
        return tuple(self._mailboxes.values())

    def find(self, caller: str) -> Mailbox | None:
        """What *caller* is to be told; None if it has called nothing."""
        return self._mailboxes.get(caller)

    def mailbox(self, caller: str) -> Outbox:
        """The same for one that asks for its answers."""
        mailbox = self._mailboxes.get(caller)
        if mailbox is None:
            with self._lock:
                self._forget_silent()
                mailbox = self._mailboxes.setdefault(caller, Outbox(self._server, caller))
        assert isinstance(mailbox, Outbox)  # noqa: S101 - for the type checker: a caller has one kind of transport
        return mailbox

    def add(self, mailbox: PushedReplies) -> None:
        """A caller has connected."""
        with self._lock:
            self._mailboxes[mailbox.caller] = mailbox

    def leave(self, mailbox: PushedReplies) -> None:
        """Its connection has ended: give up what it has here."""
        with self._lock:
            self._mailboxes.pop(mailbox.caller, None)
        for call in list(mailbox.calls.values()):
            self._give_up(call, "whose connection with this process has ended")

    def _forget_silent(self) -> None:
        """Forget callers that are gone, or quiet; under `_lock`. Others come only then, so they are never many."""
        before = self._server.clock.monotonic() - FORGOTTEN_AFTER_S
        for caller, mailbox in tuple(self._mailboxes.items()):
            if mailbox.close_if_silent(before):
                del self._mailboxes[caller]

    def look_later(self) -> None:
        """See in a while whether those who have something here are still there."""
        if self._looking is None:
            with self._lock:
                self._look_later()

    def _look_later(self) -> None:
        if self._looking is None and not self._ended:
            clock = self._server.clock
            self._looking = clock.call_at(clock.monotonic() + LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        """
        Have callers show that they live, and give up what those have here that are gone.

        Else a stream whose consumer was killed would keep its slot for ever, and its exchange a thread.
        """
        before = self._server.clock.monotonic() - GONE_AFTER_S
        why = f"which has heard nothing of this process for {GONE_AFTER_S:g} s"
        try:
            for mailbox in self.mailboxes:
                if mailbox.is_gone(before):
                    for call in list(mailbox.calls.values()):
                        self._give_up(call, why)
        finally:
            with self._lock:
                self._looking = None
                self._forget_silent()
                if self._works() or any(mailbox.has_replies for mailbox in self._mailboxes.values()):
                    self._look_later()

    def close(self) -> None:
        """Look after nobody any more."""
        with self._lock:
            self._ended = True
            if self._looking is not None:
                self._looking.cancel()
