"""
Classes and functions that the other side cannot import, pickled with their code.

Such are those of `__main__`, a script's or a notebook's, and those made inside functions. cloudpickle can carry them,
but a class that comes back would overwrite the methods of the one it once was. Here each class has an identity that
travels with it: where it is known already, the known class is taken and left as it is. So `isinstance` and `except`
hold on both sides.
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

#: Classes by their identity, those of this process and those that came.
_CLASSES: WeakValueDictionary[str, type] = WeakValueDictionary()
#: Those of them that have all their attributes; one that has just come gets them after it was made.
_COMPLETE: WeakSet[type] = WeakSet()
#: Code of the classes that were sent inside values, as it was when they were first sent.
_SENT: WeakKeyDictionary[type, tuple[str, bytes]] = WeakKeyDictionary()

#: Functions of this process that were sent, by their identity.
_OWN_FUNCTIONS: WeakValueDictionary[str, FunctionType] = WeakValueDictionary()
#: The identity of functions that were sent or came.
_FUNCTION_IDS: WeakKeyDictionary[FunctionType, str] = WeakKeyDictionary()

#: Classes that are kept although nobody uses them at the moment: the next value is likely to be of one of them.
_KEPT = 256


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    reduced: Any = cloudpickle.Pickler.dispatch_table[CodeType](code)
    make, arguments, *_ = reduced
    return _code, (code.co_filename, make, *arguments)


def _code(path: str, make: Callable[..., CodeType], *arguments: Any) -> CodeType:
    """Code that says where its source lies; cloudpickle leaves that out, and tracebacks would have no source lines."""
    return make(*arguments).replace(co_filename=path)


class DefinitionPickler(cloudpickle.Pickler):
    """Writes classes and functions that cannot be imported with their present code."""

    def __init__(self, file: io.BytesIO, substrate: Substrate, buffers: Callable[[pickle.PickleBuffer], Any]) -> None:
        """
        Write nothing yet.

        Args:
            file: Where the pickle goes.
            substrate: Has reducers for its own objects.
            buffers: Told of each buffer that is left out.
        """
        # Before the base's `__init__`, which reads it.
        tables: list[Any] = [{CodeType: _reduce_code}, substrate.reducers, cloudpickle.Pickler.dispatch_table]
        self.dispatch_table = ChainMap(*tables)
        self.substrate = substrate
        self.references: list[Any] = []
        super().__init__(file, protocol=5, buffer_callback=buffers)  # type: ignore[no-untyped-call] # it has no types

    def reducer_override(self, obj: Any) -> Any:
        """How *obj* is written; called for everything but Python's simplest values."""
        reduced = super().reducer_override(obj)  # type: ignore[no-untyped-call] # it has no types
        # What cloudpickle makes of code: (make, arguments, state, None, None, set_state). References are shorter.
        if not isinstance(reduced, tuple) or len(reduced) != 6:  # noqa: PLR2004 - a reduced value has 6 parts at most
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
    As `DefinitionPickler`, but writes a class's code once: whoever knows the class does not read it.

    References to objects in the substrate's store are left out, for its transport to carry. Those in a definition are
    written by the substrate's reducers. Ray then keeps the object for as long as this process lives: nobody knows how
    often a definition is read.
    """

    def reducer_override(self, obj: Any) -> Any:
        """How *obj* is written; called for everything but Python's simplest values."""
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
    *value* as a payload, with the code that its reader lacks.

    Raises:
        Exception: Whatever pickling the value raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    writer = pickler(file, substrate, buffers.append)
    writer.dump(value)  # type: ignore[no-untyped-call] # as above
    return file.getvalue(), buffers, writer.references


def _identity(arguments: tuple[Any, ...]) -> str:
    """The name that cloudpickle gave a class, among the arguments of what makes it."""
    identity: str = arguments[-2]
    return identity


@lru_cache(_KEPT)
def _read(identity: str, code: bytes) -> Any:  # noqa: ARG001 - equal code under another identity is another class
    return pickle.loads(code)  # noqa: S301 - from a process of this deployment


def _known(identity: str, code: bytes) -> Any:
    """The class of that identity, made of its code if it is not known."""
    known = _CLASSES.get(identity)
    return _read(identity, code) if known is None else known


def _skeleton(make: Callable[..., type], *arguments: Any) -> type:
    """The class that is known, or a new one without attributes."""
    identity = _identity(arguments)
    known = _CLASSES.get(identity)
    # cloudpickle makes sure that two threads which make the same class get the same object.
    return _CLASSES.setdefault(identity, make(*arguments)) if known is None else known


def _complete(cls: type, state: tuple[Callable[[Any, Any], Any], Any]) -> None:
    """Give a new class its attributes."""
    if cls not in _COMPLETE:
        set_state, attributes = state
        set_state(cls, attributes)
        _COMPLETE.add(cls)


def _function(identity: str, make: Callable[..., FunctionType], *arguments: Any) -> FunctionType:
    """A function that comes home is the one that left; any other is made anew, for what it uses may have changed."""
    own = _OWN_FUNCTIONS.get(identity)
    if own is not None:
        return own
    function = make(*arguments)
    _FUNCTION_IDS[function] = identity
    return function


def _complete_function(function: FunctionType, state: tuple[Callable[[Any, Any], Any], Any]) -> None:
    """Give a new function its globals and defaults."""
    if _OWN_FUNCTIONS.get(_FUNCTION_IDS[function]) is not function:
        set_state, attributes = state
        set_state(function, attributes)
