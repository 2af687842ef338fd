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
_MAX_DEPARTED: Final = 1000

#: Shortest and longest time, in seconds, that an actor keeps references after their use. `ActorCarrier` says why.
_DROP_DELAY_S: Final = (0.05, 0.15)


#: From this size on, in bytes, the store is faster than the socket.
_LARGE: Final = 2**25

#: Part of the mark of buffers that the actor sends.
_IN_STORE: Final = ":stored-"


class CallerCarrier:
    """The caller's end, as `attachments.Carrier`. It sends and fetches with tasks of the actor."""

    large: float = _LARGE

    def __init__(self, transport: RpcTransport) -> None:
        self._transport = transport

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """As `Carrier.send`."""
        mark = f"{caller}:{uuid4().hex}"
        self._transport.request("deliver", mark, [*references])
        return mark

    send_buffers = send

    def receive(self, mark: str) -> Sequence[Any]:
        """As `Carrier.receive`. If the replica died, raises the same error as its calls."""
        answer = self._transport.request("fetch", mark)
        error = answer.exception()
        if error is not None:
            raise self._transport.death(error)
        found: Sequence[Any] = answer.result()
        if _IN_STORE not in mark:
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
        self._condition = threading.Condition()
        self._pending: dict[str, Sequence[Any]] = {}  # by mark; this and all below: guarded by _condition
        self._in_use: dict[str, Sequence[Any]] = {}  # by mark, of calls that still run
        self._ended_early: set[str] = set()  # marks of ended calls whose references have not arrived
        self._departed: OrderedDict[str, None] = OrderedDict()  # callers that left, the oldest first
        self._to_drop: deque[tuple[float, Sequence[Any]]] = deque()  # (time to drop, references)

    # -- for the server ----------------------------------------------------------------------------------------------

    def send(self, caller: str, references: Sequence[Any], kind: str = ":") -> str:
        """As `Carrier.send`."""
        mark = f"{caller}{kind}{uuid4().hex}"
        with self._condition:
            self._pending[mark] = references
        return mark

    def send_buffers(self, caller: str, buffers: Sequence[Any]) -> str:
        """As `Carrier.send_buffers`."""
        return self.send(caller, [ray.put([*buffers])], _IN_STORE)

    def receive(self, mark: str) -> Sequence[Any]:
        """As `Carrier.receive`. Raises LookupError if the caller has left."""
        caller = _caller_of(mark)
        with self._condition:
            self._condition.wait_for(lambda: mark in self._pending or caller in self._departed)
            try:
                found = self._in_use[mark] = self._pending.pop(mark)
            except KeyError:
                msg = "the caller has gone before its arguments were there"
                raise LookupError(msg) from None
            return found

    def drop(self, mark: str) -> None:
        """As `Carrier.drop`. Nothing to do: `release` follows."""

    def release(self, mark: str) -> None:
        """As `CallersCarrier.release`."""
        with self._condition:
            holder = self._in_use if mark in self._in_use else self._pending
            if mark in holder:
                self._drop_later(holder.pop(mark))
            elif _caller_of(mark) not in self._departed:
                self._ended_early.add(mark)

    def forget_caller(self, caller: str) -> None:
        """As `CallersCarrier.forget_caller`."""
        with self._condition:
            self._departed[caller] = None
            if len(self._departed) > _MAX_DEPARTED:
                self._departed.popitem(last=False)
            for marked in (self._pending, self._in_use):
                for mark in [mark for mark in marked if _caller_of(mark) == caller]:
                    self._drop_later(marked.pop(mark))
            self._ended_early = {mark for mark in self._ended_early if _caller_of(mark) != caller}
            self._condition.notify_all()

    def _drop_later(self, references: Sequence[Any]) -> None:
        """Drop the references a moment later. The caller holds the condition."""
        delay = random.uniform(*_DROP_DELAY_S)  # noqa: S311 - random, so that it does not coincide with regular calls
        self._to_drop.append((SYSTEM.monotonic() + delay, references))
        if len(self._to_drop) == 1:
            SYSTEM.call_at(self._to_drop[0][0], self._drop_due)

    def _drop_due(self) -> None:
        gone = []
        with self._condition:
            while self._to_drop and self._to_drop[0][0] <= SYSTEM.monotonic():
                gone.append(self._to_drop.popleft())
            if self._to_drop:
                SYSTEM.call_at(self._to_drop[0][0], self._drop_due)
        del gone  # outside the condition, because Ray does work here

    # -- for callers -------------------------------------------------------------------------------------------------

    def deliver(self, mark: str, references: Sequence[Any]) -> None:
        """Store the references that *mark* stands for."""
        with self._condition:
            if mark in self._ended_early or _caller_of(mark) in self._departed:
                self._ended_early.discard(mark)
                self._drop_later(references)
            else:
                self._pending[mark] = references
                self._condition.notify_all()

    def fetch(self, mark: str) -> Sequence[Any]:
        """Return what *mark* stands for, and forget it."""
        with self._condition:
            return self._pending.pop(mark, ())


def _caller_of(mark: str) -> str:
    return mark.partition(":")[0]
