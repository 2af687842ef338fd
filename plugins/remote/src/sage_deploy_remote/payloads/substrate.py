"""How the objects of a substrate travel inside values: references to its stored objects, handles to its processes."""

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
    What pickling must know of the runtime that carries payloads, such as Ray.

    A reference to an object in a runtime's store does not pickle like other objects: the pickle would not say who owns
    the object. So references are left out of the pickle, and the transport carries them beside it.

    Attributes:
        references: Types whose instances are left out of payloads.
        reducers: How instances of other types are pickled, and references inside the code of classes and functions:
            reducer by type, as in `copyreg.dispatch_table`. Used where code travels.
    """

    references: tuple[type, ...] = ()
    reducers: Mapping[type, Callable[[Any], Any]] = _NO_REDUCERS


#: A substrate without objects of its own.
PLAIN: Final = Substrate()


class _Reducers(dict[type, "Callable[[Any], Any]"]):
    """What `copyreg` knows, and references."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        return copyreg.dispatch_table[cls]


def dumps(
    value: Any, keep: Callable[[pickle.PickleBuffer], Any], references: tuple[type, ...]
) -> tuple[bytes, list[Any]]:
    """
    Pickle *value*; give the pickle and the references that it leaves out.

    Args:
        value: What to pickle.
        keep: Whether a buffer goes into the pickle.
        references: Types of what is left out.
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
    """Reduce *reference* for a pickler that leaves it out, and keep it in *references*."""
    references.append(reference)
    return _kept, (len(references) - 1,)


def loads(data: bytes, buffers: Sequence[Any], references: Sequence[Any]) -> Any:
    """The value of `dumps`."""
    if not references:
        return pickle.loads(data, buffers=buffers)  # noqa: S301 - from a process of this deployment
    return _Unpickler(data, buffers, references).load()


def _kept(index: int) -> Any:
    """Stands in a pickle for the reference at *index*; `_Unpickler` has another one in its place."""
    msg = f"reference {index} did not come with the pickle that names it"
    raise pickle.UnpicklingError(msg)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, buffers: Sequence[Any], references: Sequence[Any]) -> None:
        super().__init__(BytesIO(data), buffers=buffers)
        self._references = references

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name."""
        if name == _kept.__name__ and module == __name__:
            return self._references.__getitem__
        return super().find_class(module, name)
