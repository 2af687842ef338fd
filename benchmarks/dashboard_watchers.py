"""
Watches the stream of a server as several `curl` would. It is a separate process, to add no load to the server's.

`dashboard.py` starts it with the port and the number of watchers. It prints a line when each has received a snapshot,
and ends when its input ends.
"""

from __future__ import annotations

import selectors
import socket
import sys

from http_servers import TOKEN

_REQUEST = f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def main(port: int, number: int) -> None:
    """Read the streams and discard their content."""
    with selectors.DefaultSelector() as selector:
        got: dict[socket.socket, bytes] = {}
        for _ in range(number):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(_REQUEST)
            selector.register(connection, selectors.EVENT_READ)
            got[connection] = b""
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(1 << 16)
                assert data, "the server has ended the stream"
                if key.fileobj in got:
                    got[key.fileobj] += data
                    if b"data: " in got[key.fileobj]:
                        del got[key.fileobj]
                        if not got:
                            print("all watch", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
