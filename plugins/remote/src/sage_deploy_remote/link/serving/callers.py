"""Tracks the callers of a replica, and detects which of them are gone."""

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

__all__ = ["CHECK_INTERVAL_S", "GONE_AFTER_S", "Callers", "Mailbox"]

#: Interval in seconds at which a replica checks its callers. An exchange that has waited since the last check is
#: answered with an empty response; a living caller then sends the next one at once.
CHECK_INTERVAL_S: Final = 15.0

#: Seconds without an exchange after which a caller counts as gone if something runs for it: a living one keeps one
#: open.
GONE_AFTER_S: Final = 60.0


class Mailbox(Protocol):
    """
    Holds the replies for one caller: an `outbox.Outbox` or a `pushing.PushedReplies`.

    Attributes:
        caller: The caller's name.
        calls: Its calls that are not answered yet, by the caller's number.
        sends_at_once: Whether a posted reply is sent at once, instead of with other replies a moment later.
    """

    sends_at_once: bool
    caller: str
    calls: dict[int, Call]

    @property
    def has_replies(self) -> bool:
        """Whether there are replies that were not sent yet."""

    def begin_unit(self) -> None:
        """Note that a unit of this caller begins."""

    def post(self, reply: Reply, *, wakes: bool = True) -> None:
        """Say *reply* now; if not *wakes*, say it together with another reply that is about to come."""

    def record_start(self, id: int) -> bool:
        """Say that a call starts; return whether its caller learns of it even if this process ends now."""

    def journal_or_send(self, reply: Reply) -> object:
        """Say *reply* together with the next one. Its caller must learn of it even if this process ends before."""

    def end_unit(self, reply: Reply | None = None) -> None:
        """Note that a unit has ended, and say *reply*."""

    def forget(self, id: int) -> None:
        """Forget a call that is over and about which no notice will come."""

    def watch(self, bundle: Bundle) -> None:
        """Return the waiting calls of *bundle* to the caller when they are due."""

    def close_if_silent(self, before: float) -> bool:
        """
        Forget the caller if it has been silent since *before* and nothing runs for it.

        Return whether it was forgotten.
        """

    def is_gone(self, before: float) -> bool:
        """Whether something runs for the caller although it has been silent since *before*."""


class _Server(Protocol):
    @property
    def clock(self) -> Clock:
        """The clock for its deadlines."""

    def wake_vacate(self) -> None:
        """Note that a response was sent."""


class Callers:
    """
    The callers of one replica. Thread-safe.

    A caller that sends exchanges counts as gone after a long silence, and a caller with a connection when that ends.
    """

    def __init__(self, server: _Server, has_work: Callable[[], bool], give_up: Callable[[Call, str], None]) -> None:
        """
        Start without callers.

        Args:
            server: The replica's server.
            has_work: Returns whether any caller has a slot or waits for one.
            give_up: Ends a call whose caller is gone; its second argument is the reason, for the error.
        """
        self._server = server
        self._has_work = has_work
        self._give_up = give_up
        self._lock = threading.Lock()
        self._mailboxes: dict[str, Mailbox] = {}  # by caller; guarded by _lock, as the next two
        self._check_timer: Timer | None = None  # timer of the next check
        self._ended = False

    @property
    def mailboxes(self) -> Collection[Mailbox]:
        """The mailboxes of all callers."""
        return tuple(self._mailboxes.values())

    def find(self, caller: str) -> Mailbox | None:
        """Return the mailbox of *caller*; None if it has sent nothing."""
        return self._mailboxes.get(caller)

    def mailbox(self, caller: str) -> Outbox:
        """Return the mailbox of a caller that sends exchanges; make it if there is none."""
        mailbox = self._mailboxes.get(caller)
        if mailbox is None:
            with self._lock:
                self._forget_silent()
                mailbox = self._mailboxes.setdefault(caller, Outbox(self._server, caller))
        assert isinstance(mailbox, Outbox)  # noqa: S101 - for the type checker: a caller has one kind of transport
        return mailbox

    def add(self, mailbox: PushedReplies) -> None:
        """Add a caller that has connected."""
        with self._lock:
            self._mailboxes[mailbox.caller] = mailbox

    def disconnected(self, mailbox: PushedReplies) -> None:
        """Give up the calls of a caller whose connection has ended."""
        with self._lock:
            self._mailboxes.pop(mailbox.caller, None)
        for call in list(mailbox.calls.values()):
            self._give_up(call, "whose connection with this process has ended")

    def _forget_silent(self) -> None:
        """
        Forget callers that are gone or silent; under `_lock`.

        New callers come only after this, so there are never many.
        """
        before = self._server.clock.monotonic() - FORGOTTEN_AFTER_S
        for caller, mailbox in tuple(self._mailboxes.items()):
            if mailbox.close_if_silent(before):
                del self._mailboxes[caller]

    def schedule_check(self) -> None:
        """Check after a while whether the callers with work here still live."""
        if self._check_timer is None:
            with self._lock:
                self._schedule_check()

    def _schedule_check(self) -> None:
        if self._check_timer is None and not self._ended:
            clock = self._server.clock
            self._check_timer = clock.call_at(clock.monotonic() + CHECK_INTERVAL_S, self._check)

    def _check(self) -> None:
        """
        Make callers show that they live, and give up the calls of those that are gone.

        Otherwise a stream whose consumer was killed would keep its slot and a thread forever.
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
                self._check_timer = None
                self._forget_silent()
                if self._has_work() or any(mailbox.has_replies for mailbox in self._mailboxes.values()):
                    self._schedule_check()

    def close(self) -> None:
        """Stop checking callers."""
        with self._lock:
            self._ended = True
            if self._check_timer is not None:
                self._check_timer.cancel()
