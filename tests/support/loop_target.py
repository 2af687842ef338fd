"""A target with replicas in this process that exchange messages with callers as if they were in another process."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from sage_deploy_ray.actors import arguments, wire
from sage_deploy_ray.actors.references import RAY
from sage_deploy_remote.link.replica import RemoteReplica
from sage_deploy_remote.link.serving.server import ReplicaServer
from sage_deploy_remote.link.transport import Stopped
from sage_deploy_remote.payloads.errors import unpack_error
from sage_deploy_remote.shipping.specs import pack_spec, unpack_spec
from sage_plugins import hookimpl
from sage_plugins.interfaces import ControlOp
from sage_plugins.values import Placed, Registration


class Line:
    """A thread that runs one function after the other."""

    def __init__(self, name):
        self._queue = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, do):
        self._queue.put(do)

    def _run(self):
        while (do := self._queue.get()) is not None:
            try:
                do()
            except BaseException:  # noqa: BLE001
                import traceback

                traceback.print_exc()
            del do

    def end(self):
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(5)


class LoopExchange:
    def __init__(self, transport, frame):
        self._response = SimpleQueue()
        self._transport = transport
        self._left = False
        self._lock = threading.Lock()
        self._arrived = None
        written = wire.write_frame(frame)
        transport.run(lambda: self._exchange(written))

    def _exchange(self, written):
        answer = wire.write_response(self._transport.server.exchange(wire.read_frame(written)))
        response = wire.read_response(answer)
        with self._lock:
            self._arrived = response
            left = self._left
        if left:
            self._deliver()
        self._response.put(None)

    def _deliver(self):
        self._transport.soon(lambda: self._transport.receiver.arrived(self._arrived))

    def wait(self, call, seconds):
        from queue import Empty

        try:
            self._response.get(timeout=seconds)
        except Empty:
            self.leave()
        except BaseException:
            self.leave()
            raise
        else:
            self._transport.receiver.arrived(self._arrived, call)

    def leave(self):
        with self._lock:
            self._left = True
            arrived = self._arrived is not None
        if arrived:
            self._deliver()


class LoopTransport:
    substrate = RAY
    pushes = exact = routes = False

    def __init__(self, responses, find_service):
        self._find_service = find_service
        self.soon = responses.put

    def leave(self):
        """Do nothing: there is no connection."""

    def run(self, do):
        threading.Thread(target=do, name="loop", daemon=True).start()

    def start(self, spec, receiver):
        self.receiver = receiver
        packed = pack_spec(spec, RAY)
        self.server = ReplicaServer(unpack_spec(packed), "loop", self._find_service, arguments, RAY)
        self.run(self._start)

    def _start(self):
        try:
            slots = self.server.start()
        except BaseException as error:  # noqa: BLE001
            packed = self.server.answers.error(error, "")
            self.soon(lambda: self.receiver.failed(unpack_error(packed)))
        else:
            if slots:
                self.soon(lambda: self.receiver.started(slots))

    def exchange(self, frame):
        return LoopExchange(self, frame)

    def control(self, op, arg, notices, timeout):
        return self.server.control(op, arg, notices)

    def progress(self, timeout):
        return ""

    def ask_to_stop(self):
        self.server.begin_stop()

    def stop(self, grace):
        left = self.server.stop(grace)
        return Stopped(left, self.server.host.control(ControlOp.STATS))


class LoopTarget:
    def __init__(self):
        self._responses = None

    def place(self, specs):
        return [Placed("loop", "there is no other") for _ in specs]

    def responses(self):
        if self._responses is None:
            self._responses = Line("responses")
        return self._responses

    def start(self, spec, at, events, clock):
        return RemoteReplica(spec, at.node, events, clock, LoopTransport(self.responses(), events.service))

    def close(self):
        if self._responses is not None:
            self._responses.end()
        self._responses = None


class Plugin:
    @hookimpl
    def sage_register_targets(self):
        return [Registration("loop", lambda _: LoopTarget(), "In this process, by message")]
