"""
What a message over a socket is pickled from, and what is made of it there.

References to a substrate's objects do not go over a socket: its *ferry* carries them, and a mark stands for them in the
message. Whoever reads a payload with a mark waits for them then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import Frame, Response
from sage_deploy_remote.link.sockets.messages import apart
from sage_deploy_remote.payloads.errors import with_payloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sage_deploy_remote.link.protocol import CallItem, Reply

__all__ = ["Ferry", "Luggage"]

_PAYLOADS: Final = frozenset({protocol.DONE, protocol.ITEM})
_ERRORS: Final = frozenset({protocol.FAILED, protocol.GAVE_UP})


class Ferry(Protocol):
    """Carries references to a substrate's objects from one end of a connection to the other. From any thread."""

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """
        Send them on their way; never blocks.

        Args:
            caller: Whose connection it is, in either direction.
            references: What to carry.

        Returns:
            What stands for them in the message.
        """

    def receive(self, mark: str) -> Sequence[Any]:
        """Wait for what *mark* stands for; raises if it will not come."""

    def drop(self, mark: str) -> None:
        """Nobody wants what *mark* stands for; never blocks or raises."""


class Luggage:
    """Makes plain data of what goes over one connection, and the other way round."""

    def __init__(self, ferry: Ferry | None = None) -> None:
        """Without a *ferry* nothing that is sent has references."""
        self._ferry: Any = ferry
        self._marks: dict[int, str] = {}  # in the arguments of calls that are not over, by their numbers

    def of_frame(self, frame: Frame) -> tuple[Any, ...]:
        """*frame* as plain data."""
        if self._ferry is None:
            return frame.plain(apart)
        marks: list[str] = []
        plain = frame.plain(self._leaving(frame.caller, marks))
        return (*plain, True) if marks else plain

    def to_frame(self, plain: tuple[Any, ...]) -> Frame:
        """The frame of `of_frame`."""
        frame = Frame.of(plain[:5])
        if len(plain) == 5:  # noqa: PLR2004 - as `Frame.plain` has it
            return frame
        units = (unit._replace(items=tuple(map(self._coming_item, unit.items))) for unit in frame.units)
        return frame._replace(units=tuple(units))

    def _coming_item(self, item: CallItem) -> CallItem:
        mark = item.payload[2]
        if not isinstance(mark, str):
            return item
        self._marks[item.id] = mark
        return item._replace(payload=self._coming(item.payload))

    def over(self, id: int) -> None:
        """The call of that number is over, and uses its arguments no more; for a frame's receiver."""
        if self._marks:
            mark = self._marks.pop(id, None)
            if mark is not None:
                self._ferry.end(mark)

    def of_replies(self, caller: str, number: int, replies: Iterable[Reply]) -> tuple[Any, ...]:
        """The response *number* to *caller* as plain data."""
        if self._ferry is None:
            return number, [_with_payload(reply, apart) if reply[0] in _PAYLOADS else reply for reply in replies]
        marks: list[str] = []
        plain = number, [_changed(reply, self._leaving(caller, marks)) for reply in replies]
        return (*plain, True) if marks else plain

    def to_response(self, plain: tuple[Any, ...]) -> Response:
        """The response of `of_replies`."""
        number, replies, *marked = plain
        return Response(number, [_changed(reply, self._coming) for reply in replies] if marked else replies)

    def _leaving(self, caller: str, marks: list[str]) -> Callable[[Any], Any]:
        """What makes plain data of a payload; *marks* gets those that stand for references."""

        def leave(payload: Any) -> Any:
            if payload[2]:
                marks.append(self._ferry.send(caller, payload[2]))
                payload = (*payload[:2], marks[-1])
            return apart(payload)

        return leave

    def _coming(self, payload: Any) -> Any:
        """*payload* with references where a mark stands."""
        *plain, references = payload
        return (*plain, _Awaited(self._ferry, references)) if isinstance(references, str) else payload


class _Awaited:
    """References that are waited for when one is wanted."""

    def __init__(self, ferry: Any, mark: str) -> None:
        self._ferry = ferry
        self._mark = mark
        self._found: Sequence[Any] | None = None

    def __getitem__(self, index: int) -> Any:
        if self._found is None:
            self._found = self._ferry.receive(self._mark)
        return self._found[index]

    def __del__(self) -> None:
        if self._found is None:  # the call was given up before its payload was read
            self._ferry.drop(self._mark)


def _with_payload(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    kind, number, payload, *rest = reply
    return (kind, number, change(payload), *rest)


def _changed(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    """*reply* with each of its payloads changed."""
    if reply[0] in _PAYLOADS:
        return _with_payload(reply, change)
    return _with_payload(reply, lambda error: with_payloads(error, change)) if reply[0] in _ERRORS else reply
