"""The replica's process: `python -m acme_sockets.replica DESCRIPTOR`. It answers messages until the socket ends."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from socket import socket
from typing import TYPE_CHECKING, Any

from acme_sockets import messages
from sage_deploy_remote.link.serving.server import ReplicaServer
from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.shipping.specs import unpack_spec
from sage_plugins.errors import ServiceNotFoundError
from sage_plugins.interfaces import ControlOp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_deploy_remote.link.protocol import Frame, Response

#: More threads than one caller needs: it has two exchanges and a few questions here at once.
_THREADS = 32


class ReplicaProcess:
    """
    Answers the messages of one caller.

    A message is the name of a method whose docstring begins with "Answer:", and its arguments. Each is answered in a
    thread of its own, so that a long answer holds up no other.
    """

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._server: ReplicaServer | None = None

    def run(self) -> None:
        """Answer until the caller closes its end; it does so also when it is killed."""
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="link")
        file = self._connection.makefile("rb")
        try:
            while True:
                threads.submit(self._answer, *messages.receive(file))
        except (EOFError, OSError):
            sys.stdout.flush()
            os._exit(0)  # whatever still runs ends with the process

    def _answer(self, number: int, body: bytes) -> None:
        error = None
        answer: Any = None
        try:
            name, *arguments = pickle.loads(body)  # noqa: S301 - from the process that started this one
            answer = getattr(self, name)(*arguments)
            answered = pickle.dumps((answer, None), 5)
        except BaseException as raised:  # noqa: BLE001 - also sys.exit() in a constructor; the caller gets it
            error = self._packed(raised)
            answered = pickle.dumps((None, error), 5)
        with self._sending:
            messages.send(self._connection, number, answered)

    def _packed(self, error: BaseException) -> Any:
        if self._server is not None:
            return self._server.packed(error, "")
        return pack_error(error, service="", method="__init__", replica="", node=None)

    def start(self, packed: bytes) -> int:
        """Answer: the number of slots, once the instance is ready."""
        spec = unpack_spec(packed)
        self._server = ReplicaServer(spec, None, _no_other_service)
        return self._server.start()

    def exchange(self, frame: Frame) -> Response:
        """Answer: what there is to say to the caller; waits for that."""
        assert self._server is not None  # the caller waits for `start`
        return self._server.exchange(frame)

    def control(self, op: ControlOp, arg: Any, notices: Any) -> Any:
        """Answer: what the host says."""
        if self._server is None:
            msg = "the replica is still being built"
            raise RuntimeError(msg)
        answer = self._server.control(op, arg, notices)
        return self._server.packed_result(answer, str(arg)) if op is ControlOp.GET else answer

    def vacate(self) -> None:
        """Answer: once all calls have been answered."""
        if self._server is not None:
            self._server.vacate()

    def stop(self, grace: float) -> tuple[int, Mapping[str, Any] | None]:
        """Answer: how many calls still run, and the last statistics."""
        if self._server is None:
            return 0, None
        return self._server.stop(grace), self._server.host.control(ControlOp.STATS)


def _no_other_service(name: str) -> Any:
    msg = f"replicas on target 'sockets' cannot call other services, and {name!r} is one"
    raise ServiceNotFoundError(msg, service=name)


if __name__ == "__main__":
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # noqa: FBT003 - as os has it; children of the service do not get it
    ReplicaProcess(socket(fileno=descriptor)).run()
