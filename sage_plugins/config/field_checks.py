"""
Checks single values of the configuration: type, range and spelling.

A `FieldInfo` declares a field, and `value_problems` checks a value against it. `service_config` has the fields, and
`cross_rules` the rules between them. Other code that reads configuration uses `shown` and `unknown_key`, so that all
messages look alike.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from sage_plugins.texts import did_you_mean
from sage_plugins.values import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "DISTINCT",
    "LONGEST",
    "MOST",
    "NOT_FINITE",
    "SUGGESTIONS",
    "FieldInfo",
    "Kind",
    "Role",
    "Unit",
    "Wrong",
    "attribute_docs",
    "key_problem",
    "known_keys",
    "plain_string",
    "shown",
    "unknown_key",
    "value_problems",
    "wrong_choice",
    "wrong_integer",
    "wrong_number",
]

Kind = Literal["integer", "number", "boolean", "string", "strings", "labels", "mapping", "methods", "batch", "options"]

#: The unit of a number. A file may write the number with a unit, such as `250ms` or `4Gi`.
Unit = Literal["", "seconds", "MiB"]

#: The part that uses a field: a kind of plugin, the core itself, or the service's own class.
Role = Literal["target", "strategy", "balancer", "monitors", "core", "service"]

_KIND_WORDS: Final[Mapping[Kind, str]] = {
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "string": "string",
    "strings": "list of strings",
    "labels": "mapping of strings to strings",
    "mapping": "mapping",
    "methods": "mapping of method names to mappings",
    "batch": "true or a mapping of size and wait",
    "options": "mapping of plugin IDs to mappings",
}

#: Default maximum of integers, because they are sent as JSON and become C integers.
MOST: Final = 2**31 - 1
#: Maximum of durations in seconds, about 30 years: locks of the operating system overflow on a longer wait.
LONGEST: Final = 1e9
#: Maximum nesting of a mapping's contents; the file reader has the same limit.
_DEEPEST: Final = 32
#: Maximum number of unknown keys that get a suggestion: nobody reads more, and each takes a fraction of a millisecond.
SUGGESTIONS: Final = 20
_SHOWN: Final = 60
#: A message lists all known keys if there are at most this many.
_KEYS_LISTED: Final = 14
_METHOD_NAME: Final = "write it as the class does: letters, digits and '_'"
#: The first line of an attribute's entry in a docstring.
_ENTRY: Final = r"(?P<name>\w+)(?: \([^)]*\))?:\s*(?P<text>.*)"
#: Lists that must not have the same item twice, and the ID of the rule.
DISTINCT: Final = {"monitors": "E103", "target_nodes": "E205"}


class FieldInfo(NamedTuple):
    """
    The declaration of one configuration field. Give all values by keyword.

    Attributes:
        name: Name of the field, in Python and in YAML.
        group: The group in the YAML file, or None if the field is at the service's own level.
        kind: Kind of value that it takes.
        optional: Whether None (`null`) is allowed.
        default: The value if none is given.
        minimum: Smallest number allowed, or None.
        maximum: Largest number allowed, or None.
        exclusive: Whether the minimum itself is not allowed.
        choices: The strings allowed, or empty for any.
        keys: The keys of the mapping, or of each method's mapping if the kind is `methods`; empty if none are declared.
        unit: Unit of the number; "" for a number without unit and for everything else.
        role: The part that uses the field.
        doc: Meaning in one line, with the unit.
    """

    name: str
    kind: Kind
    doc: str
    group: str | None = None
    optional: bool = False
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive: bool = False
    choices: tuple[str, ...] = ()
    keys: Mapping[str, FieldInfo] = MappingProxyType({})
    unit: Unit = ""
    role: Role = "core"

    @property
    def type(self) -> str:
        """The type in words, such as `"integer or null"`."""
        return _KIND_WORDS[self.kind] + (" or null" if self.optional else "")

    @property
    def type_with_article(self) -> str:
        """The type with its article, for sentences, such as `"an integer or null"`."""
        if self.kind == "boolean":
            return "true or false"
        if self.kind == "batch":
            return self.type
        return f"{'an' if self.type[0] in 'aeiou' else 'a'} {self.type}"

    @property
    def range(self) -> str:
        """The allowed values in words, such as `"1 to 1024"`; empty if the type allows all."""
        numbers: tuple[str, ...] = ()
        if self.minimum is not None:
            numbers = (f"more than {self.minimum:g}" if self.exclusive else f"{self.minimum:g} or more",)
            if self.maximum is not None and self.maximum not in {MOST, LONGEST}:
                numbers = (f"{self.minimum:g} to {self.maximum:g}",)
        return " or ".join((*numbers, *self.choices))


def attribute_docs(cls: type) -> dict[str, str]:
    """
    Return the entries of the `Attributes:` section in the docstring of *cls*, by name, each on one line.

    Entries that a class leaves out are taken from its base classes.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _entries(inspect.cleandoc(vars(base).get("__doc__") or ""))
    return found


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry in the section. Deeper lines continue the entry above them."""
    _, _, section = f"\n{text}".partition("\nAttributes:\n")
    margin, name, parts = 0, "", list[str]()
    for line in section.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip() and not indent:
            break
        margin = margin or indent
        entry = re.match(_ENTRY, line.strip()) if indent == margin else None
        if entry is not None:
            if name:
                yield name, " ".join(parts)
            name, parts = entry["name"], [entry["text"]]
        elif line.strip():
            parts.append(line.strip())
    if name:
        yield name, " ".join(parts)


def shown(value: object) -> str:  # noqa: PLR0911 - one return for each kind of value
    """Return a value for a message: on one line, of limited length, spelled as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # str() refuses integers with more than 4,300 digits.
        return str(int(value)) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"  # noqa: PLR2004 - more digits than anybody reads
    if isinstance(value, float):
        return repr(float(value)).replace("inf", ".inf").replace("nan", ".nan")
    if isinstance(value, str):
        text = str.__str__(value)
        return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}... ({len(text)} characters)"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"an object of class {type(value).__name__}"


def _shown_at(key: str, value: object) -> str:
    """As `shown`, but hide the value if its path *key* names a secret."""
    from sage_plugins.config.secrets import HIDDEN, is_secret

    return HIDDEN if is_secret(key) else shown(value)


def unknown_key(key: str, word: str, candidates: Iterable[str], *, suggest: bool = True) -> Problem:
    """Return E101 for *word* at *key*; it suggests the nearest candidate, or lists all if none is near."""
    names = list(candidates)
    near = did_you_mean(word, names) if suggest else None
    fix = f"did you mean {near!r}?" if near else known_keys(names) if suggest else ""
    return Problem("E101", key, f"unknown key {shown(word)}", fix)


def known_keys(names: Sequence[str]) -> str:
    """Return what to do about an unknown key, if *names* are known and none is near it."""
    return f"keys: {', '.join(names)}" if 0 < len(names) <= _KEYS_LISTED else "remove it, or check the spelling"


def plain_string(value: Any) -> Any:
    """Return the plain string of an enum member or string; return every other value unchanged."""
    if isinstance(value, Enum):
        value = value.value
    return str.__str__(value) if isinstance(value, str) else value


# Checks whose messages are the same for fields and for plugins' options.


class Wrong:
    """
    Why a value does not fit. It does not yet know the value's path or which alternatives are allowed.

    Attributes:
        wanted: What the value must be, such as `"an integer"`.
        fix: What to do; may be empty.
        id: ID of the rule.
    """

    __slots__ = ("fix", "id", "wanted")

    def __init__(self, wanted: str, fix: str = "", id: str = "E102") -> None:
        self.wanted = wanted
        self.fix = fix
        self.id = id

    def problem(self, key: str, value: object) -> Problem:
        """Return the problem for *value* at *key*."""
        return Problem(self.id, key, f"must be {self.wanted}, got {_shown_at(key, value)}", self.fix)


NOT_FINITE: Final = Wrong("a finite number")


def wrong_integer(value: object) -> Wrong | None:
    """Return why *value* is not an integer; None if it is."""
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    return Wrong("an integer", _quoted_number(value))


def wrong_number(value: object) -> Wrong | None:
    """Return why *value* is not a finite number; None if it is. An integer is a number too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Wrong("a number", _quoted_number(value))
    return NOT_FINITE if isinstance(value, float) and not math.isfinite(value) else None


def wrong_choice(choices: Sequence[str], value: object) -> Wrong:
    """Return the message for *value*, which is none of the *choices*."""
    near = did_you_mean(value, choices) if isinstance(value, str) else None
    return Wrong(" or ".join(choices), f"did you mean {near!r}?" if near else "", "E103")


def key_problem(key: str, found: object) -> Problem:
    """Return the problem for *found*, a key of the mapping at *key* that is not a string."""
    return Problem("E102", key, f"keys must be strings, got {shown(found)}", "put it in quotes")


def _quoted_number(value: object) -> str:
    """Return what to do about a number in quotes, or with underscores as in YAML 1.1; "" for other values."""
    if not isinstance(value, str) or len(value) > _SHOWN:
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    return "write the digits without '_'" if "_" in value else "write the number without quotes"


# Checks of one value. Each gets a field and a raw value, and returns problems. None raises or changes the value.


def _wrong_type(info: FieldInfo, key: str, value: object, fix: str = "") -> list[Problem]:
    return [Wrong(info.type_with_article, fix).problem(key, value)]


def _range_problems(info: FieldInfo, key: str, value: float) -> list[Problem]:
    low, high = info.minimum, info.maximum
    if low is not None and (value < low or (info.exclusive and value == low)):
        allowed = f"more than {low:g}" if info.exclusive else f"{low:g} or more"
    elif high is not None and value > high:
        allowed = f"{high:.0f} or less"
    else:
        return []
    fix = "null means no limit" if value <= 0 and info.name == "timeout" else ""
    return [Wrong(allowed, fix, "E103").problem(key, value)]


def _number(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if isinstance(value, str) and value in info.choices:
        return []
    wrong = wrong_integer(value) if info.kind == "integer" else wrong_number(value)
    if wrong is None:
        return _range_problems(info, key, value)
    if wrong is NOT_FINITE:
        fix = "null means no limit" if info.optional and info.unit == "seconds" else ""
        return [Wrong(wrong.wanted, fix).problem(key, value)]
    return _wrong_type(info, key, value, wrong.fix)


def _boolean(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if isinstance(value, bool):
        return []
    fix = ""
    if isinstance(value, str):
        word = str.__str__(value).lower()
        if word in {"yes", "on", "y", "true"}:
            fix = "write true"
        elif word in {"no", "off", "n", "false"}:
            fix = "write false"
    return _wrong_type(info, key, value, fix)


def _string(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    value = plain_string(value)
    if not isinstance(value, str):
        return _wrong_type(info, key, value, "put it in quotes" if isinstance(value, (bool, int, float)) else "")
    if info.choices and value not in info.choices:
        return [wrong_choice(info.choices, value).problem(key, value)]
    if not value or value != value.strip():
        message = f"must not be empty or have spaces around it, got {_shown_at(key, value)}"
        return [Problem("E103", key, message, "remove the spaces" if value.strip() else "")]
    return []


def _strings(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if not isinstance(value, (list, tuple)):
        fix = f"write [{value}]" if isinstance(value, str) and value.isidentifier() else ""
        return _wrong_type(info, key, value, fix)
    item = FieldInfo(name=info.name, kind="string", doc="")
    found = [problem for index, text in enumerate(value) for problem in _string(item, f"{key}.{index}", text)]
    if not found and info.name in DISTINCT:
        seen: set[str] = set()
        for index, text in enumerate(map(plain_string, value)):
            if text in seen:
                message = f"names {text!r} a second time"
                found.append(Problem(DISTINCT[info.name], f"{key}.{index}", message, "remove it"))
            seen.add(text)
    return found


def _labels(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value)
    item = FieldInfo(name=info.name, kind="string", doc="")
    found: list[Problem] = []
    for label, text in value.items():
        if not isinstance(label, str):
            found.append(key_problem(key, label))
        else:
            found += _string(item, f"{key}.{label}", text)
    return found


def _mapping(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    """Check that it is a mapping with string keys on all levels. Without declared keys, any string key is allowed."""
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value)
    if info.keys:
        return _members(info.keys, key, value)
    found: list[Problem] = []
    # Not recursive, because contents from code may be very deep or contain themselves.
    pending: list[tuple[str, Any, int]] = [(key, value, 1)]
    while pending:
        path, node, depth = pending.pop()
        if depth > _DEEPEST and isinstance(node, (Mapping, list, tuple)):
            return [*found, Problem("E108", key, f"is nested more than {_DEEPEST} levels deep", "make it flatter")]
        if isinstance(node, Mapping):
            found += [key_problem(path, name) for name in node if not isinstance(name, str)]
            pending += [(f"{path}.{name}", child, depth + 1) for name, child in node.items() if isinstance(name, str)]
        elif isinstance(node, (list, tuple)):
            pending += [(f"{path}.{index}", child, depth + 1) for index, child in enumerate(node)]
    return found


def _options(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    found = _mapping(info, key, value)
    if not found:
        each = FieldInfo(name=info.name, kind="mapping", doc="")
        for name, child in value.items():
            if not isinstance(child, Mapping):
                found += _wrong_type(each, f"{key}.{name}", child)
    return found


def _members(
    declared: Mapping[str, FieldInfo], key: str, value: Mapping[Any, Any], *, before: int = 0
) -> list[Problem]:
    """Check a mapping of declared keys. *before* is the number of problems found earlier."""
    found: list[Problem] = []
    for name, child in value.items():
        if not isinstance(name, str):
            found.append(key_problem(key, name))
        elif name in declared:
            found += value_problems(declared[name], f"{key}.{name}", child)
        else:
            found.append(unknown_key(f"{key}.{name}", name, declared, suggest=before + len(found) < SUGGESTIONS))
    return found


def _methods(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value)
    found: list[Problem] = []
    for name, child in value.items():
        path = f"{key}.{name}" if isinstance(name, str) else key
        if not isinstance(name, str):
            found.append(key_problem(key, name))
        elif not name.isidentifier():
            found.append(Problem("E103", path, f"{shown(name)} is not the name of a method", _METHOD_NAME))
        elif name.startswith("_"):
            message = f"{shown(name)} is private, and private methods are not served"
            found.append(Problem("E103", path, message, "remove it, or rename the method"))
        elif not isinstance(child, Mapping):
            fix = f"keys: {', '.join(info.keys)}"
            found.append(Problem("E102", path, f"must be a mapping, got {shown(child)}", fix))
        else:
            found += _members(info.keys, path, child, before=len(found))
    return found


def _batch(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    if value is True:
        return []
    if not isinstance(value, Mapping):
        return _wrong_type(info, key, value, "leave the key out for no batching" if value is False else "")
    return _members(info.keys, key, value)


_CHECKS: Final[Mapping[Kind, Callable[[FieldInfo, str, Any], list[Problem]]]] = {
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
    "strings": _strings,
    "labels": _labels,
    "mapping": _mapping,
    "methods": _methods,
    "batch": _batch,
    "options": _options,
}


def value_problems(info: FieldInfo, key: str, value: Any) -> list[Problem]:
    """Return all problems of *value* at *key*. Reads only the field's own declaration."""
    if value is None and info.optional:
        return []
    return _CHECKS[info.kind](info, key, value)
