"""References to objects in Ray's store that belong to messages of a socket: Ray carries them, in tasks of their own."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_deploy_remote.link.rpc_transport import RpcTransport

__all__ = ["ActorFerry", "CallerFerry"]

#: Callers that are remembered after they have gone: what they brought last may still be on its way.
_GONE: Final = 1000


class CallerFerry:
    """The caller's end: sends with a task of the actor, and fetches with one. As `luggage.Ferry`."""

    def __init__(self, transport: RpcTransport) -> None:
        """Use the actor to which *transport* leads."""
        self._transport = transport

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """As `Ferry.send`."""
        mark = _new_mark(caller)
        self._transport.request("bring", mark, [*references])
        return mark

    def receive(self, mark: str) -> Sequence[Any]:
        """As `Ferry.receive`; raises what calls of a replica that died get."""
        answer = self._transport.request("fetch", mark)
        error = answer.exception()
        if error is not None:
            raise self._transport.death(error)
        found: Sequence[Any] = answer.result()
        return found

    def drop(self, mark: str) -> None:
        """As `Ferry.drop`."""
        self._transport.request("fetch", mark)


class ActorFerry:
    """The actor's end: keeps what was brought, and what is to be fetched. As `pushing.CallersFerry`."""

    def __init__(self) -> None:
        """Nothing is on its way."""
        self._brought = threading.Condition()
        self._kept: dict[str, Sequence[Any]] = {}  # by mark; guarded by _brought, as the next two
        self._unwanted: set[str] = set()  # marks of what is still to come
        self._gone: OrderedDict[str, None] = OrderedDict()  # callers, the oldest first

    # -- for the server ----------------------------------------------------------------------------------------------

    def send(self, caller: str, references: Sequence[Any]) -> str:
        """As `Ferry.send`."""
        mark = _new_mark(caller)
        with self._brought:
            self._kept[mark] = references
        return mark

    def receive(self, mark: str) -> Sequence[Any]:
        """As `Ferry.receive`; raises LookupError if the caller has gone."""
        caller = _caller_of(mark)
        with self._brought:
            self._brought.wait_for(lambda: mark in self._kept or caller in self._gone)
            try:
                return self._kept.pop(mark)
            except KeyError:
                msg = "the caller has gone before its arguments were there"
                raise LookupError(msg) from None

    def drop(self, mark: str) -> None:
        """As `Ferry.drop`."""
        with self._brought:
            if self._kept.pop(mark, None) is None and _caller_of(mark) not in self._gone:
                self._unwanted.add(mark)

    def leave(self, caller: str) -> None:
        """As `CallersFerry.leave`."""
        with self._brought:
            self._gone[caller] = None
            if len(self._gone) > _GONE:
                self._gone.popitem(last=False)
            self._kept = {mark: kept for mark, kept in self._kept.items() if _caller_of(mark) != caller}
            self._unwanted = {mark for mark in self._unwanted if _caller_of(mark) != caller}
            self._brought.notify_all()

    # -- for callers -------------------------------------------------------------------------------------------------

    def bring(self, mark: str, references: Sequence[Any]) -> None:
        """What *mark* stands for has come."""
        with self._brought:
            if mark in self._unwanted:
                self._unwanted.discard(mark)
            elif _caller_of(mark) not in self._gone:
                self._kept[mark] = references
                self._brought.notify_all()

    def fetch(self, mark: str) -> Sequence[Any]:
        """What *mark* stands for, once."""
        with self._brought:
            return self._kept.pop(mark, ())


def _new_mark(caller: str) -> str:
    return f"{caller}:{uuid4().hex}"


def _caller_of(mark: str) -> str:
    return mark.partition(":")[0]
