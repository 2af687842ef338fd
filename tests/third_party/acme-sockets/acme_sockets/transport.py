"""The caller's end of the socket: starts the process, sends frames, and notices when the process ends."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from queue import SimpleQueue
from socket import SHUT_RDWR, socketpair
from typing import TYPE_CHECKING, Any

from acme_sockets import messages
from sage_deploy_remote.link.transport import Exchange, Receiver, Stopped
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_deploy_remote.shipping.specs import pack_spec
from sage_plugins.errors import ReplicaDiedError
from sage_plugins.interfaces import ControlOp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sage_deploy_remote.link.dispatcher import Dispatcher
    from sage_deploy_remote.link.protocol import Frame, Notice
    from sage_plugins.call.call import Call
    from sage_plugins.values import ReplicaSpec

#: Seconds for the answer of a process that has stopped, beyond the time that it had for stopping.
_MARGIN_S = 1.0


class SocketExchange:
    """One frame, and the future of its response."""

    def __init__(self, answer: Future[bytes], transport: SocketTransport) -> None:
        self._answer = answer
        self._transport = transport

    def wait(self, call: Call, seconds: float | None) -> None:
        """Read the response in the caller's thread."""
        try:
            response = result_of(self._answer, seconds)
        except TimeoutError:
            self.leave()
        except Exception as error:  # noqa: BLE001 - the process is gone, or cannot answer
            self._transport.receiver.lost(error)
        except BaseException:  # such as KeyboardInterrupt: the response is still to be read
            self.leave()
            raise
        else:
            self._transport.receiver.arrived(response, call)

    def leave(self) -> None:
        """Read the response in the service's own thread."""
        self._answer.add_done_callback(lambda _: self._transport.soon(self._read))

    def _read(self) -> None:
        try:
            response = result_of(self._answer, 0)
        except Exception as error:  # noqa: BLE001 - as above
            self._transport.receiver.lost(error)
        else:
            self._transport.receiver.arrived(response)


class SocketTransport:
    """
    The way to one child process.

    Two threads belong to it: one reads what comes, one writes, so that nobody who sends has to wait for the process.
    """

    receiver: Receiver
    substrate = PLAIN
    address = None  # only this process reaches the replica

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.soon = dispatcher.soon
        self._numbers = count()
        self._lock = threading.Lock()
        self._answers: dict[int, Future[bytes]] = {}  # guarded by _lock, as the next
        self._gone: ReplicaDiedError | None = None
        self._outgoing: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read_answers, name="sockets-reader", daemon=True)
        self._writer = threading.Thread(target=self._write_requests, name="sockets-writer", daemon=True)

    def start(self, spec: ReplicaSpec, receiver: Receiver) -> None:
        """Start the process and have it build the replica."""
        self.receiver = receiver
        self._replica = spec.id
        packed = pack_spec(spec)
        # Nobody else can connect to a pair of sockets: it has no name, and needs no folder and no secret.
        self._connection, theirs = socketpair()
        with theirs:
            # A process group of its own: Ctrl-C in a terminal is for the parent, which stops its replicas.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "acme_sockets.replica", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._reader.start()
        self._writer.start()
        self._ask("start", packed).add_done_callback(lambda answer: self.soon(lambda: self._started(answer)))

    def _started(self, answer: Future[bytes]) -> None:
        try:
            slots = result_of(answer, 0)
        except BaseException as error:  # noqa: BLE001 - the constructor may raise anything
            (self.receiver.failed if self._gone is None else self.receiver.lost)(error)
        else:
            if slots:  # else it was stopped before it was ready
                self.receiver.started(slots)

    def _ask(self, what: str, *arguments: Any) -> Future[bytes]:
        """Send a message; gives the future of its answer."""
        body = pickle.dumps((what, *arguments), 5)
        answer: Future[bytes] = Future()
        with self._lock:
            gone, number = self._gone, next(self._numbers)
            if gone is None:
                self._answers[number] = answer
        if gone is None:
            self._outgoing.put((number, body))
        else:
            answer.set_exception(gone)
        return answer

    def _write_requests(self) -> None:
        with suppress(OSError):  # the process is gone, and the reader knows it too
            while (request := self._outgoing.get()) is not None:
                messages.send(self._connection, *request)

    def _read_answers(self) -> None:
        """Read until the socket ends, which is the death of the process."""
        with suppress(EOFError, OSError), self._connection.makefile("rb") as file:
            while True:
                number, body = messages.receive(file)
                with self._lock:
                    answer = self._answers.pop(number)
                answer.set_result(body)
        self._process.kill()  # one that has only closed its socket is of no use
        cause = ReplicaDiedError(
            f"replica {self._replica} is gone: its process ended with {self._process.wait()}", replica=self._replica
        )
        with self._lock:
            self._gone, answers = cause, tuple(self._answers.values())
            self._answers.clear()
        self._outgoing.put(None)
        self._writer.join()
        self._connection.close()
        for answer in answers:
            answer.set_exception(cause)
        self.soon(lambda: self.receiver.lost(cause))

    def progress(self, timeout: float) -> str:
        """Nothing is waited for: a process starts at once."""
        return ""

    def exchange(self, frame: Frame) -> Exchange:
        """Send a frame."""
        return SocketExchange(self._ask("exchange", frame), self)

    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]], timeout: float) -> Any:
        """Ask the host something."""
        answer = result_of(self._ask("control", op, arg, tuple(notices)), timeout)
        return unpack(answer) if op is ControlOp.GET else answer

    def vacate(self) -> Callable[[float], None]:
        """Have the replica take no more calls."""
        answer = self._ask("vacate")

        def wait(limit: float) -> None:
            with suppress(Exception):  # it takes too long or the process is gone: it is stopped in any case
                answer.result(limit)

        return wait

    def ask_to_stop(self) -> None:
        """Have the replica begin to stop."""
        self._ask("stop", 0.0)

    def stop(self, grace: float) -> Stopped:
        """Have the replica stop, then end its process."""
        try:
            return Stopped(*result_of(self._ask("stop", grace), grace + _MARGIN_S))
        except Exception:  # noqa: BLE001 - it is gone or stuck: it is ended in any case
            return Stopped(0, None)
        finally:
            self._process.kill()
            with suppress(OSError):  # it is closed
                self._connection.shutdown(SHUT_RDWR)  # the reader ends also if a child of the service has the socket
            self._reader.join()


def result_of(answer: Future[bytes], timeout: float | None) -> Any:
    """
    Wait for an answer and unpickle it.

    Raises:
        TimeoutError: There is none yet.
        BaseException: What the other process raised, or why it is gone.
    """
    result, error = pickle.loads(answer.result(timeout))  # noqa: S301 - from a process that this one has started
    if error is not None:
        raise unpack_error(error)
    return result
