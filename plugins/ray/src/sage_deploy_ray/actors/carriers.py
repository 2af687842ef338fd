"""
What belongs to a message of a socket, and Ray carries: references to objects in its store, and large buffers.

In the store a buffer lies in memory that the processes of a node share, so it is copied once; over a socket it is
copied twice. A task costs half a millisecond, so smaller ones go over the socket.
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

#: Callers that are remembered after they have gone: what they brought last may still be on its way.
_GONE: Final = 1000

#: Seconds for which an actor keeps references that are needed no more, see `ActorCarrier`; at least and at most.
_KEPT_S: Final = (0.05, 0.15)


#: Bytes of buffers from which on the store is faster.
_LARGE: Final = 2**25

#: What marks of buffers that an actor sends have in them.
_STORED: Final = ":stored-"


class CallerCarrier:
    """The caller's end: sends with a task of the actor, and fetches with one. As `attachments.Carrier`."""

    large: float = _LARGE

    def __init__(self, transport: RpcTransport) -> None:
        """Use the actor to which *transport* leads."""
        self._transport = transport

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """As `Carrier.send`."""
        mark = f"{caller}:{uuid4().hex}"
        self._transport.request("bring", mark, [*references])
        return mark

    send_buffers = send

    def receive(self, mark: str) -> Sequence[Any]:
        """As `Carrier.receive`; raises what calls of a replica that died get."""
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
    The actor's end: keeps what was brought until its call is over, and what is to be fetched. As `CallersCarrier`.

    A reference that comes again at the very moment in which it is let go of is never resolved in this process: Ray
    then forgets what it has just learnt of the object (seen with Ray 2.60). One caller that passes the same reference
    again and again would come to that within a second; so each is kept for a moment longer.
    """

    large: float = _LARGE

    def __init__(self) -> None:
        """Nothing is on its way."""
        self._brought = threading.Condition()
        self._kept: dict[str, Sequence[Any]] = {}  # by mark; guarded by _brought, as all that follows
        self._used: dict[str, Sequence[Any]] = {}  # by mark, of calls that are not over
        self._over: set[str] = set()  # marks of calls that are over, and whose references have not come yet
        self._gone: OrderedDict[str, None] = OrderedDict()  # callers, the oldest first
        self._leaving: deque[tuple[float, Sequence[Any]]] = deque()  # until when

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
        """As `Carrier.receive`; raises LookupError if the caller has gone."""
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
        """As `Carrier.drop`: `end` says so, too."""

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
        """Let go of them in a moment; with the condition."""
        delay = random.uniform(*_KEPT_S)  # noqa: S311 - so that it falls together with nothing that is regular
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
        del gone  # without the condition: Ray has to do then

    # -- for callers -------------------------------------------------------------------------------------------------

    def bring(self, mark: str, references: Sequence[Any]) -> None:
        """What *mark* stands for has come."""
        with self._brought:
            if mark in self._over or _caller_of(mark) in self._gone:
                self._over.discard(mark)
                self._let_go(references)
            else:
                self._kept[mark] = references
                self._brought.notify_all()

    def fetch(self, mark: str) -> Sequence[Any]:
        """What *mark* stands for, once."""
        with self._brought:
            return self._kept.pop(mark, ())


def _caller_of(mark: str) -> str:
    return mark.partition(":")[0]
