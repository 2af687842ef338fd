"""What a replica has said and not sent yet, where its caller finds it even if the replica is killed."""

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

#: Bytes of it: some hundred small answers. What does not fit is sent.
_SIZE: Final = 2**16
#: Numbers at its beginning: of the response, bytes of its replies, and whether the caller has closed it.
_RESPONSE, _LENGTH, _CLOSED = range(3)
_HEAD: Final = 24
#: Seconds in which what one processor has written can be read by all others; a thousand times what it takes.
_WRITTEN_WITHIN_S: Final = 0.001

_WITH, _WITHOUT = b"\1", b"\0"


class Journal:
    """
    Replies of the response that is to be sent next, in memory of two processes: the replica writes, the caller reads.

    A write into memory costs a tenth of what a message costs, and outlives the process that has made it. So what must
    be known of a replica that is killed need not be sent at once.

    The replica's methods may be called by one thread at a time, likewise the caller's.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        """Use *memory*, which is zero in the beginning."""
        self._memory = memory
        self._head = memoryview(memory)[:_HEAD].cast("Q")
        self._end = _HEAD

    @classmethod
    def offer(cls, end: socket) -> Journal | None:
        """Make one, and send it as the first thing over *end*, a Unix socket; None if the system has no room for it."""
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
        """Say, as the first thing over *end*, that there is none."""
        end.sendall(_WITHOUT)

    @classmethod
    def take(cls, end: socket) -> Journal | None:
        """
        The one that the caller at the other side of *end* offers; None if it offers none.

        Raises:
            EOFError: The connection has ended.
            OSError: It is broken.
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
        """Let go of the memory, which is used no more. Idempotent."""
        self._head.release()
        self._memory.close()

    # -- the replica's -----------------------------------------------------------------------------------------------

    def add(self, reply: Reply) -> bool:
        """Keep *reply*; False if there is no room, or if the caller has closed it and will not read it."""
        data = pickle.dumps(reply, 5)
        end = self._end + len(data)
        if end > _SIZE:
            return False
        self._memory[self._end : end] = data
        self._head[_LENGTH] = end - _HEAD  # last: what is not written to its end is not read
        self._end = end
        return not self._head[_CLOSED]

    def begin(self, number: int) -> None:
        """What it has was sent; next comes response *number*."""
        self._head[_LENGTH] = 0  # first: the replies are none of that number
        self._head[_RESPONSE] = number
        self._end = _HEAD

    # -- the caller's ------------------------------------------------------------------------------------------------

    def close(self) -> tuple[int, list[Reply]]:
        """
        Have no reply added any more; gives the number of the response that was not sent, and its replies.

        The replica need not have ended, nor take notice. A reply that `add` has taken is among them, or was sent.
        """
        head = self._head
        head[_CLOSED] = 1
        sleep(_WRITTEN_WITHIN_S)  # either we see what the replica writes, or it sees this before it goes on
        while True:
            number = head[_RESPONSE]
            data = self._memory[_HEAD : _HEAD + head[_LENGTH]]
            if number == head[_RESPONSE]:  # else a replica that lives has begun another one
                return number, _replies(data)


def _unnamed() -> Any:
    return os.fdopen(os.memfd_create("journal", os.MFD_CLOEXEC), "r+b", buffering=0)


def _replies(data: bytes) -> list[Reply]:
    file, found = BytesIO(data), []
    while file.tell() < len(data):
        found.append(pickle.load(file))  # noqa: S301 - from a replica
    return found
