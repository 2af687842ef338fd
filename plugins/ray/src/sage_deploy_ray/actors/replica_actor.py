"""
The Ray actor in which a replica runs: it unpacks what to run, and hands everything to the replica's server.

In all versions `start` and `wait_started` have `spoken()` as their first argument, and answer `(None, spoken())` if
they speak another protocol; `describe` answers `(spoken(), ...)`.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import ray

from sage_deploy_ray.actors import arguments, wire
from sage_deploy_ray.actors.references import RAY
from sage_deploy_remote.link.serving.server import ReplicaServer
from sage_deploy_remote.payloads.errors import pack_error
from sage_deploy_remote.shipping import versions
from sage_deploy_remote.shipping.specs import unpack_spec
from sage_plugins.errors import ServiceNotFoundError
from sage_plugins.interfaces import ControlOp

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sage_deploy_ray.actors.wire import Wire
    from sage_deploy_remote.link.protocol import Notice
    from sage_deploy_remote.shipping.versions import Spoken

__all__ = ["GROUPS", "ReplicaActor"]

#: Threads of the actor by what they do. Calls have the group without a name: each calling process keeps one of its
#: threads waiting for responses, and uses a second one for a moment when it sends.
GROUPS: Final = {"start": 1, "watch": 1, "vacate": 1, "stop": 2, "control": 4}


class ReplicaActor:
    """
    One replica in a Ray worker.

    Starting, checking and stopping have threads of their own, so that they are answered when all slots are taken.
    """

    def __init__(self, threads: int) -> None:
        """*threads*: for numeric libraries, which read it when the service's class is unpickled."""
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        self._lock = threading.Lock()
        self._server: ReplicaServer | None = None  # guarded by _lock, as the next
        self._stopped = False
        self._made_of: tuple[bytes | None, str | None] = None, None  # what is to run, if others may ask, and the node
        self._outcome: tuple[int, Any] = _never_told()
        self._over = threading.Event()

    @ray.method(concurrency_group="start")
    def start(self, theirs: Spoken, *what: Any, **how: Any) -> tuple[int | None, Any]:
        """
        Build the replica; gives its slots, and what its constructor raised.

        Args:
            theirs: What the caller speaks. If that is not what is spoken here, the answer is `(None, spoken())`.
            what: The replica, packed, and the name of its node.
            how: `remember`, whether `describe` is to tell of it.
        """
        return (None, versions.spoken()) if theirs[0] != versions.NUMBER else self._start(*what, **how)

    @ray.method(concurrency_group="start")
    def wait_started(self, theirs: Spoken) -> tuple[int | None, Any]:
        """What `start` gave to another process, once that is over."""
        return (None, versions.spoken()) if theirs[0] != versions.NUMBER else self._outcome

    @ray.method(concurrency_group="control")
    def describe(self) -> tuple[Spoken, bytes | None, str | None, str]:
        """What is spoken here, what `start` was told to run, None before that; the node's name and its ID."""
        return versions.spoken(), *self._made_of, ray.get_runtime_context().get_node_id()

    def _start(self, packed: bytes, node: str | None, *, remember: bool = False) -> tuple[int, Any]:
        self._made_of = packed if remember else None, node
        self._outcome = self._build(packed, node)
        return self._outcome

    def _build(self, packed: bytes, node: str | None) -> tuple[int, Any]:
        service = replica = ""
        try:
            spec = unpack_spec(packed)
            service, replica = spec.service, spec.id
            with self._lock:
                if self._stopped:
                    return 0, None
                find_service = spec.find_service or partial(_no_other, spec.service)
                server = self._server = ReplicaServer(spec, node, find_service, arguments, RAY)
            return server.start(), None
        except BaseException as error:  # noqa: BLE001 - also sys.exit() in a constructor
            return 0, pack_error(error, service=service, method="__init__", replica=replica, node=node, substrate=RAY)

    @ray.method(concurrency_group="watch")
    def wait_ended(self) -> None:
        """Wait until the replica has stopped; ends with an error if its process dies before."""
        self._over.wait()

    def exchange(self, frame: Wire) -> Wire:
        """As `ReplicaServer.exchange`."""
        assert self._server is not None  # noqa: S101 - callers wait for `start`
        return wire.write_response(self._server.exchange(wire.read_frame(frame)))

    @ray.method(concurrency_group="control")
    def control(self, op: ControlOp, arg: Any, notices: Collection[tuple[str, Notice]]) -> tuple[Any, Any]:
        """As `ReplicaServer.control`; gives the answer, and what it raised."""
        server = self._server
        if server is None:
            return None, pack_error(
                RuntimeError("it is still being built"), service="", method="", replica="", node=None
            )
        try:
            answer = server.control(op, arg, notices)
            # What is the service's own travels as a result does: by value where it must, and refused in the same words.
            return server.packed_result(answer, str(arg)) if op is ControlOp.GET else answer, None
        except BaseException as error:  # noqa: BLE001 - a check may raise anything
            return None, server.packed(error, str(op))

    @ray.method(concurrency_group="vacate")
    def vacate(self) -> None:
        """As `ReplicaServer.vacate`."""
        if self._server is not None:
            self._server.vacate()

    @ray.method(concurrency_group="stop")
    def stop(self, grace: float) -> tuple[int, Mapping[str, Any] | None]:
        """Stop the replica; gives how many calls still run, and its last statistics."""
        with self._lock:  # what has not been built by now never will
            self._stopped = True
            server = self._server
        left = 0 if server is None else server.stop(grace)
        stats = None if server is None else server.host.control(ControlOp.STATS)
        self._over.set()
        return left, stats


def _never_told() -> tuple[int, Any]:
    error = RuntimeError("the process that made it ended before it said what is to run")
    return 0, pack_error(error, service="", method="__init__", replica="", node=None)


def _no_other(caller: str, name: str) -> Any:
    msg = f"service '{caller}' was made outside any environment, so it cannot find service '{name}'"
    raise ServiceNotFoundError(msg, service=name)
