"""
Messages in a stream of bytes.

A message is a pickle and the buffers that were left out of it. On the wire: the size of the pickle in 8 bytes, the
number of buffers in 4, the size of each buffer in 8, all little-endian; then the pickle, then the buffers.
"""

from __future__ import annotations

import pickle
import struct
from mmap import mmap
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sage_deploy_remote.payloads.payload import Payload

__all__ = ["Message", "MessageError", "Messages", "apart", "join", "pickled"]

#: A pickle, and the buffers that were left out of it.
Message: TypeAlias = "tuple[bytes | bytearray | mmap, Sequence[Any]]"

_HEAD: Final = struct.Struct("<QI")
_SIZE: Final = 8

#: Bytes of the largest message (64 GiB), and the most buffers; what says more is no message.
_LARGEST: Final = 2**36
_MOST: Final = 2**20

#: Bytes of a part from which on it is sent, and read, without being copied.
_APART: Final = 2**16
#: Bytes of a part from which on its memory comes from the system, page by page as it is filled: it need not be zeroed
#: first, and a size that is no size takes no memory.
_HUGE: Final = 2**25
#: Bytes of a buffer up to which it is copied into the pickle: two parts more cost more than that.
_SMALL: Final = 2**14


class MessageError(Exception):
    """What came is no message: at the other end is something else."""


def pickled(value: Any) -> tuple[bytes, Sequence[PickleBuffer]]:
    """Plain data as the two parts of a message; large buffers in it are not copied."""
    large: list[PickleBuffer] = []

    def keep(buffer: PickleBuffer) -> bool:
        if buffer.raw().nbytes < _SMALL:
            return True
        large.append(buffer)
        return False

    return pickle.dumps(value, 5, buffer_callback=keep), large


def apart(payload: Payload) -> Payload | tuple[PickleBuffer, Sequence[Any], Sequence[Any]]:
    """*payload*, to be pickled with `pickled`: its own pickle is not copied if it is large."""
    data = payload[0]
    return payload if len(data) < _APART else (PickleBuffer(data), *payload[1:])


def join(body: bytes, buffers: Sequence[Any] = ()) -> list[Any]:
    """
    A message as the parts that are to be sent one after the other.

    Args:
        body: The pickle.
        buffers: `pickle.PickleBuffer` objects, or whatever has contiguous bytes.
    """
    if not buffers:
        head = _HEAD.pack(len(body), 0)
        return [head + body] if len(body) < _APART else [head, body]
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    sizes = b"".join(view.nbytes.to_bytes(_SIZE, "little") for view in views)
    return [_HEAD.pack(len(body), len(views)) + sizes, body, *views]


class Messages:
    """
    Puts messages together of what comes from a stream. For one thread at a time.

    Small ones come in `take`. Of a large one `room` gives where the next bytes go, so that they are not copied.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._rest = b""  # the beginning of a message
        self._parts: list[Any] = []  # of a large one: the pickle, and its buffers
        self._empty: list[memoryview] = []  # what is still to come of them; the last comes first

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes go; None while no large message is on its way."""
        return self._empty[-1] if self._empty else None

    def filled(self, number: int) -> list[Message]:
        """So many bytes were written to `room`; gives the message if it is complete."""
        room = self._empty.pop()
        if number < room.nbytes:
            self._empty.append(room[number:])
        return self._complete()

    def take(self, data: bytes) -> Iterator[Message]:
        """
        The messages that are complete with *data*; take them all before anything else comes.

        Raises:
            MessageError: What follows those that it has given is no message.
        """
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= _HEAD.size:
            size, number = _HEAD.unpack_from(data, at)
            if size > _LARGEST or number > _MOST:
                msg = f"{size} bytes and {number} buffers are more than any message has"
                raise MessageError(msg)
            begin = at + _HEAD.size + _SIZE * number
            if end < begin:
                break
            if number:
                sizes = [size, *_sizes(data, at + _HEAD.size, number)]
            elif begin + size <= end:
                at = begin + size
                yield data[begin:at], ()
                continue
            else:
                sizes = [size]
            if number or begin + size - end > _APART:
                at = self._begin(sizes, memoryview(data)[begin:]) + begin
                yield from self._complete()
                continue
            break
        self._rest = data[at:]

    def _begin(self, sizes: Sequence[int], data: memoryview) -> int:
        """Make room for a message of these parts, and put there what has come of it; gives how much that was."""
        try:
            self._parts = [_memory(size) for size in sizes]
        except (MemoryError, OSError) as error:
            msg = f"there is no memory for a message of {sum(sizes)} bytes"
            raise MessageError(msg) from error
        self._empty = [memoryview(part) for part in reversed(self._parts) if part]
        at = 0
        while self._empty and at < data.nbytes:
            room = self._empty.pop()
            fits = min(room.nbytes, data.nbytes - at)
            room[:fits] = data[at : at + fits]
            at += fits
            if fits < room.nbytes:
                self._empty.append(room[fits:])
        return at

    def _complete(self) -> list[Message]:
        if self._empty:
            return []
        body, *buffers = self._parts
        self._parts = []
        return [(body, buffers)]


def _memory(size: int) -> Any:
    """Room for so many bytes."""
    return bytearray(size) if size < _HUGE else mmap(-1, size)


def _sizes(data: bytes, at: int, number: int) -> list[int]:
    """The sizes of so many buffers, which stand at *at*."""
    sizes = [int.from_bytes(data[place : place + _SIZE], "little") for place in range(at, at + _SIZE * number, _SIZE)]
    if sum(sizes) > _LARGEST:
        msg = f"buffers of {sum(sizes)} bytes are more than any message has"
        raise MessageError(msg)
    return sizes
