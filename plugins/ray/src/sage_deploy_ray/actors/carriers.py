"""
Carries references to objects in Ray's store, and large buffers, for messages that go over a socket.

The processes of a node share the memory of the store, so a buffer there is copied once. Over a socket it is copied
twice. A task costs half a millisecond, so smaller buffers go over the socket.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import ray
from ray.exceptions import RayError

from sage_plugins.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_remote.link.rpc_transport import RpcTransport

__all__ = ["ActorCarrier", "CallerCarrier"]

#: Number of callers remembered after they left. Their last references may still be on the way.
_GONE: Final = 1000

#: Shortest and longest time, in seconds, that an actor keeps references after their use. `ActorCarrier` says why.
_KEPT_S: Final = (0.05, 0.15)


#: From this size on, in bytes, the store is faster than the socket.
_LARGE: Final = 2**25

#: Part of the mark of buffers that the actor sends.
_STORED: Final = ":stored-"


class CallerCarrier:
    """The caller's end, as `attachments.Carrier`. It sends and fetches with tasks of the actor."""

    large: float = _LARGE

    def __init__(self, transport: RpcTransport) -> None:
        """Use the actor that *transport* leads to."""
        self._transport = transport

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """As `Carrier.send`."""
        mark = f"{caller}:{uuid4().hex}"
        self._transport.request("bring", mark, [*references])
        return mark

    send_buffers = send

    def receive(self, mark: str) -> Sequence[Any]:
        """As `Carrier.receive`. If the replica died, raises the same error as its calls."""
        answer = self._transport.request("fetch", mark)
        error = answer.exception()
        if error is not None:
            raise self._transport.death(error)
        found: Sequence[Any] = answer.result()
        if _STORED not in mark:
            return found
        try:
            stored: Sequence[Any] = ray.get(found[0])
        except RayError as lost:
            raise self._transport.death(lost) from None
        return stored

    def drop(self, mark: str) -> None:
        """As `Carrier.drop`."""
        self._transport.request("fetch", mark)


class ActorCarrier:
    """
    The actor's end, as `CallersCarrier`. Keeps what callers brought until their call is over, and what they will fetch.

    Ray 2.60 has a race: if a reference arrives again at the moment the process drops it, Ray forgets the object and the
    reference never resolves. A caller that passes one reference repeatedly would hit this within a second. So the actor
    drops each reference a random moment later.
    """

    large: float = _LARGE

    def __init__(self) -> None:
        """Start empty."""
        self._brought = threading.Condition()
        self._kept: dict[str, Sequence[Any]] = {}  # by mark; this and all below: guarded by _brought
        self._used: dict[str, Sequence[Any]] = {}  # by mark, of calls that still run
        self._over: set[str] = set()  # marks of ended calls whose references have not arrived
        self._gone: OrderedDict[str, None] = OrderedDict()  # callers that left, the oldest first
        self._leaving: deque[tuple[float, Sequence[Any]]] = deque()  # (time to drop, references)

    # -- for the server ----------------------------------------------------------------------------------------------

    def send(self, caller: str, references: Sequence[Any], kind: str = ":") -> str:
        """As `Carrier.send`."""
        mark = f"{caller}{kind}{uuid4().hex}"
        with self._brought:
            self._kept[mark] = references
        return mark

    def send_buffers(self, caller: str, buffers: Sequence[Any]) -> str:
        """As `Carrier.send_buffers`."""
        return self.send(caller, [ray.put([*buffers])], _STORED)

    def receive(self, mark: str) -> Sequence[Any]:
        """As `Carrier.receive`. Raises LookupError if the caller has left."""
        caller = _caller_of(mark)
        with self._brought:
            self._brought.wait_for(lambda: mark in self._kept or caller in self._gone)
            try:
                found = self._used[mark] = self._kept.pop(mark)
            except KeyError:
                msg = "the caller has gone before its arguments were there"
                raise LookupError(msg) from None
            return found

    def drop(self, mark: str) -> None:
        """As `Carrier.drop`. Nothing to do: `end` follows."""

    def end(self, mark: str) -> None:
        """As `CallersCarrier.end`."""
        with self._brought:
            holder = self._used if mark in self._used else self._kept
            if mark in holder:
                self._let_go(holder.pop(mark))
            elif _caller_of(mark) not in self._gone:
                self._over.add(mark)

    def leave(self, caller: str) -> None:
        """As `CallersCarrier.leave`."""
        with self._brought:
            self._gone[caller] = None
            if len(self._gone) > _GONE:
                self._gone.popitem(last=False)
            for marked in (self._kept, self._used):
                for mark in [mark for mark in marked if _caller_of(mark) == caller]:
                    self._let_go(marked.pop(mark))
            self._over = {mark for mark in self._over if _caller_of(mark) != caller}
            self._brought.notify_all()

    def _let_go(self, references: Sequence[Any]) -> None:
        """Drop the references a moment later. The caller holds the condition."""
        delay = random.uniform(*_KEPT_S)  # noqa: S311 - random, so that it does not coincide with regular calls
        self._leaving.append((SYSTEM.monotonic() + delay, references))
        if len(self._leaving) == 1:
            SYSTEM.call_at(self._leaving[0][0], self._look)

    def _look(self) -> None:
        gone = []
        with self._brought:
            while self._leaving and self._leaving[0][0] <= SYSTEM.monotonic():
                gone.append(self._leaving.popleft())
            if self._leaving:
                SYSTEM.call_at(self._leaving[0][0], self._look)
        del gone  # outside the condition, because Ray does work here

    # -- for callers -------------------------------------------------------------------------------------------------

    def bring(self, mark: str, references: Sequence[Any]) -> None:
        """Store the references that *mark* stands for."""
        with self._brought:
            if mark in self._over or _caller_of(mark) in self._gone:
                self._over.discard(mark)
                self._let_go(references)
            else:
                self._kept[mark] = references
                self._brought.notify_all()

    def fetch(self, mark: str) -> Sequence[Any]:
        """Return what *mark* stands for, and forget it."""
        with self._brought:
            return self._kept.pop(mark, ())


def _caller_of(mark: str) -> str:
    return mark.partition(":")[0]
