"""
What a message over a socket is pickled from, and what is made of it there.

References to a substrate's objects do not go over a socket, nor do the buffers of large values where the substrate has
memory that processes share: its *carrier* carries them, and a mark stands for them in the message. Whoever reads a
payload with a mark waits for them then.
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

__all__ = ["Attachments", "Carrier"]

_PAYLOADS: Final = frozenset({protocol.DONE, protocol.ITEM})
_ERRORS: Final = frozenset({protocol.FAILED, protocol.GAVE_UP})


class Carrier(Protocol):
    """
    Carries references and buffers from one end of a connection to the other. From any thread.

    Attributes:
        large: Bytes of a value's buffers from which on they go by the carrier.
    """

    large: float

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """
        Send them on their way; never blocks.

        Args:
            caller: Whose connection it is, in either direction.
            references: What to carry.

        Returns:
            What stands for them in the message.
        """

    def send_buffers(self, caller: str, buffers: Sequence[Any]) -> str:
        """The same for buffers, whose owner may change them as soon as this returns."""

    def receive(self, mark: str) -> Sequence[Any]:
        """Wait for what *mark* stands for; raises if it will not come."""

    def drop(self, mark: str) -> None:
        """Nobody wants what *mark* stands for; never blocks or raises."""


class Attachments:
    """Makes plain data of what goes over one connection, and the other way round."""

    def __init__(self, carrier: Carrier | None = None) -> None:
        """Without a *carrier* nothing that is sent has references, and all buffers go over the socket."""
        self._carrier: Any = carrier
        self._marks: dict[int, list[str]] = {}  # in the arguments of calls that are not over, by their numbers

    def of_frame(self, frame: Frame) -> tuple[Any, ...]:
        """*frame* as plain data."""
        if self._carrier is None:
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
        marks = [part for part in item.payload[1:] if isinstance(part, str)]
        if not marks:
            return item
        self._marks[item.id] = marks
        return item._replace(payload=self._coming(item.payload))

    def over(self, id: int) -> None:
        """The call of that number is over, and uses its arguments no more; for a frame's receiver."""
        if self._marks:
            for mark in self._marks.pop(id, ()):
                self._carrier.end(mark)

    def of_replies(self, caller: str, number: int, replies: Iterable[Reply]) -> tuple[Any, ...]:
        """The response *number* to *caller* as plain data."""
        if self._carrier is None:
            return number, [_with_payload(reply, apart) if reply[0] in _PAYLOADS else reply for reply in replies]
        marks: list[str] = []
        plain = number, [_changed(reply, self._leaving(caller, marks)) for reply in replies]
        return (*plain, True) if marks else plain

    def to_response(self, plain: tuple[Any, ...]) -> Response:
        """The response of `of_replies`."""
        number, replies, *marked = plain
        return Response(number, [_changed(reply, self._coming) for reply in replies] if marked else replies)

    def _leaving(self, caller: str, marks: list[str]) -> Callable[[Any], Any]:
        """What makes plain data of a payload; *marks* gets those that it puts in."""
        carrier = self._carrier

        def leave(payload: Any) -> Any:
            data, buffers, references = payload
            if references:
                references = carrier.send(caller, references)
                marks.append(references)
            if buffers and sum(memoryview(each).nbytes for each in buffers) >= carrier.large:
                buffers = carrier.send_buffers(caller, buffers)
                marks.append(buffers)
            return apart((data, buffers, references))

        return leave

    def _coming(self, payload: Any) -> Any:
        """*payload* with what marks in it stand for."""
        return tuple(_Awaited(self._carrier, part) if isinstance(part, str) else part for part in payload)


class _Awaited:
    """What a mark stands for: waited for when it is wanted."""

    def __init__(self, carrier: Any, mark: str) -> None:
        self._carrier = carrier
        self._mark = mark
        self._found: Sequence[Any] | None = None

    def __getitem__(self, index: int) -> Any:
        if self._found is None:
            self._found = self._carrier.receive(self._mark)
        return self._found[index]

    def __del__(self) -> None:
        if self._found is None:  # the call was given up before its payload was read
            self._carrier.drop(self._mark)


def _with_payload(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    kind, number, payload, *rest = reply
    return (kind, number, change(payload), *rest)


def _changed(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    """*reply* with each of its payloads changed."""
    if reply[0] in _PAYLOADS:
        return _with_payload(reply, change)
    return _with_payload(reply, lambda error: with_payloads(error, change)) if reply[0] in _ERRORS else reply
