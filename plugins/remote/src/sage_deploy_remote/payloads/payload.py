"""The payload type: a value in the form in which it travels; and unpacking it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from sage_deploy_remote.payloads.substrate import loads

__all__ = ["Payload", "is_quick", "unpack"]

#: A pickle, its out-of-band buffers, and the substrate's references that it leaves out. Writing it with pickle protocol
#: 5 need not copy the buffers. Only the transport of the references' substrate can carry them.
Payload: TypeAlias = tuple[bytes, Sequence[Any], Sequence[Any]]

#: Limit for a pickle that is unpacked at once, in bytes.
_QUICK: Final = 2**16
#: The opcodes by which a pickle of protocol 5 names a class or function.
_NAMES: Final = b"\x93\x82\x83\x84"
_EACH_NAME: Final = tuple(_NAMES[at : at + 1] for at in range(len(_NAMES)))
#: Up to this many bytes, one pass that copies is faster than four searches.
_SHORT: Final = 512


def is_quick(payload: Payload) -> bool:
    """Whether unpacking *payload* takes no time and runs no code of its classes; False if that is not certain."""
    data, buffers, references = payload
    size = len(data)
    if buffers or references or size > _QUICK:
        return False
    if size <= _SHORT and type(data) is bytes:
        return len(data.translate(None, _NAMES)) == size
    return not any(name in data for name in _EACH_NAME)


def unpack(payload: Payload) -> Any:
    """
    Return the value in *payload*.

    Raises:
        ImportError, AttributeError: Its class or function does not exist here; a note says what to do.
        Exception: Any error that the value's code raises.
    """
    try:
        return loads(*payload)
    except (ImportError, AttributeError) as error:
        _explain(error)
        raise


def _explain(error: ImportError | AttributeError) -> None:
    """Add a note to pickle's error: why a class may be missing here, and what to do."""
    if isinstance(error, ImportError):
        error.add_note(
            f"A value from another process needs {error.name or 'a module'}, which cannot be imported here. Install it "
            "in both places, or send and return plain data."
        )
    elif str(error).startswith("Can't get attribute"):  # raised by pickle; other texts come from the value's own code
        error.add_note(
            "A value from another process needs it, and the module of that name here does not have it. Run the same "
            "version in both places."
        )
