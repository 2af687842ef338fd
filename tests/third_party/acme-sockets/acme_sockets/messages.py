"""How the two processes send each other messages: a number, a length, and a pickle."""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from socket import socket

_HEAD = struct.Struct("!QQ")


def send(connection: socket, number: int, body: bytes) -> None:
    """Write one message; only one thread at a time may do this."""
    connection.sendall(_HEAD.pack(number, len(body)))
    connection.sendall(body)


def receive(file: IO[bytes]) -> tuple[int, bytes]:
    """
    Read one message.

    Raises:
        EOFError: The other process has closed its end, or has died.
    """
    number, size = _HEAD.unpack(_read(file, _HEAD.size))
    return number, _read(file, size)


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
