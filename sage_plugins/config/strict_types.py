"""
Converts the values of plugins' options to the types of the options class, strictly.

`build` walks through the types of an options class and the value together. Its rules and messages for numbers, strings,
choices and keys come from `field_checks`, as for the configuration's own fields.

A module separate from `structure`, because most services set no options and never import it.
"""

from __future__ import annotations

import contextlib
import re
import sys
import types
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
)
from collections.abc import (
    Set as AbstractSet,
)
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

import attrs

from sage_plugins.config.field_checks import (
    NOT_FINITE,
    SUGGESTIONS,
    FieldInfo,
    Wrong,
    key_problem,
    shown,
    unknown_key,
    wrong_choice,
    wrong_integer,
    wrong_number,
)
from sage_plugins.config.secrets import is_secret
from sage_plugins.config.units import number_of
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.config.field_checks import Kind

__all__ = ["LISTS", "MAPPINGS", "RefusedError", "build", "validator_problem"]

#: The types that accept a list, and the type that is made of the list.
LISTS: Final[Mapping[type, Callable[[list[Any]], Any]]] = {
    list: list,
    MutableSequence: list,
    tuple: tuple,
    Sequence: tuple,
    Collection: tuple,
    Iterable: tuple,
    set: set,
    MutableSet: set,
    frozenset: frozenset,
    AbstractSet: frozenset,
}
#: The types that accept a mapping.
MAPPINGS: Final = frozenset({dict, Mapping, MutableMapping})

#: The messages of attrs's validators for ranges and lengths, and the core's words for them.
_RANGE: Final = re.compile(r"(Length of '.+' )?must be (>=|>|<=|<) ([^:]+): (.+)")
_SIGNS: Final = {">=": "{} or more", ">": "more than {}", "<=": "{} or less", "<": "less than {}"}


class RefusedError(Exception):
    """
    A value does not fit its type.

    Attributes:
        problems: All reasons.
        wrong: The reason if the value as a whole does not fit, for a union's own message; otherwise None.
    """

    def __init__(self, problems: list[Problem], wrong: Wrong | None = None) -> None:
        super().__init__(problems)
        self.problems = problems
        self.wrong = wrong


def build(kind: Any, key: str, value: Any) -> Any:
    """
    Convert *value*, at path *key*, to the type *kind*.

    Raises:
        RefusedError: The value does not fit the type.
    """
    kind = _bare(kind)
    origin, arms = get_origin(kind) or kind, get_args(kind)
    if origin in _SCALARS:
        rule, make = _SCALARS[origin]
        _refuse_if(rule(value), key, value)
        return make(value)
    if origin in {Union, types.UnionType}:
        return _union(arms, key, value)
    if origin is Literal:
        return _choice(arms, key, value)
    return _of_class(origin, arms, key, value) if isinstance(origin, type) else _unknown(kind, key)


def validator_problem(error: BaseException, key: str) -> Problem:
    """Return the problem at *key* for an exception of a validator in a plugin's class."""
    if is_secret(key):
        # The text of the plugin's exception may contain the value.
        return Problem("E103", key, f"is not valid ({type(error).__name__})")
    text = " ".join(str(error.args[0] if error.args else error).split()) or type(error).__name__
    # Messages of attrs's own validators begin with the attribute's name, which is already in the key.
    name = f"'{key.rpartition('.')[2]}' "
    text = text.removeprefix(name)
    found = _RANGE.fullmatch(text)
    if found is not None:
        length, sign, bound, value = found.groups()
        text = f"must {'have a length of' if length else 'be'} {_SIGNS[sign].format(bound)}, got {value}"
    return Problem("E103", key, text)


def _bare(kind: Any) -> Any:
    """Return the type inside `Annotated`, `Final`, `NewType` and type aliases."""
    if get_origin(kind) in {Annotated, Final}:
        return _bare(get_args(kind)[0])
    inner = getattr(kind, "__supertype__", getattr(kind, "__value__", None))
    return kind if inner is None or isinstance(kind, type) else _bare(inner)


def _of_class(origin: type, arms: tuple[Any, ...], key: str, value: Any) -> Any:
    if issubclass(origin, Enum):
        return value if isinstance(value, origin) else origin(_choice([each.value for each in origin], key, value))
    if attrs.has(origin):
        return _instance(origin, key, value)
    if origin in LISTS:
        return _list(origin, arms, key, value)
    if origin in MAPPINGS:
        return _mapping(arms, key, value)
    if issubclass(origin, PurePath) and isinstance(value, (str, PurePath)):
        return origin(value)
    return _unknown(origin, key)


def _unknown(kind: Any, key: str) -> Any:
    name = getattr(kind, "__name__", kind)
    raise RefusedError([Problem("E103", key, f"cannot be set: options of type {name} are not supported")])


def _refuse_if(wrong: Wrong | None, key: str, value: object) -> None:
    if wrong is not None:
        raise RefusedError([wrong.problem(key, value)], wrong)


@contextlib.contextmanager
def _collecting(problems: list[Problem]) -> Iterator[None]:
    """Collect the problems of a refused value and continue, so that one run shows all problems."""
    try:
        yield
    except RefusedError as refusal:
        problems += refusal.problems


# Scalars: for each type, a check and a function that makes a plain value.


def _wrong_boolean(value: object) -> Wrong | None:
    return None if isinstance(value, bool) else Wrong("true or false")


def _wrong_float(value: Any) -> Wrong | None:
    return wrong_number(value) or (NOT_FINITE if abs(value) > sys.float_info.max else None)


def _wrong_string(value: object) -> Wrong | None:
    return None if isinstance(value, str) else Wrong("a string")


def _wrong_null(value: object) -> Wrong | None:
    return None if value is None else Wrong("null")


def _same(value: Any) -> Any:
    return value


_SCALARS: Final[Mapping[Any, tuple[Callable[[Any], Wrong | None], Callable[[Any], Any]]]] = {
    Any: (lambda _: None, _same),
    bool: (_wrong_boolean, _same),
    int: (wrong_integer, int),
    float: (_wrong_float, float),
    str: (_wrong_string, str.__str__),
    None: (_wrong_null, _same),
    types.NoneType: (_wrong_null, _same),
}


def _choice(choices: Iterable[Any], key: str, value: Any) -> Any:
    choices = list(choices)
    for choice in choices:
        # Compare the types too, because True == 1.
        if type(choice) is type(value) and choice == value:
            return choice
    words = [choice if isinstance(choice, str) else shown(choice) for choice in choices]
    wrong = wrong_choice(words, value)
    is_of_their_type = type(value) in {type(choice) for choice in choices}
    _refuse_if(wrong if is_of_their_type else Wrong(wrong.wanted, wrong.fix), key, value)
    return None


# Types that consist of other types.


def _union(arms: tuple[Any, ...], key: str, value: Any) -> Any:
    some = [arm for arm in arms if arm is not types.NoneType]
    optional = len(some) < len(arms)
    if value is None and optional:
        return None
    classes = [arm for arm in some if attrs.has(get_origin(arm) or arm)]
    if isinstance(value, Mapping) and len(classes) == 1:
        # Problems inside the mapping help more than a message that no type of the union fits.
        return build(classes[0], key, value)
    refusals: list[RefusedError] = []
    wanted: list[str] = []
    for arm in some:
        try:
            return build(arm, key, value)
        except RefusedError as refusal:
            refusals.append(refusal)
            wanted.append(refusal.wrong.wanted if refusal.wrong else f"a {getattr(arm, '__name__', arm)}")
    first = refusals[0].wrong
    if first is None and len(some) == 1:
        raise refusals[0]
    fix = first.fix if first else ""
    id_ = first.id if first and len(some) == 1 else "E102"
    _refuse_if(Wrong(" or ".join([*wanted, *(["null"] if optional else [])]), fix, id_), key, value)
    return None


def _list(origin: type, arms: tuple[Any, ...], key: str, value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        _refuse_if(Wrong("a list"), key, value)
    if origin is tuple and arms and arms[-1] is not Ellipsis:
        if len(value) != len(arms):
            _refuse_if(Wrong(f"a list of {len(arms)} items (it has {len(value)})"), key, value)
    else:
        arms = (arms[0] if arms else Any,) * len(value)
    items: list[Any] = []
    problems: list[Problem] = []
    for index, (arm, item) in enumerate(zip(arms, value, strict=True)):
        with _collecting(problems):
            items.append(build(arm, f"{key}.{index}", item))
    if problems:
        raise RefusedError(problems)
    try:
        return LISTS[origin](items)
    except TypeError as error:  # an item of a set is not hashable
        raise RefusedError([validator_problem(error, key)]) from None


def _mapping(arms: tuple[Any, ...], key: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        _refuse_if(Wrong("a mapping"), key, value)
    names, children = arms or (Any, Any)
    made: dict[Any, Any] = {}
    problems: list[Problem] = []
    for name, child in value.items():
        with _collecting(problems):
            made[build(names, f"{key}.{name}", name)] = build(children, f"{key}.{name}", child)
    if problems:
        raise RefusedError(problems)
    return made


def _instance(cls: type[Any], key: str, value: Any) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        _refuse_if(Wrong("a mapping"), key, value)
    try:
        declared = {each.alias or each.name: each for each in attrs.fields(attrs.resolve_types(cls)) if each.init}
    except Exception as error:  # noqa: BLE001 - evaluating a plugin's annotations may raise anything
        raise RefusedError([validator_problem(error, key)]) from None
    given, problems = _attributes(declared, key, value)
    # Values of the right type are validated even if others are wrong, so that one run shows all problems.
    if problems:
        raise RefusedError(problems + _validated(cls, declared, key, given))
    try:
        return cls(**given)
    except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
        found = _validated(cls, declared, key, given)
        raise RefusedError(found or [validator_problem(error, key)]) from None


def _attributes(
    declared: Mapping[str, attrs.Attribute[Any]], key: str, value: Mapping[Any, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the attributes that fit, by the name of the constructor's argument, and the problems of the others."""
    problems: list[Problem] = []
    for word in value:
        if not isinstance(word, str):
            problems.append(key_problem(key, word))
        elif word not in declared:
            problems.append(unknown_key(f"{key}.{word}", word, declared, suggest=len(problems) < SUGGESTIONS))
    given: dict[str, Any] = {}
    for name, attribute in declared.items():
        if name in value:
            with _collecting(problems):
                given[name] = _attribute(attribute, f"{key}.{name}", value[name])
        elif attribute.default is attrs.NOTHING:
            problems.append(Problem("E107", f"{key}.{name}", "is required, but missing"))
    return given, problems


def _attribute(attribute: attrs.Attribute[Any], key: str, value: Any) -> Any:
    """Return the attribute's value. If its metadata have a unit, a text such as `250ms` becomes a number first."""
    unit = attribute.metadata.get("unit", "")
    if unit and isinstance(value, str):
        arms = get_args(attribute.type) or (attribute.type,)
        kind: Kind = "number" if float in arms else "integer"
        info = FieldInfo(name=attribute.name, kind=kind, doc="", optional=types.NoneType in arms, unit=unit)
        value, problem = number_of(info, key, value)
        if problem is not None:
            raise RefusedError([problem])
    return value if attribute.type is None else build(attribute.type, key, value)


def _validated(
    cls: type[Any], declared: Mapping[str, attrs.Attribute[Any]], key: str, given: Mapping[str, Any]
) -> list[Problem]:
    """Run each attribute's validator separately and return all problems: the constructor stops at the first."""
    # Validators may read other attributes, so they get an instance, on which some attributes may be missing.
    instance = object.__new__(cls)
    for name, value in given.items():
        object.__setattr__(instance, declared[name].name, value)
    problems: list[Problem] = []
    for name, value in given.items():
        attribute = declared[name]
        if attribute.validator is None or attribute.converter is not None:
            continue
        try:
            attribute.validator(instance, attribute, value)
        except AttributeError:
            # The validator reads an attribute that is missing because it is wrong; that is reported already.
            continue
        except Exception as error:  # noqa: BLE001 - a class's validators may raise anything; collected, not hidden
            problems.append(validator_problem(error, f"{key}.{name}"))
    return problems
