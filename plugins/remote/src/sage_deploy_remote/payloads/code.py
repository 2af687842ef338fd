"""
Pickles classes and functions that the other side cannot import, with their code.

These are the ones of `__main__` (a script or notebook), and those made inside functions. cloudpickle can carry them,
but a class that comes back would overwrite the methods of the original class. So here each class has an identity that
travels with it. If the reader knows that identity, it uses the known class unchanged. So `isinstance` and `except` hold
on both sides.
"""

from __future__ import annotations

import io
import pickle
from collections import ChainMap
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import cloudpickle

from sage_deploy_remote.payloads.substrate import PLAIN, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType

    from sage_deploy_remote.payloads.payload import Payload
    from sage_deploy_remote.payloads.substrate import Substrate

__all__ = ["DefinitionPickler", "ValuePickler", "dumps"]

#: Classes by identity: classes of this process that were sent, and classes that came.
_CLASSES: WeakValueDictionary[str, type] = WeakValueDictionary()
#: The classes that have all their attributes. A class that came gets them after it was made.
_COMPLETE: WeakSet[type] = WeakSet()
#: Identity and code of the classes that were sent inside values. The code is that of the first time.
_SENT: WeakKeyDictionary[type, tuple[str, bytes]] = WeakKeyDictionary()

#: Functions of this process that were sent, by identity.
_OWN_FUNCTIONS: WeakValueDictionary[str, FunctionType] = WeakValueDictionary()
#: Identities of functions that were sent or came.
_FUNCTION_IDS: WeakKeyDictionary[FunctionType, str] = WeakKeyDictionary()

#: Number of classes to keep alive although nothing uses them now: the next value may well be of one of them.
_KEPT = 256


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    reduced: Any = cloudpickle.Pickler.dispatch_table[CodeType](code)
    make, arguments, *_ = reduced
    return _code, (code.co_filename, make, *arguments)


def _code(path: str, make: Callable[..., CodeType], *arguments: Any) -> CodeType:
    """Make code with its source path. cloudpickle omits the path, so tracebacks would have no source lines."""
    return make(*arguments).replace(co_filename=path)


class DefinitionPickler(cloudpickle.Pickler):
    """Writes classes and functions that cannot be imported, with their current code."""

    def __init__(self, file: io.BytesIO, substrate: Substrate, buffers: Callable[[pickle.PickleBuffer], Any]) -> None:
        # Set before the base's `__init__`, which reads it.
        tables: list[Any] = [{CodeType: _reduce_code}, substrate.reducers, cloudpickle.Pickler.dispatch_table]
        self.dispatch_table = ChainMap(*tables)
        self.substrate = substrate
        self.references: list[Any] = []
        super().__init__(file, protocol=5, buffer_callback=buffers)  # type: ignore[no-untyped-call] # it has no types

    def reducer_override(self, obj: Any) -> Any:
        """Return how to write *obj*; called for everything but Python's simplest values."""
        reduced = super().reducer_override(obj)  # type: ignore[no-untyped-call] # it has no types
        # With code, it is (make, arguments, state, None, None, set_state). A reference by name is shorter.
        if not isinstance(reduced, tuple) or len(reduced) != 6:  # noqa: PLR2004 - a reduced value has at most 6 parts
            return reduced
        make, arguments, state, _, _, set_state = reduced
        if isinstance(obj, type):
            _CLASSES[_identity(arguments)] = obj
            _COMPLETE.add(obj)
            return _skeleton, (make, *arguments), (set_state, state), None, None, _complete
        identity = _FUNCTION_IDS.get(obj)
        if identity is None:
            identity = _FUNCTION_IDS[obj] = uuid4().hex
            _OWN_FUNCTIONS[identity] = obj
        return _function, (identity, make, *arguments), (set_state, state), None, None, _complete_function


class ValuePickler(DefinitionPickler):
    """
    As `DefinitionPickler`, but writes a class's code only once. A reader that knows the class skips the code.

    Leaves out references to objects in the substrate's store, because the transport carries them. References inside a
    definition are written by the substrate's reducers. Ray then keeps the object as long as this process lives, because
    nobody knows how often a definition is read.
    """

    def reducer_override(self, obj: Any) -> Any:
        """Return how to write *obj*; called for everything but Python's simplest values."""
        if isinstance(obj, self.substrate.references):
            return set_aside(obj, self.references)
        if isinstance(obj, type):
            sent = _SENT.get(obj)
            if sent is not None:
                return _known, sent
        reduced = super().reducer_override(obj)
        if not isinstance(obj, type) or not isinstance(reduced, tuple) or reduced[0] is not _skeleton:
            return reduced
        sent = _SENT[obj] = _identity(reduced[1]), bytes(dumps(obj, DefinitionPickler, self.substrate)[0])
        return _known, sent


def dumps(value: Any, pickler: type[DefinitionPickler] = ValuePickler, substrate: Substrate = PLAIN) -> Payload:
    """
    Return *value* as a payload, with the code that its reader lacks.

    Raises:
        Exception: The error that pickling the value raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    writer = pickler(file, substrate, buffers.append)
    writer.dump(value)  # type: ignore[no-untyped-call] # as above
    return file.getvalue(), buffers, writer.references


def _identity(arguments: tuple[Any, ...]) -> str:
    """Return cloudpickle's name of a class, from the arguments of its constructor function."""
    identity: str = arguments[-2]
    return identity


@lru_cache(_KEPT)
def _read(identity: str, code: bytes) -> Any:  # noqa: ARG001 - the cache needs it: equal code may be another class
    return pickle.loads(code)  # noqa: S301 - from a process of this deployment


def _known(identity: str, code: bytes) -> Any:
    """Return the class of that identity; make it from its code if it is not known."""
    known = _CLASSES.get(identity)
    return _read(identity, code) if known is None else known


def _skeleton(make: Callable[..., type], *arguments: Any) -> type:
    """Return the known class, or a new one without attributes."""
    identity = _identity(arguments)
    known = _CLASSES.get(identity)
    # cloudpickle ensures that two threads that make the same class get the same object.
    return _CLASSES.setdefault(identity, make(*arguments)) if known is None else known


def _complete(cls: type, state: tuple[Callable[[Any, Any], Any], Any]) -> None:
    if cls not in _COMPLETE:
        set_state, attributes = state
        set_state(cls, attributes)
        _COMPLETE.add(cls)


def _function(identity: str, make: Callable[..., FunctionType], *arguments: Any) -> FunctionType:
    """
    Return the original function if it was sent from this process, else make a new one.

    A new one is made each time, because the objects that it uses may have changed.
    """
    own = _OWN_FUNCTIONS.get(identity)
    if own is not None:
        return own
    function = make(*arguments)
    _FUNCTION_IDS[function] = identity
    return function


def _complete_function(function: FunctionType, state: tuple[Callable[[Any, Any], Any], Any]) -> None:
    if _OWN_FUNCTIONS.get(_FUNCTION_IDS[function]) is not function:
        set_state, attributes = state
        set_state(function, attributes)
