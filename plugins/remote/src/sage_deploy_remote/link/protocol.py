"""
Frames and responses: the plain tuples that travel between a caller and a replica's process.

The caller sends *frames* with calls and notices. Each frame is one exchange: a *response* answers it as soon as there
is something to say, with the replies that are ready, to calls of this frame or of earlier ones.

A caller keeps one exchange open while it has calls in a replica. When another frame arrives, the replica answers the
earlier exchange at once. So a single call takes one exchange, and concurrent calls share exchanges. What the replica
says after a frame has arrived never travels with the response to an earlier frame, so a caller that waits for the
response to its own frame misses nothing.

The replica ends an exchange that has waited long with an empty response, and a living caller sends another. A caller
that has work in a replica but no exchange open for a minute counts as gone, perhaps killed in the middle of a stream,
and the replica gives up its calls. If it was only suspended or cut off, each of its calls gets this answer when it
comes back, so nothing runs twice.

A replica forgets callers that were silent for long and for which it runs nothing. A silent but living caller loses
nothing: its next frame is *fresh*, and may begin at any number. A suspended caller that still expected something is
told that it was forgotten.
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
        id: The caller's number for the call; each item of a batch has its own.
        method: Index of the method.
        payload: The arguments, from `packing.pack_arguments`.
        waited: Seconds since the call was made.
        remaining: Seconds until its deadline, inf for none. A duration, because clocks of two machines differ.
        streams: Whether the answer is a stream of items.
        chain: Slots held until the call is answered, by the calls from within which it was made: pairs of the caller
            and the unit as that replica knows them.
        carried: Short texts by name that travel with the call and with the calls of its method; None for none.
        waits: Whether the calling method waits for the call. A notice says so if it begins later.
        options: The items of `values.CallOptions` where a router takes the call; None for the defaults.
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
    Work that takes one slot: one call, a batch that is answered together, or a bundle.

    The calls of a bundle were sent ahead. They run in turn, and each is answered separately.

    Attributes:
        id: The caller's number for the unit; for a single call, the call's number.
        items: The calls.
        batch: Whether the calls go to the method's batch method.
        reports_starts: Whether the replica reports each start of a bundle's calls beforehand, except the first.
    """

    id: int
    items: tuple[CallItem, ...]
    batch: bool = False
    reports_starts: bool = False


#: `(GIVE_UP, call, outcome, seconds since it was made)`, `(CLOSE, call)`, `(ACK, call, items)`, `(TAKEN_BACK, call)`,
#: `(COUNT, 0, method, seconds until it started, seconds that it ran)` or `(WAITS, call)`.
Notice: TypeAlias = tuple[Any, ...]

GIVE_UP: Final = 0
"""The caller gave the call up: count it, stop its coroutine, do not answer it."""
CLOSE: Final = 1
"""Nobody reads the call's stream any more."""
ACK: Final = 2
"""This many more items of the call's stream were read."""
TAKEN_BACK: Final = 3
"""The caller took back a call of a bundle that the replica had returned: forget it."""
COUNT: Final = 4
"""A call failed with the error of its method, and the replica left the counting to its caller: count it."""
WAITS: Final = 5
"""The method that made the call waits for it from now on."""


class Frame(NamedTuple):
    """
    What a caller sends in one exchange.

    Attributes:
        caller: Identifies the sender, for each process and replica.
        number: Counts from 0 for each caller; the replica takes frames in this order.
        units: Work to do.
        notices: Notices about earlier work or about `units`.
        fresh: Whether nothing is open between the two sides: every earlier frame was answered, every unit has ended,
            and no room is awaited.
    """

    caller: str
    number: int
    units: tuple[Unit, ...]
    notices: tuple[Notice, ...]
    fresh: bool

    def to_plain(self, convert: Callable[[Any], Any] | None = None) -> tuple[Any, ...]:
        """
        Return the frame as plain tuples, which pickle in a sixth of the time of named tuples.

        Args:
            convert: Converts each payload; None leaves payloads unchanged.
        """
        if convert is None:
            units = [(id, [tuple(item) for item in items], *how) for id, items, *how in self.units]
        else:
            units = [
                (id, [(number, method, convert(payload), *rest) for number, method, payload, *rest in items], *how)
                for id, items, *how in self.units
            ]
        return self.caller, self.number, units, self.notices, self.fresh

    @classmethod
    def from_plain(cls, plain: tuple[Any, ...]) -> Frame:
        """Return the frame that `to_plain` converted."""
        caller, number, units, notices, fresh = plain
        made = [Unit(id, tuple(map(CallItem._make, items)), *how) for id, items, *how in units]
        return cls(caller, number, tuple(made), notices, fresh)


#: `(kind, number, ...)`, see the kinds below.
Reply: TypeAlias = tuple[Any, ...]

DONE: Final = 0
"""`(DONE, call, payload, timing)`: the result. *timing*: seconds until the method started, and seconds that it ran."""
FAILED: Final = 1
"""
`(FAILED, call, error, timing, uncounted)`: the method raised. Without *timing* it could not start. *uncounted*: the
caller either retries the call or counts it.
"""
ITEM: Final = 2
"""`(ITEM, call, payload)`: the next item of a stream. The first one also has the seconds until the method started."""
GAVE_UP: Final = 3
"""`(GAVE_UP, call, error, outcome)`: the replica ended the call and counted it. Its method may still run."""
ENDED: Final = 4
"""
`(ENDED, unit, seconds)`: the unit's slot is free; its calls ran for so long in sequence. Not sent if the answer to the
unit's only call says it.
"""
REFUSED: Final = 5
"""
`(REFUSED, unit, stuck)`: the unit did not start, because callers in other processes use all slots. *stuck*: calls of
its own chain hold every slot, so none becomes free before it is answered.
"""
ROOM: Final = 6
"""`(ROOM, number)`: this many refused units may be sent again."""
STARTING: Final = 8
"""`(STARTING, call)`: a call of a unit with `reports_starts` starts next. Calls without this reply have not started."""
RETURNED: Final = 7
"""`(RETURNED, unit, calls)`: calls of a bundle come back unstarted, because the calls before them take long."""


class Response(NamedTuple):
    """
    The answer to an exchange.

    Attributes:
        number: Counts from 0 for each caller. Responses may overtake each other, and are read in this order.
        replies: Those that are ready; may be empty.
    """

    number: int
    replies: list[Reply]
