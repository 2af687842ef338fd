"""
TLS for a TCP connection, between the connection and its user.

The user gets a plain socket: one end of a socket pair. A thread for each connection moves bytes between the other end
and TCP. An `ssl.SSLSocket` would not do: it has no `sendmsg`, and two threads must not use it at the same time.

Each side accepts any certificate of its authority, whatever names are in it. That alone would let another node of the
same authority sit in between, with a TLS connection to each side. So both sides add `Tunnel.ready`, which differs on
those two connections, to the secret that they prove to know.
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

from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_remote.rpc.certificates import Certificates

__all__ = ["Tunnel", "tunnel"]

#: Bytes that are read at once.
_CHUNK: Final = 2**18

#: What the listening side says first. Without it a connecting side would not learn that its certificate was refused: in
#: TLS 1.3 its handshake is complete before the other side has read the certificate.
_WELCOME: Final = b"\0"

#: Seconds in which TCP must take what is left when the user has ended the connection.
_LAST_S: Final = 3.0

_NOTHING: Final = memoryview(b"")


class Tunnel(NamedTuple):
    """
    A connection over TLS.

    Attributes:
        end: What its user has of it, once it is `ready`. The end of one side is the end of both, after what was sent
            before it.
        ready: Bytes that both sides of this connection have in common, and no other connection has; an OSError if TLS
            was not agreed on.
        delivered: Gives whether TCP has taken all that the user has said, so that it arrives even if this process is
            killed; or never will.
    """

    end: socket
    ready: Future[bytes]
    delivered: Callable[[], bool]


def tunnel(outer: socket, certificates: Certificates, seconds: float, *, listens: bool) -> Tunnel:
    """
    Have a connection use TLS; returns at once.

    Args:
        outer: The connection, which is the tunnel's from now on, also if this raises: the object is detached from it.
        certificates: Of this side.
        seconds: How long agreeing on TLS may take.
        listens: Whether this is the side that was connected to.

    Raises:
        OSError: The certificates cannot be read, or there can be no more descriptors.
        RuntimeError: There can be no more threads.
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
    """One of the two connections of a tunnel; for its thread."""

    def __init__(self, end: socket) -> None:
        self.end = end
        self.waiting = _NOTHING  # for the connection to take
        self.ended = False  # nothing more comes from it
        self.gone = False  # it takes nothing more

    def wanted(self, other: _Side) -> int:
        """What to wait for: it is read only if *other* can take that."""
        reads = not (self.ended or other.waiting or other.gone)
        return (POLLIN if reads else 0) | (POLLOUT if self.waiting else 0)

    def give(self, data: bytes) -> None:
        """Have it take *data*, after what waits."""
        self.waiting = memoryview(bytes(self.waiting) + data) if self.waiting else memoryview(data)
        self.send()

    def send(self) -> None:
        """Have it take what waits, as far as it does at once."""
        try:
            self.waiting = self.waiting[self.end.send(self.waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self.leave()

    def leave(self) -> None:
        """It takes nothing more."""
        self.gone = True
        self.waiting = _NOTHING

    def read(self) -> bytes:
        """What has come; nothing if there is nothing yet, or no more."""
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
        self._encrypts = False  # whether it has what the user has said in its hands
        self._poll = select.poll()
        for side in (self._outer, self._inner):
            side.end.settimeout(0.0)

    def run(self, ready: Future[bytes], seconds: float) -> None:
        """Until one side ends; *ready* and *seconds* as for `tunnel`."""
        with self._outer.end, self._inner.end:
            try:
                binding = self._agree(time.monotonic() + seconds)
            except TimeoutError:
                ready.set_exception(TimeoutError(f"the other side did not agree on TLS within {seconds:g} s"))
            except ssl.SSLError as error:
                ready.set_exception(ConnectionError(f"no agreement on TLS with the other side: {error}"))
            except Exception as error:  # noqa: BLE001 - for the waiting caller
                ready.set_exception(error)
            else:
                ready.set_result(binding)
                with suppress(ssl.SSLError):  # what came is not from the other side
                    self._carry()
        for side in (self._outer, self._inner):
            side.leave()

    def delivered(self) -> bool:
        """As `Tunnel.delivered`; from any thread."""
        unread = array("i", [0])
        with suppress(OSError, ValueError):  # it has ended
            ioctl(self._inner.end, FIONREAD, unread)
        # In this order: what is not unread is in its hands, then waits for TCP, then is taken.
        return not (unread[0] or self._encrypts or self._outer.waiting)

    # -- agreeing ----------------------------------------------------------------------------------------------------

    def _agree(self, until: float) -> bytes:
        self._complete(self._tls.do_handshake, until)
        self._complete(partial(self._tls.write, _WELCOME) if self._listens else partial(self._tls.read, 1), until)
        binding = self._tls.get_channel_binding("tls-unique")
        assert binding is not None  # noqa: S101 - for the type checker: there is one after the handshake
        return binding

    def _complete(self, step: Callable[[], Any], until: float) -> None:
        """Do a *step* that may take several messages to and fro."""
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                done = False
            else:
                done = True
            finally:
                self._flush()  # also the message that says why it has failed
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
        """Send what TLS has to say."""
        if self._outgoing.pending:
            self._outer.give(self._outgoing.read())

    # -- carrying ----------------------------------------------------------------------------------------------------

    def _carry(self) -> None:
        inner, outer = self._inner, self._outer
        self._decrypt()  # what came behind the welcome
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
        """What has happened, by descriptor; nothing if it is later than *until*."""
        for side, other in ((self._inner, self._outer), (self._outer, self._inner)):
            wanted = side.wanted(other)
            if wanted or not side.gone:
                self._poll.register(side.end, wanted)
            else:
                with suppress(KeyError):
                    self._poll.unregister(side.end)  # else it would tell again and again that it is gone
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
            side.leave()
        if event & (POLLIN | POLLHUP | POLLERR) and side.wanted(other) & POLLIN:
            move()

    def _encrypt(self) -> None:
        """Send what the user says, and that it says no more."""
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
        """Give the user what the other side says."""
        self._incoming.write(self._outer.read())
        parts: list[bytes] = []
        try:
            while part := self._tls.read(_CHUNK):
                parts.append(part)
            self._outer.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # so it is told if this side has ended, too
            self._outer.ended = True
        if parts:
            self._inner.give(b"".join(parts))
        self._flush()
