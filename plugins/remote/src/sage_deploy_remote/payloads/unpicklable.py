"""Finds the part of a value that cannot be pickled."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from sage_deploy_remote.payloads.substrate import PLAIN
from sage_plugins.errors import line_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["describe"]

#: Limit for the number of parts to check: a person waits for the message.
_PARTS: Final = 100_000
#: Limits in a message: characters of a mapping's key, and of a cause.
_KEY: Final = 40
_CAUSE: Final = 500
#: Types without parts.
_LEAVES: Final = (str, bytes, bytearray, int, float, complex, type(None))
#: Types of the parts of a class.
_CODE: Final = (type, FunctionType, ModuleType, CodeType)
#: Attributes of types that keep them outside `__dict__`.
_HOLDERS: Final[dict[type, tuple[str, ...]]] = {
    BaseException: ("args",),
    MethodType: ("__self__",),
    partial: ("func", "args", "keywords"),
    property: ("fget", "fset", "fdel"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
}


def describe(value: Any, name: str, error: BaseException, substrate: Substrate = PLAIN) -> str:
    """
    Return text such as `result['rows'][3].lock: cannot pickle '_thread.lock' object`.

    Args:
        value: The value that could not be pickled.
        name: Its name in the text, such as `"result"`.
        error: The error that pickling it raised.
        substrate: The substrate that it was pickled for.
    """
    cause = str(error) if type(error) is TypeError else line_of(error)
    if len(cause) > _CAUSE:
        cause = cause[:_CAUSE] + "..."
    return f"{name}{_path(value, substrate)}: {cause}"


def _path(value: Any, substrate: Substrate) -> str:
    """Return the path from *value* to the part that failed; `""` for *value* itself, or if no path leads there."""
    seen = _written_until_it_failed(value, substrate)
    paths = _paths(value, {id(part) for part in seen})
    # The last part failed. If an earlier part made it up, as it does with a state, name that earlier part. It must be
    # an object, but no part of its class, and nothing that many objects share.
    likely = (part for part in reversed(seen[:-1]) if not isinstance(part, (*_LEAVES, *_CODE, tuple)))
    return next((paths[id(part)] for part in (*seen[-1:], *likely) if id(part) in paths), "")


def _written_until_it_failed(value: Any, substrate: Substrate) -> list[Any]:
    """Return the parts in the order of pickling, up to the one that failed; the last 1000."""
    from sage_deploy_remote.payloads.code import DefinitionPickler, dumps  # imported late: it needs cloudpickle

    seen: deque[Any] = deque(maxlen=1000)
    left = _PARTS

    class Witness(DefinitionPickler):
        def persistent_id(self, part: Any) -> str | None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OverflowError
            seen.append(part)
            # Pickling a reference may keep its object alive as long as this process.
            return "reference" if isinstance(part, substrate.references) else None

    try:
        dumps(value, Witness, substrate)
    except BaseException:  # noqa: BLE001 - expected; a user's __reduce__ may raise anything
        return list(seen)
    return []


def _paths(value: Any, wanted: set[int]) -> dict[int, str]:
    """Return the shortest path to each wanted part that can be reached."""
    found: dict[int, str] = {}
    known = {id(value)}
    queue = deque([(value, "")])
    kept = [value]  # an ID is unique only while the part lives
    while queue and len(known) < _PARTS:
        part, path = queue.popleft()
        if id(part) in wanted:
            found[id(part)] = path
        try:
            for step, child in _children(part):
                if id(child) not in known:
                    known.add(id(child))
                    kept.append(child)
                    queue.append((child, path + step))
        except BaseException:  # noqa: BLE001, S112 - a user's mapping may do anything; the path then ends above it
            continue
    return found


def _children(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of *part*, each with the text for its path."""
    if isinstance(part, _LEAVES):
        return
    if isinstance(part, type):
        yield from ((f".{name}", child) for name, child in vars(part).items())
        yield from ((f" (its base {base.__qualname__})", base) for base in part.__bases__)
        return
    yield from _items(part)
    for cls, names in _HOLDERS.items():
        if isinstance(part, cls):
            yield from ((f".{name}", getattr(part, name)) for name in names)
    yield from ((f".{name}", child) for name, child in getattr(part, "__dict__", {}).items())
    for cls in type(part).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(part, name):
                yield f".{name}", getattr(part, name)
    yield f" (its class {type(part).__qualname__})", type(part)


def _items(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield the items of a container, or the outside variables of a function."""
    if isinstance(part, Mapping):
        for key, child in part.items():
            text = repr(key)
            yield f"[{text if len(text) <= _KEY else text[:_KEY] + '...'}]", child
        yield from ((f".keys()[{index}]", key) for index, key in enumerate(part) if not isinstance(key, _LEAVES))
    elif isinstance(part, (list, tuple, deque)):
        fields = getattr(part, "_fields", ())
        for index, child in enumerate(part):
            yield f".{fields[index]}" if index < len(fields) else f"[{index}]", child
    elif isinstance(part, (set, frozenset)):
        yield from ((f"{{{index}}}", child) for index, child in enumerate(part))
    elif isinstance(part, FunctionType):
        yield from _variables(part)


def _variables(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables that the code of *function* uses from outside."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f" (its variable {name!r})", cell.cell_contents
        except ValueError:  # not set yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f" (its global {name!r})", function.__globals__[name]
    yield ".__defaults__", function.__defaults__
