"""
Ray's object references inside what travels: they go beside the pickle, for Ray to carry.

A reference that is pickled like any object does not say who owns its value, so it leads nowhere in another process. Ray
says so, and keeps the value for whoever gets the reference, where it finds references in what it pickles itself.
"""

from __future__ import annotations

import copyreg
import pickle
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

from ray import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Reference", "dumps", "loads", "set_aside"]

#: An `ObjectRef`; Ray's own stub has them generic.
Reference: TypeAlias = "ObjectRef[Any]"


class _Reducers(dict[type, "Callable[[Any], Any]"]):
    """What `copyreg` knows, and references."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        return copyreg.dispatch_table[cls]


def dumps(value: Any, keep: Callable[[pickle.PickleBuffer], Any]) -> tuple[bytes, list[Reference]]:
    """
    *value* as a pickle, and the references that it leaves out.

    Args:
        value: What to pickle.
        keep: Whether a buffer goes into the pickle.
    """
    references: list[Reference] = []
    file = BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=keep)
    pickler.dispatch_table = _Reducers({ObjectRef: lambda reference: set_aside(reference, references)})
    pickler.dump(value)
    return file.getvalue(), references


def set_aside(reference: Reference, references: list[Reference]) -> tuple[Any, ...]:
    """How *reference* is reduced by a pickler that leaves it out, and keeps it in *references*."""
    references.append(reference)
    return _kept, (len(references) - 1,)


def loads(data: bytes, buffers: Sequence[Any], references: Sequence[Reference]) -> Any:
    """The value of `dumps`."""
    if not references:
        return pickle.loads(data, buffers=buffers)  # noqa: S301 - from a process of this deployment
    return _Unpickler(data, buffers, references).load()


def _kept(index: int) -> Reference:
    """Stands in a pickle for the reference at *index*; `_Unpickler` has another one in its place."""
    msg = f"reference {index} did not come with the pickle that names it"
    raise pickle.UnpicklingError(msg)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, buffers: Sequence[Any], references: Sequence[Reference]) -> None:
        super().__init__(BytesIO(data), buffers=buffers)
        self._references = references

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name."""
        if name == _kept.__name__ and module == __name__:
            return self._references.__getitem__
        return super().find_class(module, name)
