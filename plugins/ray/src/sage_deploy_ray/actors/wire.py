"""
Frames and responses as Ray carries them at the least cost: bytes, with large buffers and references beside them.

Ray passes bytes on as they are, and pickles everything else with a pickler in Python, which takes longer than all that
is done here.
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

#: A pickle, with the buffers and references that were left out of it if there are any.
Wire: TypeAlias = "bytes | tuple[bytes, Sequence[Any], Sequence[Reference]]"

#: Bytes of a buffer from which on it is not copied into the pickle; what Ray does with the others costs more.
_LARGE: Final = 2**14


def write_frame(frame: Frame) -> Wire:
    """*frame*, to be read by `read_frame`."""
    return _write(frame.plain(), any(item.payload[2] for unit in frame.units for item in unit.items))


def read_frame(wire: Wire) -> Frame:
    """The frame of `write_frame`."""
    return Frame.of(_read(wire))


def write_response(response: Response) -> Wire:
    """*response*, to be read by `read_response`."""
    return _write(tuple(response), any(map(_refers, response.replies)))


def read_response(wire: Wire) -> Response:
    """The response of `write_response`."""
    return Response(*_read(wire))


def _refers(reply: Reply) -> bool:
    """Whether there may be references in *reply*."""
    kind = reply[0]
    if kind in {protocol.DONE, protocol.ITEM}:
        return bool(reply[2][2])
    return kind in {protocol.FAILED, protocol.GAVE_UP}  # an error may have anything in it


def _write(value: tuple[Any, ...], refers: bool) -> Wire:  # noqa: FBT001 - as it was found
    """*value*, in which there are references only if *refers*: looking for them takes longer than all else."""
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
