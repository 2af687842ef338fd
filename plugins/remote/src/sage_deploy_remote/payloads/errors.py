"""
Packs exceptions that leave a process, and unpacks them.

An exception travels as itself if a test copy, made where it is packed, matches it. Otherwise its caller gets a
`RemoteError` with the type's name, the message and the traceback. The same holds for each cause, context and group
member. `pack_error` and `unpack_error` never raise, whatever the exception does. Any thread may call them.
"""

from __future__ import annotations

import re
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sage_deploy_remote.payloads.packing import write
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.payloads.substrate import PLAIN
from sage_deploy_remote.payloads.unpicklable import describe
from sage_plugins.errors import RemoteError, rebuild, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["LONGEST_TEXT", "PackedError", "pack_error", "unpack_error", "with_payloads"]

#: Limit for an exception's text, in characters; a message may quote large data.
LONGEST_TEXT: Final = 2**16
#: Limit for the number of exceptions in a chain, including group members.
_MOST_EXCEPTIONS: Final = 1000
#: Exceptions that would end the caller's process or close its generator.
_ENDS_THE_CALLER: Final = (SystemExit, KeyboardInterrupt, GeneratorExit)
#: Types whose values are compared by equality. Comparing others may run any code.
_PLAIN: Final = (str, bytes, int, float, bool, type(None))
#: The memory address in an object's repr.
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
#: Modules whose traceback frames belong to the deployment, which calls the method.
_DEPLOYMENT_MODULES: Final = re.compile(r"(sage_plugins|sage_deploy_\w+|ray)(\.|$)")


class _Origin(NamedTuple):
    service: str
    method: str
    replica: str | None
    node: str | None

    def __str__(self) -> str:
        return " on ".join(filter(None, (f"replica {self.replica}" if self.replica else "", self.node)))


class _PackedException(NamedTuple):
    """One exception of a chain. It refers to others by their position in the list, -1 for none."""

    type_name: str
    message: str
    payload: Payload | None = None
    """The exception, or the parts to rebuild it; None if it cannot travel."""
    why: str = ""
    """Why it cannot travel."""
    lines: str = ""
    """Where it was raised, as in a printed traceback."""
    cause: int = -1
    context: int = -1
    suppress_context: bool = False
    members: tuple[int, ...] = ()


#: The result of `pack_error`: plain tuples, texts and bytes. The first item is the exception itself.
PackedError: TypeAlias = "tuple[_Origin, tuple[_PackedException, ...]]"


class _CopyDiffers(Exception):  # noqa: N818 - a reason, caught in this module
    """The copy does not match the exception."""


def pack_error(  # noqa: PLR0913 - the names are for the message
    error: BaseException,
    *,
    service: str,
    method: str,
    replica: str | None,
    node: str | None,
    substrate: Substrate = PLAIN,
) -> PackedError:
    """
    Pack an exception for `unpack_error` in another process; never raises.

    Args:
        error: The exception.
        service: Name of the service that raised it.
        method: Name of the method that raised it.
        replica: The replica's ID, such as `"kv#0"`.
        node: Its node's name.
        substrate: Carries the packed exception.
    """
    origin = _Origin(service, method, replica, node)
    try:
        return origin, _pack_chain(error, substrate)
    except BaseException as raised:  # noqa: BLE001 - the exception's own code may raise anything, even SystemExit
        return origin, (_PackedException(type(error).__name__, "", why=f"looking at it raised {text_of(raised)}"),)


def unpack_error(packed: PackedError) -> BaseException:
    """
    Return the exception that was packed, or a `RemoteError` that describes it; never raises.

    Its notes, causes, contexts and members are unpacked too. A note on each says where it was raised.
    """
    origin, exceptions = packed
    try:
        return _unpack_chain(origin, exceptions)
    except BaseException as raised:  # noqa: BLE001 - groups may be nested too deeply, and a class may raise anything
        return _remote_error(exceptions[0], origin, f"unpacking it here raised {text_of(raised)}")


def with_payloads(packed: PackedError, change: Callable[[Payload], Any]) -> PackedError:
    """Return *packed* with each of its payloads changed by *change*."""
    origin, exceptions = packed
    return origin, tuple(
        one if one.payload is None else one._replace(payload=change(one.payload)) for one in exceptions
    )


# -- packing ---------------------------------------------------------------------------------------------------------


def _pack_chain(error: BaseException, substrate: Substrate) -> tuple[_PackedException, ...]:
    errors = [error]
    positions = {id(error): 0}

    def position(other: BaseException | None) -> int:
        if other is None:
            return -1
        if id(other) not in positions:
            if len(errors) == _MOST_EXCEPTIONS:
                return -1
            positions[id(other)] = len(errors)
            errors.append(other)
        return positions[id(other)]

    exceptions: list[_PackedException] = []
    for each in errors:  # grows
        one = _pack_exception(each, substrate)
        if isinstance(each, BaseExceptionGroup):
            members = tuple(map(position, each.exceptions))
            if -1 in members:
                one = one._replace(payload=None, why=f"it has too many members: {_MOST_EXCEPTIONS} travel at most")
            else:
                one = one._replace(members=members)
        exceptions.append(one._replace(cause=position(each.__cause__), context=position(each.__context__)))
    return tuple(exceptions)


def _pack_exception(error: BaseException, substrate: Substrate) -> _PackedException:
    """Pack *error* without its cause, context and members."""
    cls = type(error)
    payload: Payload | None = None
    why = ""
    try:
        payload = _payload_of(error, substrate)
    except _CopyDiffers as differs:
        why = str(differs)
    except BaseException as raised:  # noqa: BLE001 - a user's exception may do anything
        why = _short(describe(error, "error", raised, substrate))
    return _PackedException(
        payload=payload,
        type_name=f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins."),
        message=_short(_text(error)),
        lines=_traceback_text(error.__traceback__),
        why=why,
        suppress_context=error.__suppress_context__,
    )


def _payload_of(error: BaseException, substrate: Substrate) -> Payload:
    """
    Return the exception as its class pickles it, or else as its parts. Members of a group are left out.

    Raises:
        BaseException: Neither way gives a matching copy.
    """
    cls = type(error)
    if isinstance(error, _ENDS_THE_CALLER):
        raise _CopyDiffers("it would end its caller")
    if isinstance(error, BaseExceptionGroup):
        return _checked_payload(
            (_rebuild_group, cls, (error.message,), error.__dict__), error, (error.message,), substrate
        )
    args = tuple(_short(each) for each in error.args)
    whole = all(map(_same, args, error.args))
    ways: list[tuple[Any, ...]] = [(None, error) if whole else (_call, cls, args, error.__dict__)]
    # Rebuilt without `__init__`, whose parameters may differ from `args`.
    ways.append((rebuild, cls, args, error.__dict__))
    reasons: list[BaseException] = []
    for way in ways:
        try:
            return _checked_payload(way, error, args, substrate)
        except BaseException as raised:  # noqa: BLE001 - raised by the class; the other way may work
            reasons.append(raised)
    raise reasons[0]


def _checked_payload(
    packed: tuple[Any, ...], error: BaseException, args: tuple[Any, ...], substrate: Substrate
) -> Payload:
    """Return *packed* as a payload, after checking that it unpacks here to an exception like *error*, with *args*."""
    payload = write(packed, substrate)
    copy = _open(payload, [RuntimeError()])
    if type(copy) is not type(error):
        raise _CopyDiffers(f"its copy is a {type(copy).__qualname__}")
    if isinstance(copy, BaseExceptionGroup):
        return payload
    if len(copy.args) != len(args) or not all(map(_alike, copy.args, args)):
        raise _CopyDiffers("its copy has other arguments")
    if copy.__dict__.keys() != error.__dict__.keys():
        raise _CopyDiffers("its copy has other attributes")
    if all(map(_same, args, error.args)) and _text_without_addresses(copy) != _text_without_addresses(error):
        raise _CopyDiffers("its copy has another text")
    return payload


def _alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (type(one) not in _PLAIN or one == other or one != one)  # noqa: PLR0124 - nan


def _text_without_addresses(error: BaseException) -> str:
    return _ADDRESS.sub("", _text(error))


def _same(one: Any, other: Any) -> bool:
    return one is other


def _traceback_text(where: TracebackType | None) -> str:
    """Format the frames of a traceback, without those in which the deployment called the method."""
    try:
        while (
            where is not None
            and where.tb_next is not None
            and _DEPLOYMENT_MODULES.match(where.tb_frame.f_globals["__name__"])
        ):
            where = where.tb_next
        return _cut_start("".join(traceback.format_tb(where)))
    except BaseException:  # noqa: BLE001 - the source may be missing, or its loader may raise
        return ""


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a user's __str__ may do anything
        return "<its text cannot be read>"


def _short(value: Any) -> Any:
    if not isinstance(value, (str, bytes)) or len(value) <= LONGEST_TEXT:
        return value
    if isinstance(value, str):
        mark = f"... [cut: {len(value)} characters in all]"
        return value[: LONGEST_TEXT - len(mark)] + mark
    return value[:LONGEST_TEXT]


def _cut_start(text: str) -> str:
    """Cut the start of a long traceback: its end shows where the exception was raised."""
    return text if len(text) <= LONGEST_TEXT else "  ...\n" + text[6 - LONGEST_TEXT :]


# -- unpacking -------------------------------------------------------------------------------------------------------


def _unpack_chain(origin: _Origin, exceptions: Sequence[_PackedException]) -> BaseException:
    """Return the first of *exceptions*, with its causes, contexts and members."""
    errors: dict[int, BaseException] = {}

    def build(index: int) -> BaseException:
        if index not in errors:
            errors[index] = _unpack_exception(
                exceptions[index], origin, [build(member) for member in exceptions[index].members]
            )
        return errors[index]

    for index, one in enumerate(exceptions):
        error = build(index)
        with suppress(BaseException):  # a class may forbid it
            error.__cause__ = build(one.cause) if one.cause >= 0 else None
            error.__context__ = build(one.context) if one.context >= 0 else None
            error.__suppress_context__ = one.suppress_context
    return errors[0]


def _unpack_exception(one: _PackedException, origin: _Origin, members: Sequence[BaseException]) -> BaseException:
    why = one.why
    error: BaseException | None = None
    if one.payload is not None:
        try:
            error = _open(one.payload, members)
        except BaseException as raised:  # noqa: BLE001 - unpacking worked where it was packed
            why = f"unpacking it here raised {text_of(raised)}"
    if error is None:
        error = _remote_error(one, origin, why)
    if one.lines:
        on = f" ({origin})" if str(origin) else ""
        with suppress(BaseException):  # a class may have no room for notes
            error.add_note(f"remote traceback{on}:\n{one.lines.rstrip()}")
    return error


def _remote_error(one: _PackedException, origin: _Origin, why: str) -> RemoteError:
    on = f" ({origin})" if str(origin) else ""
    return RemoteError(
        f"{origin.service}.{origin.method}{on} raised {one.type_name}: {one.message}\nIt cannot be raised here as "
        f"itself, because {why}. Raise an exception that can be pickled, of a class that both sides have",
        type_name=one.type_name,
        original_message=one.message,
        traceback_text=one.lines,
        service=origin.service,
        method=origin.method,
        replica=origin.replica,
        node=origin.node,
    )


def _open(payload: Payload, members: Sequence[BaseException]) -> BaseException:
    make, *parts = unpack(payload)
    if make is None:
        (error,) = parts
    elif make is _rebuild_group:
        error = _rebuild_group(*parts, members)
    else:
        error = make(*parts)
    if not isinstance(error, BaseException):
        raise _CopyDiffers(f"its copy is a {type(error).__qualname__}")
    return error


def _call(cls: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = cls(*args)
    error.__dict__.update(attributes)
    return error


def _rebuild_group(
    cls: type[BaseExceptionGroup[Any]],
    args: tuple[str],
    attributes: dict[str, Any],
    members: Sequence[BaseException],
) -> BaseException:
    error = BaseExceptionGroup.__new__(cls, *args, members)
    error.__dict__.update(attributes)
    return error
