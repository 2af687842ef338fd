"""
Encodes frames and responses in the cheapest form for Ray: bytes, plus large buffers and references.

Ray passes bytes through unchanged. It pickles everything else in Python, which takes longer than all the work here.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sage_deploy_ray.actors.references import RAY
from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import Frame, Response
from sage_deploy_remote.payloads.substrate import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pickle import PickleBuffer

    from sage_deploy_ray.actors.references import Reference
    from sage_deploy_remote.link.protocol import Reply

__all__ = ["Wire", "read_frame", "read_response", "write_frame", "write_response"]

#: A pickle. If buffers or references were left out of it, a tuple of the pickle and both.
Wire: TypeAlias = "bytes | tuple[bytes, Sequence[Any], Sequence[Reference]]"

#: Buffers of at least this many bytes stay out of the pickle. For smaller ones, Ray's handling costs more than a copy.
_LARGE: Final = 2**14


def write_frame(frame: Frame) -> Wire:
    """Encode *frame* for `read_frame`."""
    return _write(frame.to_plain(), any(item.payload[2] for unit in frame.units for item in unit.items))


def read_frame(wire: Wire) -> Frame:
    """Decode what `write_frame` returned."""
    return Frame.from_plain(_read(wire))


def write_response(response: Response) -> Wire:
    """Encode *response* for `read_response`."""
    return _write(tuple(response), any(map(_refers, response.replies)))


def read_response(wire: Wire) -> Response:
    """Decode what `write_response` returned."""
    return Response(*_read(wire))


def _refers(reply: Reply) -> bool:
    kind = reply[0]
    if kind in {protocol.DONE, protocol.ITEM}:
        return bool(reply[2][2])
    return kind in {protocol.FAILED, protocol.GAVE_UP}  # an error may contain anything


def _write(value: tuple[Any, ...], refers: bool) -> Wire:  # noqa: FBT001 - the caller passes it by position
    """Encode *value*. It contains references only if *refers*: searching for them takes longer than everything else."""
    large: list[PickleBuffer] = []

    def keep(buffer: PickleBuffer) -> bool:
        if buffer.raw().nbytes < _LARGE:
            return True
        large.append(buffer)
        return False

    found: Sequence[Reference] = ()
    if refers:
        data, found = dumps(value, keep, RAY.references)
    else:
        data = pickle.dumps(value, 5, buffer_callback=keep)
    return (data, large, found) if large or found else data


def _read(wire: Wire) -> Any:
    return loads(wire, (), ()) if isinstance(wire, bytes) else loads(*wire)
