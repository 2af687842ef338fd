"""The payload: a value as it travels, and the way back to the value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from sage_deploy_remote.payloads.substrate import loads

__all__ = ["Payload", "is_quick", "unpack"]

#: A pickle, the buffers that it leaves out, and the substrate's references that it leaves out. Whoever writes it with
#: pickle protocol 5 need not copy the buffers. Only the transport of the references' substrate can carry them.
Payload: TypeAlias = tuple[bytes, Sequence[Any], Sequence[Any]]

#: Bytes of a pickle that is read at once.
_QUICK: Final = 2**16
#: What a pickle begins with where it names a class or function: each way that protocol 5 has.
_NAMES: Final = b"\x93\x82\x83\x84"
_EACH_NAME: Final = tuple(_NAMES[at : at + 1] for at in range(len(_NAMES)))
#: Bytes up to which one pass that copies is quicker than four that search.
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
    The value in *payload*.

    Raises:
        ImportError, AttributeError: Its class or function is not to be found here; a note says what to do.
        Exception: Whatever the value raises while it is put together.
    """
    try:
        return loads(*payload)
    except (ImportError, AttributeError) as error:
        _explain(error)
        raise


def _explain(error: ImportError | AttributeError) -> None:
    """Add to what pickle says why a class may be missing here, and what to do."""
    if isinstance(error, ImportError):
        error.add_note(
            f"A value from another process needs {error.name or 'a module'}, which cannot be imported here. Install it "
            "in both places, or send and return plain data."
        )
    elif str(error).startswith("Can't get attribute"):  # pickle's own; else the value's code raised it
        error.add_note(
            "A value from another process needs it, and the module of that name here does not have it. Run the same "
            "version in both places."
        )
