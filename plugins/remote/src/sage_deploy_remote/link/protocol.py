"""
What travels between a caller's side of a replica and the process in which that runs: plain tuples.

The caller's side sends *frames*: calls and notices. Each frame is one exchange: it is answered, once there is something
to say, by a *response* with the replies that are ready, to calls of this frame or of earlier ones. As long as a caller
has calls in a replica it keeps an exchange there; when another arrives, the one before is answered at once. So a call
alone takes one exchange, and many at once share them. What is said after a frame has arrived never comes with a
response to an earlier one: a caller who waits for the response to its own frame misses nothing.

An exchange that has waited long is answered with an empty response; a caller that lives sends another. So one that has
something in a replica and keeps no exchange there for a minute is gone, though nobody says so: it was killed in the
middle of a stream, for example. What it has there is given up. If it stood still, or was cut off, it finds that as the
answer to each of its calls when it comes back: nothing runs twice.

A replica forgets callers of which it has not heard for long and for which it does nothing: most of them are gone. One
that was only quiet has nothing to lose by that. Its next frame is *fresh*, and with such a frame a caller can begin at
any number. One that had expected something, because it stood still for all that time, is told that it was forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ACK",
    "CLOSE",
    "COUNT",
    "DONE",
    "ENDED",
    "FAILED",
    "GAVE_UP",
    "GIVE_UP",
    "ITEM",
    "REFUSED",
    "RETURNED",
    "ROOM",
    "STARTING",
    "TAKEN_BACK",
    "WAITS",
    "CallItem",
    "Frame",
    "Notice",
    "Reply",
    "Response",
    "Unit",
]


class CallItem(NamedTuple):
    """
    One call in a frame.

    Attributes:
        id: The caller's number for it; an item of a batch has one too.
        method: Index of the method.
        payload: Its arguments, as `packing.pack_arguments` gives them.
        waited: Seconds since it was made.
        remaining: Seconds until its deadline, inf for none. A duration, because clocks of two machines differ.
        streams: Whether its answer is a stream of items.
        chain: The slots that are held until it is answered, by the calls from within which it was made: for each the
            caller and the unit as they are in its replica.
        carried: Short texts by name that go along with it, and with the calls that its method makes; None for none.
        waits: Whether the method that has made it waits for it; one that begins later says so.
        options: What `values.CallOptions` consists of, where a router takes the call; None for the usual ones.
    """

    id: int
    method: int
    payload: Any
    waited: float
    remaining: float
    streams: bool = False
    chain: tuple[tuple[str, int], ...] = ()
    carried: dict[str, str] | None = None
    waits: bool = False
    options: tuple[Any, ...] | None = None


class Unit(NamedTuple):
    """
    What takes one slot: a call, several that are answered together, or several that run one after the other.

    The last kind is a bundle: calls that were sent ahead. Each is answered on its own.

    Attributes:
        id: The caller's number for it; that of the call, if it is one.
        items: The calls.
        batch: Whether they go to the method's batch method.
        told: Of a bundle: whether to say of each call but the first, before it starts, that it does.
    """

    id: int
    items: tuple[CallItem, ...]
    batch: bool = False
    told: bool = False


#: `(GIVE_UP, call, outcome, seconds since it was made)`, `(CLOSE, call)`, `(ACK, call, items)`, `(TAKEN_BACK, call)`,
#: `(COUNT, 0, method, seconds until it started, seconds that it ran)` or `(WAITS, call)`.
Notice: TypeAlias = tuple[Any, ...]

GIVE_UP: Final = 0
"""The caller gave the call up: count it, stop its coroutine, forget its answer."""
CLOSE: Final = 1
"""Nobody reads the call's stream any more."""
ACK: Final = 2
"""So many more items of the call's stream have been read."""
TAKEN_BACK: Final = 3
"""A call of a bundle that the replica has returned is no concern of its any more."""
COUNT: Final = 4
"""A call ends with what its method raised, which the replica has left to its caller: count it."""
WAITS: Final = 5
"""The method that has made the call waits for it from now on."""


class Frame(NamedTuple):
    """
    What a caller's side says in one exchange.

    Attributes:
        caller: Who; one for each process and replica.
        number: From 0, by caller: frames are taken in this order.
        units: Work to be done.
        notices: About earlier work, or that in `units`.
        fresh: Whether there was nothing between the two sides before it: every earlier frame has been answered, every
            unit has ended, and no room is awaited.
    """

    caller: str
    number: int
    units: tuple[Unit, ...]
    notices: tuple[Notice, ...]
    fresh: bool

    def plain(self, written: Callable[[Any], Any] | None = None) -> tuple[Any, ...]:
        """The frame as plain tuples, which are pickled in a sixth of the time of named ones; payloads as *written*."""
        if written is None:
            units = [(id, [tuple(item) for item in items], *how) for id, items, *how in self.units]
        else:
            units = [
                (id, [(number, method, written(payload), *rest) for number, method, payload, *rest in items], *how)
                for id, items, *how in self.units
            ]
        return self.caller, self.number, units, self.notices, self.fresh

    @classmethod
    def of(cls, plain: tuple[Any, ...]) -> Frame:
        """The frame that `plain` has given."""
        caller, number, units, notices, fresh = plain
        made = [Unit(id, tuple(map(CallItem._make, items)), *how) for id, items, *how in units]
        return cls(caller, number, tuple(made), notices, fresh)


#: `(kind, number, ...)`, see the kinds.
Reply: TypeAlias = tuple[Any, ...]

DONE: Final = 0
"""`(DONE, call, payload, timing)`: the method gave a result; *timing*: seconds until it started, and that it ran."""
FAILED: Final = 1
"""
`(FAILED, call, error, timing, uncounted)`: the method raised; without *timing* it could not start. *uncounted*: the
caller may try the call again, or counts it.
"""
ITEM: Final = 2
"""`(ITEM, call, payload)`: the next item of a stream; the first is followed by the seconds until the method started."""
GAVE_UP: Final = 3
"""`(GAVE_UP, call, error, outcome)`: the replica ended the call, and has counted it; its method may run on."""
ENDED: Final = 4
"""`(ENDED, unit, seconds)`: its slot is free, where that does not follow from the answer to its only call; how long
its calls ran, one after the other."""
REFUSED: Final = 5
"""
`(REFUSED, unit, stuck)`: there was no slot for it, because other processes use the replica as well; it did not start.
*stuck*: every slot is held by a call of its own chain, so none gets free before it is answered.
"""
ROOM: Final = 6
"""`(ROOM, number)`: so many of the slots whose units were refused may be tried again."""
STARTING: Final = 8
"""`(STARTING, call)`: a call of a bundle is about to start. Of those of which it was not said none has."""
RETURNED: Final = 7
"""`(RETURNED, unit, calls)`: calls of a bundle that have not started, because those before them take long."""


class Response(NamedTuple):
    """
    The answer to an exchange.

    Attributes:
        number: From 0, by caller: responses may overtake each other, and are read in this order.
        replies: What there is to say; may be empty.
    """

    number: int
    replies: list[Reply]
