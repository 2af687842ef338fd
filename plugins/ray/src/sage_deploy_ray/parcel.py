"""
Values that leave a process, and come in.

Any thread may pack and unpack. A value is read when it is packed, but for buffers, such as the numbers of an array:
they are only referred to, and read when the parcel is written to wherever it goes. References to objects of Ray's stay
references: Ray carries them.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, TypeAlias

from sage_deploy_ray import references
from sage_plugins.errors import ResultNotSerializableError, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pickle import PickleBuffer

__all__ = ["Parcel", "pack", "pack_arguments", "pack_result", "unpack", "write"]

#: A pickle, the buffers that it leaves out, and the references; whoever writes it with pickle protocol 5 need not copy
#: the buffers, and has the references carried by Ray.
Parcel: TypeAlias = "tuple[bytes, Sequence[Any], Sequence[references.Reference]]"

#: Values of exactly these types have nothing that a parcel leaves out, and no class or function that is elsewhere. Most
#: arguments and results are such, and the pickler that looks for those things takes four times as long.
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})

#: How a pickle names the module which is another one in every process; few other pickles have it.
_MAIN = b"\x8c\x08__main__"


def pack(value: Any) -> Parcel:
    """
    *value* as a parcel, which any process of the deployment can unpack.

    Raises:
        TypeError: It cannot be pickled; the message has the path to the part that cannot.
    """
    try:
        return write(value)
    except Exception as error:
        from sage_deploy_ray.unpicklable import describe

        raise TypeError(f"a value cannot be sent to another process: {describe(value, 'value', error)}") from error


def write(value: Any) -> Parcel:
    """
    As `pack`, for those who say themselves what was wrong.

    Raises:
        Exception: Whatever pickling the value raises.
    """
    if type(value) in _PLAIN:
        return pickle.dumps(value, 5), (), ()
    buffers: list[PickleBuffer] = []
    try:
        data, found = references.dumps(value, buffers.append)
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything; cloudpickle can more, or says why not
        return _write_with_code(value)
    if _MAIN in data:
        return _write_with_code(value)
    return data, buffers, found


def unpack(parcel: Parcel) -> Any:
    """
    The value in *parcel*.

    Raises:
        ImportError, AttributeError: Its class or function is not to be found here; a note says what to do.
        Exception: Whatever the value raises while it is put together.
    """
    try:
        return references.loads(*parcel)
    except (ImportError, AttributeError) as error:
        _explain(error)
        raise


def pack_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any], *, service: str, method: str) -> Parcel:
    """
    The arguments of a call as a parcel of `(args, kwargs)`.

    Raises:
        TypeError: One of them cannot be pickled; the message has the path to the part that cannot.
    """
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        return pickle.dumps((args, kwargs), 5), (), ()
    try:
        return write((args, kwargs))
    except Exception as error:
        raise TypeError(_about_argument(args, kwargs, f"{service}.{method}", error)) from error


def pack_result(value: Any, *, service: str, method: str, replica: str | None, node: str | None) -> Parcel:
    """
    The result of a call as a parcel.

    Raises:
        ResultNotSerializableError: It cannot be pickled; the message has its type and the path to the part that cannot.
    """
    try:
        return write(value)
    except Exception as error:
        from sage_deploy_ray.unpicklable import describe

        on = f" on {node}" if node else ""
        who = f"{service}.{method} (replica {replica}{on})" if replica else f"{service}.{method}"
        msg = (
            f"{who} returned a {type(value).__qualname__}, which cannot be sent to its caller: "
            f"{describe(value, 'result', error)}. Return plain data instead"
        )
        raise ResultNotSerializableError(msg, service=service, method=method, replica=replica, node=node) from error


def _write_with_code(value: Any) -> Parcel:
    # Late: it takes Ray's cloudpickle, and most values need none.
    from sage_deploy_ray import by_value

    return by_value.dumps(value)


def _about_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], called: str, error: Exception) -> str:
    """Which argument of a call could not be pickled, and why."""
    from sage_deploy_ray.unpicklable import describe

    named = [(f"argument {index} of {called}", value) for index, value in enumerate(args, 1)]
    named += [(f"argument {name!r} of {called}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            write(value)
        except Exception as its_own:  # noqa: BLE001 - as in write
            return (
                f"{name} cannot be sent to the replica: {describe(value, 'argument', its_own)}. Send plain data instead"
            )
    return f"the arguments of {called} cannot be sent to the replica: {line_of(error)}. Send plain data instead"


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
