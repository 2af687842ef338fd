"""
Packs values that leave a process as payloads.

Any thread may pack and unpack. Packing reads the value, except for buffers such as the numbers of an array: a payload
only refers to them, and they are read when the payload is written out. References to objects in a substrate's store
stay references, which the substrate's transport carries.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.payloads.substrate import PLAIN, dumps
from sage_plugins.errors import ResultNotSerializableError, line_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pickle import PickleBuffer

    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["is_plain", "pack", "pack_arguments", "pack_result", "write"]

#: Values of exactly these types refer to no buffers, references, classes or functions. Most arguments and results are
#: of them, and the pickler that looks for such things takes four times as long.
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})

#: Number of parts of arguments to check, and longest text, before packing counts as possibly slow.
_MOST: Final = 1000
_LONGEST: Final = 2**16

#: How a pickle names `__main__`, which is a different module in every process; few other pickles contain these bytes.
_MAIN = b"\x8c\x08__main__"


def is_plain(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether packing the arguments runs none of their code and takes no time; False if that is not certain."""
    waiting: list[Any] = [*args, *kwargs.values()]
    for looked_at, value in enumerate(waiting):  # the list grows
        kind = type(value)
        if kind in {list, tuple, set}:
            waiting += value
        elif kind is dict:
            waiting += value
            waiting += value.values()
        elif kind not in _PLAIN or (kind in {str, bytes} and len(value) > _LONGEST):
            return False
        if looked_at == _MOST:
            return False
    return True


def pack(value: Any, substrate: Substrate = PLAIN) -> Payload:
    """
    Return *value* as a payload, which any process of the deployment can unpack.

    Raises:
        TypeError: It cannot be pickled; the message has the path to the part that cannot.
    """
    try:
        return write(value, substrate)
    except Exception as error:
        from sage_deploy_remote.payloads.unpicklable import describe

        what = describe(value, "value", error, substrate)
        raise TypeError(f"a value cannot be sent to another process: {what}") from error


def write(value: Any, substrate: Substrate = PLAIN) -> Payload:
    """
    As `pack`, for callers that describe errors themselves.

    Raises:
        Exception: The error that pickling the value raises.
    """
    if type(value) in _PLAIN:
        return pickle.dumps(value, 5), (), ()
    buffers: list[PickleBuffer] = []
    try:
        data, found = dumps(value, buffers.append, substrate.references)
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything; cloudpickle pickles more, or explains
        return _write_with_code(value, substrate)
    if _MAIN in data:
        return _write_with_code(value, substrate)
    return data, buffers, found


def pack_arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], *, service: str, method: str, substrate: Substrate = PLAIN
) -> Payload:
    """
    Return the arguments of a call as a payload of `(args, kwargs)`.

    Raises:
        TypeError: One of them cannot be pickled; the message has the path to the part that cannot.
    """
    if not kwargs and _PLAIN.issuperset(map(type, args)):
        return pickle.dumps((args, kwargs), 5), (), ()
    try:
        return write((args, kwargs), substrate)
    except Exception as error:
        raise TypeError(_about_argument(args, kwargs, f"{service}.{method}", error, substrate)) from error


def pack_result(  # noqa: PLR0913 - the names are for the error
    value: Any,
    *,
    service: str,
    method: str,
    replica: str | None,
    node: str | None,
    substrate: Substrate = PLAIN,
) -> Payload:
    """
    Return the result of a call as a payload.

    Raises:
        ResultNotSerializableError: It cannot be pickled; the message has its type and the path to the part that cannot.
    """
    try:
        return write(value, substrate)
    except Exception as error:
        from sage_deploy_remote.payloads.unpicklable import describe

        on = f" on {node}" if node else ""
        who = f"{service}.{method} (replica {replica}{on})" if replica else f"{service}.{method}"
        msg = (
            f"{who} returned a {type(value).__qualname__}, which cannot be sent to its caller: "
            f"{describe(value, 'result', error, substrate)}. Return plain data instead"
        )
        raise ResultNotSerializableError(msg, service=service, method=method, replica=replica, node=node) from error


def _write_with_code(value: Any, substrate: Substrate) -> Payload:
    # Imported late: it needs cloudpickle, and most values do not.
    from sage_deploy_remote.payloads import code

    return code.dumps(value, substrate=substrate)


def _about_argument(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], called: str, error: Exception, substrate: Substrate
) -> str:
    """Say which argument of a call could not be pickled, and why."""
    from sage_deploy_remote.payloads.unpicklable import describe

    named = [(f"argument {index} of {called}", value) for index, value in enumerate(args, 1)]
    named += [(f"argument {name!r} of {called}", value) for name, value in kwargs.items()]
    for name, value in named:
        try:
            write(value, substrate)
        except Exception as its_own:  # noqa: BLE001 - as in write
            what = describe(value, "argument", its_own, substrate)
            return f"{name} cannot be sent to the replica: {what}. Send plain data instead"
    return f"the arguments of {called} cannot be sent to the replica: {line_of(error)}. Send plain data instead"
