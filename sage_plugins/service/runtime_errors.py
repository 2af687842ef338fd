"""
Makes the error of a call a RuntimeError too, so that code written for SAGE can catch it.

SAGE raises a RuntimeError with a text for every failed service call. So SAGE code has `except RuntimeError`, while
other code wants `except KeyError`. A class with both as bases serves both, as in Ray.
"""

from __future__ import annotations

from functools import lru_cache
from types import BuiltinMethodType, GetSetDescriptorType, MemberDescriptorType, new_class
from typing import Any, Final

__all__ = ["as_runtime_error"]

#: Maximum number of cached classes. A program raises few types of errors, and making a class costs 10 us.
_KEPT: Final = 256


def as_runtime_error(error: BaseException) -> BaseException:
    """
    Return a copy of *error* that is a RuntimeError too; *error* itself if that is impossible or not needed.

    The copy has the name, message, attributes, notes, cause and traceback of *error*. It can be pickled if *error* can.
    *error* itself does not change, because other code may hold it.

    Returns *error* itself in these cases: it is a RuntimeError already; it is a TimeoutError, as in SAGE; it is no
    `Exception`, so it ends more than a call; or its class cannot be a base together with RuntimeError.
    """
    if isinstance(error, (RuntimeError, TimeoutError)) or not isinstance(error, Exception):
        return error
    try:
        return _copy(error, _both(type(error)))  # type: ignore[arg-type] # mypy asks its instances for a hash
    except Exception:  # noqa: BLE001 - a user's metaclass, __init_subclass__ or descriptor may raise anything
        return error


@lru_cache(_KEPT)
def _both(cls: type[Exception]) -> type[Exception]:
    """Return a class that is derived from *cls* and RuntimeError and has the name of *cls*."""

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
    """Return an instance of *cls* with the state of *error*. Runs no constructor, because its arguments are unknown."""
    # Only the __new__ of the base that decides the memory layout works; __base__ leads to it.
    maker: type[Any] = cls
    while not isinstance(vars(maker).get("__new__"), BuiltinMethodType):
        maker = maker.__base__ or object
    new: BaseException = maker.__new__(cls, *error.args)
    for base in type(error).__mro__[:-1]:  # without object: its descriptor `__class__` must not be copied
        for name, place in vars(base).items():
            if name != "__dict__" and isinstance(place, (GetSetDescriptorType, MemberDescriptorType)):
                _carry(place, error, new)
    new.__dict__.update(error.__dict__)
    # Last, because setting the cause changes it.
    vars(BaseException)["__suppress_context__"].__set__(new, error.__suppress_context__)
    return new


def _carry(place: Any, error: BaseException, new: BaseException) -> None:
    """Copy the value of descriptor *place*: a slot, or what built-in exceptions keep outside their `__dict__`."""
    try:
        value = place.__get__(error)
        if value is not None:  # setting None would change the text of an OSError
            place.__set__(new, value)
    except (AttributeError, TypeError):  # it has no value; or it is read-only, and __new__ has set it
        return
