"""Pickles objects of a substrate inside values: references to its stored objects, handles to its processes."""

from __future__ import annotations

import copyreg
import pickle
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["PLAIN", "Substrate", "dumps", "loads", "set_aside"]

_NO_REDUCERS: Final[Mapping[type, Callable[[Any], Any]]] = MappingProxyType({})


class Substrate(NamedTuple):
    """
    Tells pickling about the runtime that carries payloads, such as Ray.

    A reference to an object in a runtime's store cannot be pickled like other objects, because the pickle would not say
    who owns the object. So the pickle leaves references out, and the transport carries them separately.

    Attributes:
        references: Types whose instances are left out of payloads.
        reducers: Reducers by type, as in `copyreg.dispatch_table`, for instances of other types, and for references
            inside the code of classes and functions. Used where code travels.
    """

    references: tuple[type, ...] = ()
    reducers: Mapping[type, Callable[[Any], Any]] = _NO_REDUCERS


#: A substrate without objects of its own.
PLAIN: Final = Substrate()


class _Reducers(dict[type, "Callable[[Any], Any]"]):
    """The reducers of `copyreg`, and those for references."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        return copyreg.dispatch_table[cls]


def dumps(
    value: Any, keep: Callable[[pickle.PickleBuffer], Any], references: tuple[type, ...]
) -> tuple[bytes, list[Any]]:
    """
    Pickle *value*; return the pickle, and the references that it leaves out.

    Args:
        value: The value.
        keep: Returns whether a buffer goes into the pickle.
        references: Types of the objects to leave out.
    """
    if not references:
        return pickle.dumps(value, 5, buffer_callback=keep), []
    found: list[Any] = []

    def reduce(reference: Any) -> tuple[Any, ...]:
        return set_aside(reference, found)

    file = BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=keep)
    pickler.dispatch_table = _Reducers(dict.fromkeys(references, reduce))
    pickler.dump(value)
    return file.getvalue(), found


def set_aside(reference: Any, references: list[Any]) -> tuple[Any, ...]:
    """Reduce *reference* for a pickler that leaves it out, and append it to *references*."""
    references.append(reference)
    return _left_out_reference, (len(references) - 1,)


def loads(data: bytes, buffers: Sequence[Any], references: Sequence[Any]) -> Any:
    """Return the value that `dumps` pickled."""
    if not references:
        return pickle.loads(data, buffers=buffers)  # noqa: S301 - from a process of this deployment
    return _Unpickler(data, buffers, references).load()


def _left_out_reference(index: int) -> Any:
    """Raise an error: replaces the reference at *index* in a pickle; `_Unpickler` resolves it differently."""
    msg = f"reference {index} did not come with the pickle that names it"
    raise pickle.UnpicklingError(msg)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, buffers: Sequence[Any], references: Sequence[Any]) -> None:
        super().__init__(BytesIO(data), buffers=buffers)
        self._references = references

    def find_class(self, module: str, name: str) -> Any:
        if name == _left_out_reference.__name__ and module == __name__:
            return self._references.__getitem__
        return super().find_class(module, name)
