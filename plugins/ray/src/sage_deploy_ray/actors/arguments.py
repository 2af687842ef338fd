"""
Replaces arguments that are references to objects in Ray's store by their values, as Ray does for its tasks.

A value is fetched in the process that runs the method. It lies in memory that the processes of a node share, so an
array is never copied.
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

#: While it waits for an object, `fetch` checks after this many seconds whether the value is still wanted.
_CHECK_INTERVAL_S: Final = 0.5

#: Ray colours its tracebacks with these escape codes.
_COLOUR_CODE: Final = re.compile(r"\x1b\[[0-9;]*m")


def fetch_present(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
    """
    Return the arguments with their values if all values are available here. Never waits.

    Returns:
        None if `fetch` is needed, because a value is missing or failed.
    """
    references = list(_references(args, kwargs).values())
    if not references:
        return args, kwargs
    try:
        return _with_values(args, kwargs, ray.get(references, timeout=0))
    except BaseException:  # noqa: BLE001 - `fetch` finds out what is wrong, because it may wait
        return None


def fetch(
    args: tuple[Any, ...], kwargs: dict[str, Any], remaining: Callable[[], float], method: str
) -> Arguments | None:
    """
    Return the arguments with their values, and wait for values that are not ready.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        remaining: Returns the seconds for which the values are still wanted, inf for no limit. Called repeatedly.
        method: The method's name, for the note on an error.

    Returns:
        None if the values are no longer wanted.

    Raises:
        BaseException: A value does not exist. This is the exception of the failed task, or Ray's error for a lost
            object. A note names the argument.
    """
    named = _references(args, kwargs)
    references = list(named.values())
    awaited = list(dict.fromkeys(references))
    # Waits without fetching first: a timeout in the middle of a fetch would start the fetch again.
    while awaited:
        left = remaining()
        if left <= 0:
            return None
        _, awaited = ray.wait(
            awaited, num_returns=len(awaited), timeout=min(left, _CHECK_INTERVAL_S), fetch_local=False
        )
    left = remaining()
    try:
        values = ray.get(references, timeout=None if left == inf else max(0.0, left))
    except Exception as error:  # noqa: BLE001 - an object may hold any error
        if _is_not_here(error):
            return None
        raise _explained(error, named, method) from None
    return _with_values(args, kwargs, values)


def _references(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Reference]:
    """Return the arguments that are references, by their names in messages."""
    named: dict[str, Any] = {f"argument {index}": value for index, value in enumerate(args, 1)}
    named.update((f"argument {name!r}", value) for name, value in kwargs.items())
    return {name: value for name, value in named.items() if isinstance(value, ray.ObjectRef)}


def _with_values(args: tuple[Any, ...], kwargs: Mapping[str, Any], values: list[Any]) -> Arguments:
    following = iter(values)

    def value_of(argument: Any) -> Any:
        return next(following) if isinstance(argument, ray.ObjectRef) else argument

    return tuple(map(value_of, args)), {name: value_of(argument) for name, argument in kwargs.items()}


def _is_not_here(error: Exception) -> bool:
    """Whether Ray's own wait timed out. A task may also fail with a timeout error of its own."""
    return isinstance(error, GetTimeoutError) and not isinstance(error, RayTaskError)


def _explained(error: Exception, named: Mapping[str, Reference], method: str) -> BaseException:
    """Return the error for the caller. *error* came from getting the objects in *named*."""
    for name, reference in named.items():
        try:
            ray.get(reference, timeout=0)
        except Exception as its_own:  # noqa: BLE001 - as in `fetch`
            if not _is_not_here(its_own):
                return _original(its_own, f"{name} of {method}")
    return _original(error, f"an argument of {method}")


def _original(error: Exception, what: str) -> BaseException:
    if not isinstance(error, RayTaskError):
        error.add_note(f"{what} is a Ray object that cannot be fetched, so the method has not started.")
        return error
    cause: BaseException = error.cause
    task = _COLOUR_CODE.sub("", str(error)).strip()
    cause.add_note(f"{what} is the result of a Ray task that failed, so the method has not started. The task:\n{task}")
    return cause
