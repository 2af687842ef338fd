"""
Converts frames and responses to plain data for a socket, and back.

Two kinds of data do not go over the socket: references to a substrate's objects and, where the substrate has shared
memory, the buffers of large values. The substrate's *carrier* carries them, and a mark replaces them in the message.
The reader of a payload with a mark waits for the data when it needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import Frame, Response
from sage_deploy_remote.link.sockets.messages import with_separate_pickle
from sage_deploy_remote.payloads.errors import with_payloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sage_deploy_remote.link.protocol import CallItem, Reply

__all__ = ["Attachments", "Carrier"]

_PAYLOADS: Final = frozenset({protocol.DONE, protocol.ITEM})
_ERRORS: Final = frozenset({protocol.FAILED, protocol.GAVE_UP})


class Carrier(Protocol):
    """
    Carries references and buffers from one end of a connection to the other. Thread-safe.

    Attributes:
        large: Buffers of a value go by the carrier if they have at least this many bytes in total.
    """

    large: float

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """
        Send *references*; never blocks.

        Args:
            caller: The caller at one end of the connection; the references may go in either direction.
            references: What to carry.

        Returns:
            The mark that replaces them in the message.
        """

    def send_buffers(self, caller: str, buffers: Sequence[Any]) -> str:
        """Do the same for buffers; their owner may change them as soon as this returns."""

    def receive(self, mark: str) -> Sequence[Any]:
        """Wait for the data of *mark*; raises if it will not come."""

    def drop(self, mark: str) -> None:
        """Discard the data of *mark*, which nobody needs; never blocks or raises."""


class Attachments:
    """Converts what goes over one connection to plain data, and back."""

    def __init__(self, carrier: Carrier | None = None) -> None:
        """Without a *carrier*, nothing that is sent has references, and all buffers go over the socket."""
        self._carrier: Any = carrier
        self._marks: dict[int, list[str]] = {}  # marks in the arguments of calls that are not over, by number

    def frame_to_plain(self, frame: Frame) -> tuple[Any, ...]:
        """Return *frame* as plain data."""
        if self._carrier is None:
            return frame.to_plain(with_separate_pickle)
        marks: list[str] = []
        plain = frame.to_plain(self._payload_packer(frame.caller, marks))
        return (*plain, True) if marks else plain

    def frame_from_plain(self, plain: tuple[Any, ...]) -> Frame:
        """Return the frame that `frame_to_plain` converted."""
        frame = Frame.from_plain(plain[:5])
        if len(plain) == 5:  # noqa: PLR2004 - the length from `Frame.plain`
            return frame
        units = (unit._replace(items=tuple(map(self._resolve_item, unit.items))) for unit in frame.units)
        return frame._replace(units=tuple(units))

    def _resolve_item(self, item: CallItem) -> CallItem:
        marks = [part for part in item.payload[1:] if isinstance(part, str)]
        if not marks:
            return item
        self._marks[item.id] = marks
        return item._replace(payload=self._resolve_marks(item.payload))

    def call_ended(self, id: int) -> None:
        """Note that call *id* is over and no longer uses its arguments; for a frame's receiver."""
        if self._marks:
            for mark in self._marks.pop(id, ()):
                self._carrier.release(mark)

    def replies_to_plain(self, caller: str, number: int, replies: Iterable[Reply]) -> tuple[Any, ...]:
        """Return the response *number* to *caller* as plain data."""
        if self._carrier is None:
            return number, [
                _convert_payload(reply, with_separate_pickle) if reply[0] in _PAYLOADS else reply for reply in replies
            ]
        marks: list[str] = []
        plain = number, [_convert_payloads(reply, self._payload_packer(caller, marks)) for reply in replies]
        return (*plain, True) if marks else plain

    def response_from_plain(self, plain: tuple[Any, ...]) -> Response:
        """Return the response that `replies_to_plain` converted."""
        number, replies, *marked = plain
        return Response(
            number, [_convert_payloads(reply, self._resolve_marks) for reply in replies] if marked else replies
        )

    def _payload_packer(self, caller: str, marks: list[str]) -> Callable[[Any], Any]:
        """Return a function that converts a payload to plain data and adds the marks that it uses to *marks*."""
        carrier = self._carrier

        def pack_payload(payload: Any) -> Any:
            data, buffers, references = payload
            if references:
                references = carrier.send(caller, references)
                marks.append(references)
            if buffers and sum(memoryview(each).nbytes for each in buffers) >= carrier.large:
                buffers = carrier.send_buffers(caller, buffers)
                marks.append(buffers)
            return with_separate_pickle((data, buffers, references))

        return pack_payload

    def _resolve_marks(self, payload: Any) -> Any:
        """Return *payload* with each mark replaced by data that is fetched when needed."""
        return tuple(_AwaitedData(self._carrier, part) if isinstance(part, str) else part for part in payload)


class _AwaitedData:
    """The data of a mark, fetched on first use."""

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


def _convert_payload(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    kind, number, payload, *rest = reply
    return (kind, number, change(payload), *rest)


def _convert_payloads(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    """Return *reply* with *change* applied to each of its payloads."""
    if reply[0] in _PAYLOADS:
        return _convert_payload(reply, change)
    return _convert_payload(reply, lambda error: with_payloads(error, change)) if reply[0] in _ERRORS else reply
