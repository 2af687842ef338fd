"""Reads an options class of a plugin: names, types, defaults and meanings of its options."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

import attrs

from sage_plugins.config.field_checks import Unit, attribute_docs, shown
from sage_plugins.config.service_config import plain
from sage_plugins.config.strict_types import LISTS, MAPPINGS
from sage_plugins.errors import PluginError, line_of

if TYPE_CHECKING:
    from sage_plugins.plugins.registry import Registered, RegisteredOptions

__all__ = ["OptionDoc", "attribute_docs", "option_docs", "registered_options"]

_WORDS: Final[Mapping[Any, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    None: "null",
    types.NoneType: "null",
    Any: "any value",
}


@attrs.frozen
class OptionDoc:
    """
    One option of a plugin.

    Attributes:
        name: Its key in the configuration.
        type: The values it accepts, in words such as `"integer or null"`.
        doc: Its meaning, from the `Attributes:` section of the class. Empty if the section lacks it.
        required: Whether it must be set.
        computed: Whether its default depends on other options, so that there is no single value to show.
        default: The default, as plain types. None if the option is required or computed.
        options: The options below it, if it is a mapping with its own options class.
        unit: Unit of the number, `"seconds"` or `"MiB"`. Empty if it has none.
    """

    name: str
    type: str
    doc: str
    required: bool
    computed: bool
    default: Any
    options: tuple[OptionDoc, ...] = ()
    unit: Unit = ""


def option_docs(cls: type) -> tuple[OptionDoc, ...]:
    """
    Return the options that *cls* declares, in the order of declaration.

    Args:
        cls: An attrs class, such as a plugin's options class. Annotations that cannot be resolved are shown as written.
    """
    return _options(cls, ())


def registered_options(entry: Registered | RegisteredOptions) -> tuple[OptionDoc, ...]:
    """
    Return the options of what a plugin registered, or those that it reads for a whole environment. May be empty.

    Raises:
        PluginError: Its options class cannot be loaded, or is no attrs class. The message names the plugin.
    """
    try:
        cls = entry.registration.options_class()
        return () if cls is None else option_docs(cls)
    except Exception as error:
        id, source = entry.registration.id, entry.plugin.source
        msg = f"the options of {id!r} from {source} cannot be read: {line_of(error)}; see `sage-deploy plugins check`"
        raise PluginError(msg) from error


def _options(cls: type, above: tuple[type, ...]) -> tuple[OptionDoc, ...]:
    with contextlib.suppress(Exception):  # the plugin's annotations may raise anything; then they are shown as written
        attrs.resolve_types(cls)
    docs = attribute_docs(cls)
    return tuple(
        _option(attribute, docs.get(attribute.name, ""), (*above, cls))
        for attribute in attrs.fields(cls)
        if attribute.init
    )


def _option(attribute: attrs.Attribute[Any], doc: str, above: tuple[type, ...]) -> OptionDoc:
    default: Any = attribute.default
    below = next((arm for arm in (attribute.type, *get_args(attribute.type)) if _is_attrs(arm)), None)
    return OptionDoc(
        name=attribute.alias or attribute.name,
        type=_type_words(attribute.type),
        doc=doc,
        required=default is attrs.NOTHING,
        computed=_is_factory(default) and default.takes_self,
        default=_default(default),
        # The check of `above` is needed because a class may contain itself.
        options=_options(below, above) if below is not None and below not in above else (),
        unit=attribute.metadata.get("unit", ""),
    )


def _is_factory(default: Any) -> bool:
    return isinstance(default, attrs.Factory)  # type: ignore[arg-type]  # a class, declared as a function


def _default(default: Any) -> Any:
    if default is attrs.NOTHING:
        return None
    if _is_factory(default):
        return None if default.takes_self else _plain(default.factory())
    return _plain(default)


def _plain(value: Any) -> Any:
    if _is_attrs(type(value)):
        return _plain(attrs.asdict(value))
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value), key=repr)
    if isinstance(value, (Mapping, list, tuple)):
        return plain(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else shown(value)


def _is_attrs(kind: Any) -> bool:
    return isinstance(kind, type) and attrs.has(kind)


def _type_words(kind: Any) -> str:  # noqa: PLR0911 - one return for each kind of type
    """Return the words for a type that `structure` accepts. Other types are shown as Python writes them."""
    if isinstance(kind, str):
        return kind
    origin, arms = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        return _type_words(arms[0])
    if kind in _WORDS:
        return _WORDS[kind]
    if origin in {Union, types.UnionType}:
        return " or ".join(map(_type_words, sorted(arms, key=lambda arm: arm is types.NoneType)))
    if origin is Literal:
        return " or ".join(_choice(arm) for arm in arms)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return " or ".join(_choice(member.value) for member in origin)
    if origin in LISTS:
        items = [arm for arm in arms if arm is not Ellipsis]
        return f"list of {_several(items[0])}" if len(items) == 1 else "list"
    if origin in MAPPINGS:
        return f"mapping of {_several(arms[0])} to {_several(arms[1])}" if arms else "mapping"
    if _is_attrs(origin):
        return "mapping"
    return getattr(kind, "__name__", str(kind))


def _choice(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _several(kind: Any) -> str:
    words = _type_words(kind)
    return f"{words}s" if words in {"boolean", "integer", "number", "string", "mapping"} else f"({words})"
