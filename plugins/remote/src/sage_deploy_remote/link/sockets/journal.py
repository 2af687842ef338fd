"""A journal in shared memory: what a replica has said but not sent yet. Its caller can read it after a kill."""

from __future__ import annotations

import mmap
import os
import pickle
from io import BytesIO
from socket import recv_fds, send_fds
from tempfile import TemporaryFile
from time import sleep
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from socket import socket

    from sage_deploy_remote.link.protocol import Reply

__all__ = ["Journal"]

#: Size in bytes: room for some hundred small answers. What does not fit is sent.
_SIZE: Final = 2**16
#: Numbers at its beginning: the response, the bytes of its replies, and whether the caller has closed the journal.
_RESPONSE, _LENGTH, _CLOSED = range(3)
_HEAD: Final = 24
#: Seconds until all processors certainly see what one of them has written; a thousand times what it takes.
_WRITTEN_WITHIN_S: Final = 0.001

_WITH, _WITHOUT = b"\1", b"\0"


class Journal:
    """
    Replies of the response to be sent next, in shared memory: the replica writes, and the caller reads.

    A write into memory costs a tenth of a message, and survives the process that made it. So the replica need not send
    at once what must be known if it is killed.

    One thread at a time may call the replica's methods, and one thread at a time the caller's.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        """Use *memory*, which is all zero at first."""
        self._memory = memory
        self._head = memoryview(memory)[:_HEAD].cast("Q")
        self._end = _HEAD

    @classmethod
    def offer(cls, end: socket) -> Journal | None:
        """
        Make a journal, and send it as the first thing over *end*, a Unix socket.

        Return None if the system has no room for a journal.
        """
        try:
            with _unnamed() if hasattr(os, "memfd_create") else TemporaryFile(buffering=0) as file:
                file.truncate(_SIZE)
                journal = cls(mmap.mmap(file.fileno(), _SIZE))
                send_fds(end, [_WITH], [file.fileno()])
        except OSError:
            end.sendall(_WITHOUT)
            return None
        return journal

    @staticmethod
    def refuse(end: socket) -> None:
        """Say, as the first thing over *end*, that there is no journal."""
        end.sendall(_WITHOUT)

    @classmethod
    def take(cls, end: socket) -> Journal | None:
        """
        Return the journal that the caller at the other side of *end* offers; None if it offers none.

        Raises:
            EOFError: The connection has ended.
            OSError: The connection is broken.
        """
        said, descriptors, *_ = recv_fds(end, 1, 1)
        try:
            if not said:
                raise EOFError
            return cls(mmap.mmap(descriptors[0], _SIZE)) if descriptors else None
        finally:
            for each in descriptors:
                os.close(each)

    def free(self) -> None:
        """Release the memory, which is used no more. Idempotent."""
        self._head.release()
        self._memory.close()

    # -- the replica's side ------------------------------------------------------------------------------------------

    def add(self, reply: Reply) -> bool:
        """
        Write *reply*; return False if there is no room, or if the caller has closed the journal and will not read it.
        """
        data = pickle.dumps(reply, 5)
        end = self._end + len(data)
        if end > _SIZE:
            return False
        self._memory[self._end : end] = data
        self._head[_LENGTH] = end - _HEAD  # last, so that a partly written reply is never read
        self._end = end
        return not self._head[_CLOSED]

    def begin(self, number: int) -> None:
        """Start with response *number*, because the earlier replies were sent."""
        self._head[_LENGTH] = 0  # first, so that the old replies do not count for the new number
        self._head[_RESPONSE] = number
        self._end = _HEAD

    # -- the caller's side -------------------------------------------------------------------------------------------

    def close(self) -> tuple[int, list[Reply]]:
        """
        Accept no more replies; return the number of the response that was not sent, and its replies.

        The replica may still run, and need not notice. A reply that `add` accepted is among them, or was sent.
        """
        head = self._head
        head[_CLOSED] = 1
        sleep(_WRITTEN_WITHIN_S)  # now we see the replica's write, or it sees _CLOSED and goes no further
        while True:
            number = head[_RESPONSE]
            data = self._memory[_HEAD : _HEAD + head[_LENGTH]]
            if number == head[_RESPONSE]:  # else a living replica began another one
                return number, _replies(data)


def _unnamed() -> Any:
    return os.fdopen(os.memfd_create("journal", os.MFD_CLOEXEC), "r+b", buffering=0)


def _replies(data: bytes) -> list[Reply]:
    file, found = BytesIO(data), []
    while file.tell() < len(data):
        found.append(pickle.load(file))  # noqa: S301 - from a replica
    return found
