"""
TLS for a TCP connection, in a thread between the connection and its user.

The user gets a plain socket: one end of a socket pair. A thread for each connection moves bytes between the other end
and TCP. An `ssl.SSLSocket` would not do: it has no `sendmsg`, and two threads must not use it at the same time.

Each side accepts any certificate of its authority, with any names. That alone would let another node of the same
authority relay between them, with a TLS connection to each side. So both sides append `Tunnel.ready` to the secret that
they prove to know; it differs between two connections.
"""

from __future__ import annotations

import select
import ssl
import time
from array import array
from concurrent.futures import Future
from contextlib import suppress
from fcntl import ioctl
from functools import partial
from select import POLLERR, POLLHUP, POLLIN, POLLOUT
from socket import socket, socketpair
from termios import FIONREAD
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_deploy_remote.link.sockets.inheritance import closed_in_copies
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_remote.rpc.certificates import Certificates

__all__ = ["Tunnel", "tunnel"]

#: Bytes to read at once.
_CHUNK: Final = 2**18

#: First byte from the listening side. Without it, a connecting side would not learn that its certificate was refused:
#: in TLS 1.3 its handshake completes before the other side reads the certificate.
_WELCOME: Final = b"\0"

#: Seconds in which TCP must accept the remaining bytes after the user has ended the connection.
_LAST_S: Final = 3.0

_NOTHING: Final = memoryview(b"")


class Tunnel(NamedTuple):
    """
    A connection over TLS.

    Attributes:
        end: The user's socket; use it once `ready` is set. When one side ends the connection, both sides end, after the
            bytes sent before.
        ready: Gives bytes that both sides of this connection share and no other connection has; an OSError if the TLS
            handshake failed.
        delivered: Returns True once TCP has accepted all bytes of the user: then they arrive even if this process is
            killed. Also True if the connection has ended, so that TCP never will.
    """

    end: socket
    ready: Future[bytes]
    delivered: Callable[[], bool]


def tunnel(outer: socket, certificates: Certificates, seconds: float, *, listens: bool) -> Tunnel:
    """
    Put a connection under TLS; returns at once.

    Args:
        outer: The connection. It belongs to the tunnel from now on, even if this raises: the socket object is detached.
        certificates: Certificates of this side.
        seconds: Timeout of the handshake.
        listens: Whether this is the listening side.

    Raises:
        OSError: The certificates cannot be read, or there are no free descriptors.
        RuntimeError: The system allows no more threads.
    """
    ready: Future[bytes] = Future()
    outer = socket(fileno=outer.detach())
    try:
        context = certificates.context(listens=listens)
        end, inner = socketpair()
    except BaseException:
        outer.close()
        raise
    try:
        pump = _Pump(outer, inner, context, listens=listens)
        start_thread(partial(pump.run, ready, seconds), "tls-tunnel")
    except BaseException:
        for each in (outer, inner, end):
            each.close()
        raise
    return Tunnel(end, ready, pump.delivered)


class _Side:
    """One of the two connections of a tunnel; for the tunnel's thread."""

    def __init__(self, end: socket) -> None:
        self.end = closed_in_copies(end)
        self.waiting = _NOTHING  # bytes that the connection has not accepted yet
        self.ended = False  # whether nothing more comes from it
        self.gone = False  # whether it accepts nothing more

    def poll_events(self, other: _Side) -> int:
        """Return the poll events to wait for. Read only if *other* can take the bytes."""
        reads = not (self.ended or other.waiting or other.gone)
        return (POLLIN if reads else 0) | (POLLOUT if self.waiting else 0)

    def give(self, data: bytes) -> None:
        self.waiting = memoryview(bytes(self.waiting) + data) if self.waiting else memoryview(data)
        self.send()

    def send(self) -> None:
        """Send as many waiting bytes as the connection accepts at once."""
        try:
            self.waiting = self.waiting[self.end.send(self.waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self.stop_sending()

    def stop_sending(self) -> None:
        """Note that the connection accepts nothing more."""
        self.gone = True
        self.waiting = _NOTHING

    def read(self) -> bytes:
        """Return the bytes that came; empty if there are none yet or no more."""
        try:
            data = self.end.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.ended = not data
        return data


class _Pump:
    """Moves bytes between a TCP connection and its user."""

    def __init__(self, outer: socket, inner: socket, context: ssl.SSLContext, *, listens: bool) -> None:
        self._listens = listens
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=listens)
        self._outer, self._inner = _Side(outer), _Side(inner)
        self._encrypts = False  # whether `_encrypt` holds bytes of the user
        self._poll = select.poll()
        for side in (self._outer, self._inner):
            side.end.settimeout(0.0)

    def run(self, ready: Future[bytes], seconds: float) -> None:
        """Run until one side ends; *ready* and *seconds* as for `tunnel`."""
        with self._outer.end, self._inner.end:
            try:
                binding = self._agree(time.monotonic() + seconds)
            except TimeoutError:
                ready.set_exception(TimeoutError(f"the other side did not agree on TLS within {seconds:g} s"))
            except ssl.SSLError as error:
                ready.set_exception(ConnectionError(f"no agreement on TLS with the other side: {error}"))
            except Exception as error:  # noqa: BLE001 - passed to the waiting caller
                ready.set_exception(error)
            else:
                ready.set_result(binding)
                with suppress(ssl.SSLError):  # the bytes that came were not sent by the other side
                    self._carry()
        for side in (self._outer, self._inner):
            side.stop_sending()

    def delivered(self) -> bool:
        """As `Tunnel.delivered`; from any thread."""
        unread = array("i", [0])
        with suppress(OSError, ValueError):  # the connection has ended
            ioctl(self._inner.end, FIONREAD, unread)
        # The order of these checks matters: bytes go from unread to `_encrypts`, then to `waiting`, then to TCP.
        return not (unread[0] or self._encrypts or self._outer.waiting)

    # -- handshake ---------------------------------------------------------------------------------------------------

    def _agree(self, until: float) -> bytes:
        self._complete(self._tls.do_handshake, until)
        self._complete(partial(self._tls.write, _WELCOME) if self._listens else partial(self._tls.read, 1), until)
        binding = self._tls.get_channel_binding("tls-unique")
        assert binding is not None  # noqa: S101 - for the type checker: the handshake is complete
        return binding

    def _complete(self, step: Callable[[], Any], until: float) -> None:
        """Do a *step* that may take several messages in both directions."""
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                done = False
            else:
                done = True
            finally:
                self._flush()  # also the message about a failure
            if done:
                return
            happened = self._wait(until)
            if not happened:
                raise TimeoutError
            if self._inner.end.fileno() in happened:
                msg = "the connection was ended before both sides had agreed on TLS"
                raise ConnectionAbortedError(msg)
            if self._outer.waiting:
                self._outer.send()
            self._incoming.write(self._outer.read())
            if self._outer.ended:
                msg = "the other side ended the connection instead of agreeing on TLS"
                raise ConnectionResetError(msg)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._outer.give(self._outgoing.read())

    # -- transfer ----------------------------------------------------------------------------------------------------

    def _carry(self) -> None:
        inner, outer = self._inner, self._outer
        self._decrypt()  # bytes that came after the welcome
        until: float | None = None
        while not self._over():
            if until is None and (inner.ended or inner.gone):
                until = time.monotonic() + _LAST_S
            happened = self._wait(until)
            if not happened:
                return
            self._step(inner, outer, happened, self._encrypt)
            self._step(outer, inner, happened, self._decrypt)

    def _over(self) -> bool:
        inner, outer = self._inner, self._outer
        finished = (inner.ended and not outer.waiting) or (outer.ended and not inner.waiting)
        return finished or (inner.gone and outer.gone)

    def _wait(self, until: float | None) -> dict[int, int]:
        """Return the poll events by descriptor; empty after *until*."""
        for side, other in ((self._inner, self._outer), (self._outer, self._inner)):
            poll_events = side.poll_events(other)
            if poll_events or not side.gone:
                self._poll.register(side.end, poll_events)
            else:
                with suppress(KeyError):
                    self._poll.unregister(side.end)  # else it would report its end again and again
        if until is None:
            return dict(self._poll.poll())
        left = until - time.monotonic()
        return dict(self._poll.poll(left * 1000)) if left > 0 else {}

    @staticmethod
    def _step(side: _Side, other: _Side, happened: dict[int, int], move: Callable[[], None]) -> None:
        event = happened.get(side.end.fileno(), 0)
        if event & POLLOUT and side.waiting:
            side.send()
        if event & (POLLHUP | POLLERR):
            side.stop_sending()
        if event & (POLLIN | POLLHUP | POLLERR) and side.poll_events(other) & POLLIN:
            move()

    def _encrypt(self) -> None:
        """Send the user's bytes, and the end of its stream."""
        self._encrypts = True
        data = self._inner.read()
        if data:
            self._tls.write(data)
        elif self._inner.ended:
            with suppress(ssl.SSLError):
                self._tls.unwrap()
        self._flush()
        self._encrypts = False

    def _decrypt(self) -> None:
        self._incoming.write(self._outer.read())
        parts: list[bytes] = []
        try:
            while part := self._tls.read(_CHUNK):
                parts.append(part)
            self._outer.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # TLS reports the end this way if this side has ended too
            self._outer.ended = True
        if parts:
            self._inner.give(b"".join(parts))
        self._flush()
