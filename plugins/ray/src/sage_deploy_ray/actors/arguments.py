"""
Arguments that are references to objects in Ray's store: the method gets their values, as a task of Ray does.

A value is fetched in the process that runs the method. There it lies in memory which the processes of a node share, so
that an array is not copied, however often it is used.
"""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_deploy_ray.actors.references import Reference
    from sage_deploy_remote.link.serving.late_calls import Arguments

__all__ = ["fetch", "fetch_present"]

#: Seconds after which one who waits for an object looks whether that is still wanted. Nobody waits for the look itself.
_LOOK_S: Final = 0.5

#: Ray colours its tracebacks.
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


def fetch_present(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
    """
    The arguments with their values, if those are here; never waits.

    Returns:
        None if `fetch` is needed: a value is not here yet, or there is none.
    """
    references = list(_references(args, kwargs).values())
    if not references:
        return args, kwargs
    try:
        return _with_values(args, kwargs, ray.get(references, timeout=0))
    except BaseException:  # noqa: BLE001 - whatever Ray or the value says is found out by `fetch`, which has the time
        return None


def fetch(
    args: tuple[Any, ...], kwargs: dict[str, Any], remaining: Callable[[], float], method: str
) -> Arguments | None:
    """
    The arguments with their values; waits for them.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        remaining: Seconds for which the values are still wanted, inf for no limit; asked now and then.
        method: What is called, for the note on an error.

    Returns:
        None if nobody wants the values any more.

    Raises:
        BaseException: There is no value. It is the exception of the task that was to give it, or what Ray says of an
            object that is lost; a note says which argument that is.
    """
    named = _references(args, kwargs)
    references = list(named.values())
    awaited = list(dict.fromkeys(references))
    # First without bringing them here: a look at the time in the middle of that would begin it anew.
    while awaited:
        left = remaining()
        if left <= 0:
            return None
        _, awaited = ray.wait(awaited, num_returns=len(awaited), timeout=min(left, _LOOK_S), fetch_local=False)
    left = remaining()
    try:
        values = ray.get(references, timeout=None if left == inf else max(0.0, left))
    except Exception as error:  # noqa: BLE001 - an object may hold any
        if _is_not_here(error):
            return None
        raise _explained(error, named, method) from None
    return _with_values(args, kwargs, values)


def _references(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Reference]:
    """The arguments that are references, by what they are called."""
    named: dict[str, Any] = {f"argument {index}": value for index, value in enumerate(args, 1)}
    named.update((f"argument {name!r}", value) for name, value in kwargs.items())
    return {name: value for name, value in named.items() if isinstance(value, ray.ObjectRef)}


def _with_values(args: tuple[Any, ...], kwargs: Mapping[str, Any], values: list[Any]) -> Arguments:
    following = iter(values)

    def value_of(argument: Any) -> Any:
        return next(following) if isinstance(argument, ray.ObjectRef) else argument

    return tuple(map(value_of, args)), {name: value_of(argument) for name, argument in kwargs.items()}


def _is_not_here(error: Exception) -> bool:
    """Whether Ray means that it has waited in vain, and not that a task ended so."""
    return isinstance(error, GetTimeoutError) and not isinstance(error, RayTaskError)


def _explained(error: Exception, named: Mapping[str, Reference], method: str) -> BaseException:
    """The error that a caller gets for *error*, which getting the objects in *named* raised."""
    for name, reference in named.items():
        try:
            ray.get(reference, timeout=0)
        except Exception as its_own:  # noqa: BLE001 - as in `fetch`
            if not _is_not_here(its_own):
                return _original(its_own, f"{name} of {method}")
    return _original(error, f"an argument of {method}")


def _original(error: Exception, what: str) -> BaseException:
    if not isinstance(error, RayTaskError):
        error.add_note(f"{what} is an object of Ray's that is not to be had, so the method has not started.")
        return error
    cause: BaseException = error.cause
    task = _COLOUR.sub("", str(error)).strip()
    cause.add_note(f"{what} is the result of a Ray task that failed, so the method has not started. The task:\n{task}")
    return cause
