"""
What values each type of an option takes: the hooks that make cattrs strict, and its exceptions as problems.

Apart from `structure`, because most services set no options, and need none of this.
"""

from __future__ import annotations

import functools
import math
import re
import types
from collections.abc import Collection, Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin

import attrs

from sage_plugins.config.field_checks import FieldInfo, quoted_number, shown, shown_at, unknown_key
from sage_plugins.config.secrets import is_secret
from sage_plugins.config.units import number_of
from sage_plugins.texts import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from cattrs import Converter

    from sage_plugins.config.field_checks import Kind

__all__ = ["LISTS", "MAPPINGS", "converter", "problems_of", "validator_problem"]

#: The types that a list stands for, and those that a mapping stands for.
LISTS: Final = frozenset({list, tuple, set, frozenset, Sequence, MutableSequence, Collection, Iterable})
MAPPINGS: Final = frozenset({dict, Mapping, MutableMapping})

#: Unknown keys beyond so many get no suggestion.
_SUGGESTIONS: Final = 20


#: What attrs's validators of ranges and lengths say, and the words of the core for it.
_RANGE: Final = re.compile(r"(Length of '.+' )?must be (>=|>|<=|<) ([^:]+): (.+)")
_SIGNS: Final = {">=": "{} or more", ">": "more than {}", "<=": "{} or less", "<": "less than {}"}


class _WrongError(Exception):
    """One value that does not fit; becomes a problem once its path is known."""

    def __init__(self, id: str, wanted: str, value: object, fix: str = "") -> None:
        super().__init__(f"must be {wanted}, got {shown(value)}")
        self.id = id
        self.wanted = wanted
        self.value = value
        self.fix = fix

    def problem(self, key: str) -> Problem:
        return Problem(self.id, key, f"must be {self.wanted}, got {shown_at(key, self.value)}", self.fix)


class _UnknownError(Exception):
    """A key that the class does not have."""

    def __init__(self, word: object, candidates: Iterable[str], *, suggest: bool) -> None:
        super().__init__(word)
        self.word = word
        self.candidates = candidates
        self.suggest = suggest

    def problem(self, key: str) -> Problem:
        if isinstance(self.word, str):
            return unknown_key(f"{key}.{self.word}", self.word, self.candidates, suggest=self.suggest)
        return Problem("E102", key, f"keys must be strings, got {shown(self.word)}", "put it in quotes")


class _UnitError(Exception):
    """A text that does not spell a number with the unit of its attribute."""

    def __init__(self, found: Problem) -> None:
        super().__init__(found.message)
        self._found = found

    def problem(self, key: str) -> Problem:
        return attrs.evolve(self._found, key=key)


class _MissingError(Exception):
    """A required key that was not given."""

    def problem(self, key: str) -> Problem:
        return Problem("E107", key, "is required, but missing")


def _is_attrs(kind: Any) -> bool:
    return isinstance(kind, type) and attrs.has(kind)


def _origin(kind: Any) -> Any:
    """`list` for `list[int]`, and the type itself for one without arguments."""
    origin: Any = get_origin(kind)
    return kind if origin is None else origin


# From exceptions to problems.


def problems_of(error: BaseException, key: str) -> Iterable[Problem]:
    """
    The problems of which an exception of the converter consists, each at its place below *key*.

    cattrs makes a tree of exceptions; the notes that it leaves on them say where each belongs.
    """
    if isinstance(error, BaseExceptionGroup):
        for child in error.exceptions:
            yield from problems_of(child, key + _step(child))
    elif isinstance(error, (_WrongError, _UnknownError, _UnitError, _MissingError)):
        yield error.problem(key)
    else:
        yield validator_problem(error, key)


def _step(error: BaseException) -> str:
    from cattrs.errors import (
        AttributeValidationNote,
        IterableValidationNote,
    )

    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{note.name}"
        if isinstance(note, IterableValidationNote):
            return f".{note.index}"
    return ""


def validator_problem(error: BaseException, key: str) -> Problem:
    """What a validator of a plugin's class has raised, as a problem at *key*."""
    if is_secret(key):
        # The text of a stranger's exception may have the value in it.
        return Problem("E103", key, f"is not valid ({type(error).__name__})")
    text = " ".join(str(error.args[0] if error.args else error).split()) or type(error).__name__
    # attrs's own validators begin with the attribute's name, which the key says already.
    name = f"'{key.rpartition('.')[2]}' "
    text = text.removeprefix(name)
    found = _RANGE.fullmatch(text)
    if found is not None:
        length, sign, bound, value = found.groups()
        text = f"must {'have a length of' if length else 'be'} {_SIGNS[sign].format(bound)}, got {value}"
    return Problem("E103", key, text)


# Strict hooks.


def _boolean(value: Any, _: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _WrongError("E102", "true or false", value)


def _integer(value: Any, _: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    raise _WrongError("E102", "an integer", value, quoted_number(value))


def _float(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _WrongError("E102", "a number", value, quoted_number(value))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _WrongError("E102", "a finite number", value)
    return number


def _string(value: Any, _: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    raise _WrongError("E102", "a string", value)


def _null(value: Any, _: Any) -> None:
    if value is not None:
        raise _WrongError("E102", "null", value)


def _one_of(choices: Iterable[Any], value: Any) -> Any:
    choices = list(choices)
    for choice in choices:
        # By type too: True equals 1.
        if type(choice) is type(value) and choice == value:
            return choice
    words = [choice if isinstance(choice, str) else shown(choice) for choice in choices]
    near = did_you_mean(value, words) if isinstance(value, str) else None
    kinds = {type(choice) for choice in choices}
    id_ = "E103" if type(value) in kinds else "E102"
    raise _WrongError(id_, " or ".join(words), value, f"did you mean {near!r}?" if near else "")


def _literal(value: Any, kind: Any) -> Any:
    return _one_of(get_args(kind), value)


def _enum(value: Any, kind: type[Enum]) -> Enum:
    if isinstance(value, kind):
        return value
    return kind(_one_of([member.value for member in kind], value))


def _noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


def _sequence_hook(converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.errors import IterableValidationError, IterableValidationNote

    def hook(value: Any, kind: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _WrongError("E102", "a list", value)
        origin = _origin(kind)
        item_types = get_args(kind)
        if origin is tuple and item_types and item_types[-1] is not Ellipsis:
            if len(value) != len(item_types):
                wanted = f"a list of {len(item_types)} items"
                raise _WrongError("E102", f"{wanted} (it has {len(value)})", value)
        else:
            item_types = (item_types[0] if item_types else Any,) * len(value)
        items: list[Any] = []
        errors: list[Exception] = []
        for index, (item, item_type) in enumerate(zip(value, item_types, strict=True)):
            try:
                items.append(converter.structure(item, item_type))
            except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
                errors.append(_noted(error, IterableValidationNote(f"item {index}", index, item_type)))
        if errors:
            raise IterableValidationError("items", errors, kind)
        if origin in {list, MutableSequence}:
            return items
        return origin(items) if origin in {set, frozenset} else tuple(items)

    return hook


def _union_hook(converter: Converter) -> Callable[[Any, Any], Any]:
    def hook(value: Any, kind: Any) -> Any:
        arms = [arm for arm in get_args(kind) if arm is not types.NoneType]
        optional = len(arms) < len(get_args(kind))
        if value is None and optional:
            return None
        if isinstance(value, Mapping):
            taking = [arm for arm in arms if _is_attrs(_origin(arm))]
            if len(taking) == 1:
                # What is wrong inside is worth more than "is none of these".
                return converter.structure(value, taking[0])
        wanted: list[str] = []
        failures: list[Exception] = []
        for arm in arms:
            try:
                return converter.structure(value, arm)
            except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
                failures.append(error)
                wanted.append(error.wanted if isinstance(error, _WrongError) else f"a {getattr(arm, '__name__', arm)}")
        first = failures[0]
        if len(failures) == 1 and not isinstance(first, _WrongError):
            raise first
        id_ = first.id if isinstance(first, _WrongError) and len(failures) == 1 else "E102"
        fix = first.fix if isinstance(first, _WrongError) else ""
        raise _WrongError(id_, " or ".join([*wanted, *(["null"] if optional else [])]), value, fix)

    return hook


def _attrs_hook(converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.errors import ClassValidationError

    def hook(value: Any, kind: Any) -> Any:
        cls = _origin(kind)
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise _WrongError("E102", "a mapping", value)
        declared = {a.alias or a.name: a for a in attrs.fields(attrs.resolve_types(cls)) if a.init}
        given, errors = _attributes(converter, declared, value)
        if not errors:
            try:
                return cls(**given)
            except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
                failed = _failing_validators(cls, declared, given)
                raise ClassValidationError("validators", failed or [error], cls) from None
        # Values of the right type are validated even if others are wrong, so that one run shows everything.
        raise ClassValidationError("attributes", errors + _failing_validators(cls, declared, given), cls)

    return hook


def _attributes(
    converter: Converter, declared: Mapping[str, attrs.Attribute[Any]], value: Mapping[Any, Any]
) -> tuple[dict[str, Any], list[Exception]]:
    """The attributes that could be made, by the name that the constructor takes, and what was wrong with the others."""
    from cattrs.errors import AttributeValidationNote

    errors: list[Exception] = []
    for word in value:
        if word not in declared:
            errors.append(_UnknownError(word, declared, suggest=len(errors) < _SUGGESTIONS))
    given: dict[str, Any] = {}
    for name, attribute in declared.items():
        note = AttributeValidationNote(f"attribute {name}", name, attribute.type)
        if name not in value:
            if attribute.default is attrs.NOTHING:
                errors.append(_noted(_MissingError(), note))
            continue
        try:
            found = _without_unit(attribute, value[name])
            given[name] = found if attribute.type is None else converter.structure(found, attribute.type)
        except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
            errors.append(_noted(error, note))
    return given, errors


def _without_unit(attribute: attrs.Attribute[Any], value: Any) -> Any:
    """The value, or the number that it spells with the unit that the attribute's metadata name, such as `"seconds"`."""
    unit = attribute.metadata.get("unit", "")
    if not unit or not isinstance(value, str):
        return value
    arms = get_args(attribute.type) or (attribute.type,)
    kind: Kind = "number" if float in arms else "integer"
    info = FieldInfo(name=attribute.name, kind=kind, doc="", optional=types.NoneType in arms, unit=unit)
    number, problem = number_of(info, "", value)
    if problem is not None:
        raise _UnitError(problem)
    return number


def _failing_validators(
    cls: type[Any], declared: Mapping[str, attrs.Attribute[Any]], given: Mapping[str, Any]
) -> list[Exception]:
    """What each attribute's validator raises on its own; the constructor stops at the first."""
    from cattrs.errors import AttributeValidationNote

    # Validators may read the other attributes, so they get an instance, of which not everything may be set.
    instance = object.__new__(cls)
    for name, value in given.items():
        object.__setattr__(instance, declared[name].name, value)
    failed: list[Exception] = []
    for name, value in given.items():
        attribute = declared[name]
        if attribute.validator is None or attribute.converter is not None:
            continue
        try:
            attribute.validator(instance, attribute, value)
        except AttributeError:
            # It reads an attribute that is not there because that one is wrong, which is reported already.
            continue
        except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
            failed.append(_noted(error, AttributeValidationNote(f"attribute {name}", name, attribute.type)))
    return failed


def _is_any(*kinds: Any) -> Callable[[Any], bool]:
    return lambda kind: any(kind is one for one in kinds)


def _enum_first(hook: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    # cattrs looks these hooks up by class, and an enum of strings is a string too.
    return lambda value, kind: (_enum if issubclass(kind, Enum) else hook)(value, kind)


def _has_origin(origins: Collection[Any]) -> Callable[[Any], bool]:
    return lambda kind: _origin(kind) in origins


@functools.cache
def converter() -> Converter:
    """The converter with the strict hooks, one for the process; safe from any thread."""
    from cattrs import Converter
    from cattrs.cols import mapping_structure_factory

    converter = Converter(detailed_validation=True)
    for kind, hook in ((bool, _boolean), (int, _integer), (float, _float), (str, _string), (Enum, _enum)):
        converter.register_structure_hook(kind, _enum_first(hook))
    converter.register_structure_hook_func(_is_any(None, types.NoneType), _null)
    converter.register_structure_hook_func(_has_origin({Literal}), _literal)
    converter.register_structure_hook_func(_has_origin(LISTS), _sequence_hook(converter))
    converter.register_structure_hook_func(_has_origin({Union, types.UnionType}), _union_hook(converter))
    converter.register_structure_hook_func(lambda kind: _is_attrs(_origin(kind)), _attrs_hook(converter))

    def mapping_factory(kind: Any, converter: Any) -> Callable[[Any, Any], Any]:
        contents = mapping_structure_factory(kind, converter)

        def hook(value: Any, kind: Any) -> Any:
            if not isinstance(value, Mapping):
                raise _WrongError("E102", "a mapping", value)
            return contents(value, kind)

        return hook

    converter.register_structure_hook_factory(_has_origin(MAPPINGS), mapping_factory)
    return converter
