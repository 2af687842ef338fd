"""Proves to both ends of a connection that they know the same secret, before they read anything else."""

from __future__ import annotations

import hmac
import secrets
from multiprocessing import AuthenticationError
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["prove"]

#: Bytes of a challenge, and of its answer (HMAC-SHA256).
_SIZE: Final = 32


def prove(connection: Connection[Any, Any], key: bytes, *, listens: bool) -> None:
    """
    Answer the other side's challenge, and check its answer to ours. The secret itself is not sent.

    Each answer depends on both challenges and on the role of its sender. So an answer is useless on another connection,
    and cannot be sent back to its sender.

    Args:
        connection: A fresh connection.
        key: The secret.
        listens: Whether this is the listening side.

    Raises:
        AuthenticationError: The other side does not know the secret.
        OSError, EOFError: The other side has hung up, or does not speak this protocol.
    """
    here, there = (b"listens", b"connects") if listens else (b"connects", b"listens")
    ours = secrets.token_bytes(_SIZE)
    connection.send_bytes(ours)
    theirs = connection.recv_bytes(_SIZE)
    connection.send_bytes(hmac.digest(key, here + theirs + ours, "sha256"))
    if not hmac.compare_digest(connection.recv_bytes(_SIZE), hmac.digest(key, there + ours + theirs, "sha256")):
        raise AuthenticationError("the process at the other end does not know the secret")
