"""
The error of a call as code of SAGE catches it: as a RuntimeError, and as what it is.

SAGE turns every failure of a service call into a RuntimeError with a text. Code that was written for it says
`except RuntimeError`; other code wants `except KeyError`. A class made of both serves both, as Ray's own errors do.
"""

from __future__ import annotations

from functools import lru_cache
from types import BuiltinMethodType, GetSetDescriptorType, MemberDescriptorType, new_class
from typing import Any, Final

__all__ = ["as_runtime_error"]

#: Classes made of two that are kept: a program raises few kinds of errors, and one that is made anew costs 10 us.
_KEPT: Final = 256


def as_runtime_error(error: BaseException) -> BaseException:
    """
    An exception like *error* that is a RuntimeError too; *error* itself where that cannot be or need not be.

    It has the name, the message, the attributes, the notes, the cause and the traceback of *error*, and pickles if
    *error* does. *error* stays as it is: others may hold it.

    A RuntimeError is one already. A TimeoutError stays what it is, as in SAGE. What is no `Exception` ends more than a
    call. A class may refuse to be derived from or laid out together with another one.
    """
    if isinstance(error, (RuntimeError, TimeoutError)) or not isinstance(error, Exception):
        return error
    try:
        return _copy(error, _both(type(error)))  # type: ignore[arg-type] # mypy asks its instances for a hash
    except Exception:  # noqa: BLE001 - a user's metaclass, __init_subclass__ or descriptor may raise anything
        return error


@lru_cache(_KEPT)
def _both(cls: type[Exception]) -> type[Exception]:
    """A class that is *cls* and RuntimeError, and is called as *cls* is."""

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:  # noqa: ARG001 - as object.__reduce_ex__
        return as_runtime_error, (_copy(self, cls),)

    made: type[Exception] = new_class(
        cls.__name__,
        (cls, RuntimeError),
        exec_body=lambda names: names.update(
            __module__=cls.__module__, __qualname__=cls.__qualname__, __doc__=cls.__doc__, __reduce_ex__=reduce
        ),
    )
    return made


def _copy(error: BaseException, cls: type[BaseException]) -> BaseException:
    """An instance of *cls* with all that *error* holds; no code of the class runs, which may want other arguments."""
    # Of several bases one decides how instances lie in memory; it is in __base__, and only its __new__ will do.
    maker: type[Any] = cls
    while not isinstance(vars(maker).get("__new__"), BuiltinMethodType):
        maker = maker.__base__ or object
    new: BaseException = maker.__new__(cls, *error.args)
    for base in type(error).__mro__[:-1]:  # without object, where the class itself lies
        for name, place in vars(base).items():
            if name != "__dict__" and isinstance(place, (GetSetDescriptorType, MemberDescriptorType)):
                _carry(place, error, new)
    new.__dict__.update(error.__dict__)
    # Last, because setting a cause sets it as well.
    vars(BaseException)["__suppress_context__"].__set__(new, error.__suppress_context__)
    return new


def _carry(place: Any, error: BaseException, new: BaseException) -> None:
    """Copy what lies in *place*: a slot of the class, or what Python's own exceptions keep outside their __dict__."""
    try:
        value = place.__get__(error)
        if value is not None:  # OSError tells None from nothing when it makes its text
            place.__set__(new, value)
    except (AttributeError, TypeError):  # nothing there; or cannot be set, and then __new__ has set it
        return
