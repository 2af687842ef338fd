"""Converts arguments from JSON and results to JSON, by the annotations of a method."""

from __future__ import annotations

import inspect
import typing
from collections import abc
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sage_deploy_server.web.problems import Problem
from sage_plugins.service.methods import kind_of
from sage_plugins.values import GENERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LONGEST_S", "MethodSignature", "call_options_of", "encode"]

#: Maximum of `X-Timeout` in seconds, the same as for a handle.
LONGEST_S: Final = 1e9

#: Annotations of generators. Their first type argument is the type of the items.
_ITERATORS: Final = frozenset(
    {abc.AsyncGenerator, abc.AsyncIterable, abc.AsyncIterator, abc.Generator, abc.Iterable, abc.Iterator}
)

_NAMED: Final = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})


class MethodSignature:
    """
    The parameters and result of a method. Made once for each method. Thread-safe.

    msgspec converts JSON to dataclasses, attrs classes, enums, dates and times, and base64 to bytes. A parameter whose
    annotation is missing or unknown to msgspec takes the JSON value unchanged.

    Attributes:
        signature: Signature of the method.
        streams: Whether it is a generator.
        types: Annotations that msgspec knows, by parameter. `return` is the type of the result, or of a stream's items.
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        """Read the signature of *method*, which is bound."""
        try:
            self.signature = inspect.signature(method)
        except (TypeError, ValueError):  # built-in functions may have no signature
            self.signature = inspect.signature(lambda *args, **kwargs: None)  # noqa: ARG005 - only for its signature
        try:
            hints = typing.get_type_hints(inspect.unwrap(method), include_extras=True)
        except Exception:  # noqa: BLE001 - annotations can fail in any way, such as by a missing name
            hints = {}
        self.streams = kind_of(method) in GENERATORS
        returned = hints.pop("return", inspect.Parameter.empty)
        if not self.streams:
            hints["return"] = returned
        elif typing.get_origin(returned) in _ITERATORS:
            hints["return"] = typing.get_args(returned)[0]
        self.types = {name: kind for name, kind in hints.items() if _is_known(kind)}
        parameters = self.signature.parameters.values()
        named = all(each.kind in _NAMED for each in parameters)
        self._names = {each.name for each in parameters} if named else set()  # empty: `bind` must check
        self._required = {each.name for each in parameters if each.default is inspect.Parameter.empty}

    def bind(self, body: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Convert *body* to a call's arguments. An object names them, an array orders them, None means no arguments.

        Raises:
            Problem: 400, with the argument that does not fit and what is expected.
        """
        if isinstance(body, dict) and self._required <= body.keys() <= self._names:  # fast path for the usual case
            return (), {
                name: value if (kind := self.types.get(name)) is None else self._convert(name, value, kind)
                for name, value in body.items()
            }
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if isinstance(body, list):
            args = body
        elif isinstance(body, dict):
            kwargs = body
        elif body is not None:
            raise Problem(400, "arguments", "give an object with the arguments by name, or an array of them")
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise Problem(400, "arguments", f"{error}; it takes {self.signature}") from None
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._convert_argument(name, value)
        return bound.args, bound.kwargs

    def _convert_argument(self, name: str, value: Any) -> Any:
        kind = self.types.get(name)
        if kind is None:
            return value
        which = self.signature.parameters[name].kind
        if which is inspect.Parameter.VAR_POSITIONAL:
            return tuple(self._convert(f"{name}[{index}]", each, kind) for index, each in enumerate(value))
        if which is inspect.Parameter.VAR_KEYWORD:
            return {key: self._convert(key, each, kind) for key, each in value.items()}
        return self._convert(name, value, kind)

    @staticmethod
    def _convert(name: str, value: Any, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise Problem(400, "arguments", f"argument {name!r}: {error}", argument=name) from None


def _is_known(kind: Any) -> bool:
    try:
        msgspec.json.schema(kind)
    except Exception:  # noqa: BLE001 - more than TypeError: a dataclass may name a class that is missing at run time
        return False
    return True


def encode(result: Any, what: str) -> bytes:
    """
    Encode *result* as JSON.

    Raises:
        Problem: 500, with the type that JSON cannot represent.
    """
    try:
        return msgspec.json.encode(result)
    except (TypeError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        detail = f"{what} returned a {type(result).__qualname__} that JSON cannot have: {error}"
        raise Problem(500, "result", detail) from None


def call_options_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """
    Read the options of a call from its headers, as arguments for `ServiceHandle.with_options`.

    Raises:
        Problem: 400 if a header has an invalid value.
    """
    options: dict[str, Any] = {}
    if (timeout := headers.get("x-timeout")) is not None:
        try:
            options["timeout"] = float(timeout)
        except ValueError:
            options["timeout"] = 0.0
        if not 0 < options["timeout"] <= LONGEST_S:
            raise Problem(
                400,
                "header",
                f"X-Timeout must be a positive number of seconds, at most {LONGEST_S:.0f}, got {timeout!r}",
            )
    if (key := headers.get("x-key")) is not None:
        options["key"] = _in_utf_8(key)
    if (idempotent := headers.get("x-idempotent")) is not None:
        if idempotent not in {"true", "false"}:
            raise Problem(400, "header", f"X-Idempotent must be true or false, got {idempotent!r}")
        options["idempotent"] = idempotent == "true"
    return options


def _in_utf_8(header: str) -> str:
    """Read a header as UTF-8, as most clients send it, instead of Latin-1. Returns it unchanged if it is not UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header
