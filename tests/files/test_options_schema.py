"""The JSON schema of plugins' options: it gives the same verdict as `structure`, and describes what the class says."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from sage_deploy_files.describing.schema.options import OptionsSchemas
from sage_plugins.config.structure import structure


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@attrs.frozen
class Node:
    """
    A node.

    Attributes:
        host: Its name,
            or its address.
        children: Those below it.
    """

    host: str
    weight: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    children: tuple[Node, ...] = ()


@attrs.frozen(kw_only=True)
class Options:
    number: int = attrs.field(default=1, validator=[attrs.validators.ge(1), attrs.validators.lt(9)])
    ratio: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))
    on: bool = False
    name: str | None = None
    words: list[str] = attrs.field(factory=list, validator=attrs.validators.max_len(2))
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    steps: Sequence[float] = ()
    tags: frozenset[str] = frozenset()
    counts: dict[str, int] = attrs.field(factory=dict, validator=attrs.validators.max_len(1))
    by_name: Mapping[str, Node] = attrs.Factory(dict)
    by_colour: dict[Colour, int] = attrs.Factory(dict)
    mode: Literal["fast", "safe"] = "fast"
    colour: Colour | None = Colour.RED
    level: Level = Level.LOW
    node: Node | None = None
    either: int | str = 0
    several: bool | list[int] | None = None
    none: None = None
    anything: Any = None
    plain_list: list = attrs.Factory(list)
    choice: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.in_([1, 3])))
    word: str = attrs.field(default="a1", validator=attrs.validators.matches_re(r"[a-z]\d?"))
    short: str = attrs.field(default="abc", validator=[attrs.validators.min_len(1), attrs.validators.max_len(3)])
    alias: int = attrs.field(default=1, alias="other_name")
    internal: int = attrs.field(default=1, init=False)


StrictValidator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def whole(cls: type) -> dict[str, Any]:
    schemas = OptionsSchemas()
    return {**schemas.of_class(cls), "$defs": schemas.definitions}


def definition(cls: type) -> dict[str, Any]:
    schema = whole(cls)
    found: dict[str, Any] = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    return found


def takes(cls: type, value: Any) -> bool:
    return StrictValidator(whole(cls)).is_valid(value)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 10),
    st.sampled_from([0.5, -0.5]),
    st.sampled_from(["", "a", "a1", "abc", "abcd", "fast", "red", "a\n"]),
    st.lists(st.sampled_from([1, "a", 0.5, None, "b"]), max_size=3),
    st.dictionaries(st.sampled_from(["host", "weight", "red", "k"]), st.sampled_from([1, "h", -1, 0.5]), max_size=2),
    st.sampled_from(
        [{"host": "h", "children": [{"host": "i"}]}, {"host": "h", "children": [{}]}, {"k": {"host": "h"}}]
    ),
)
NAMES = [*(each.alias for each in attrs.fields(Options)), "mistake"]
VALIDATOR = StrictValidator(whole(Options))


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=2))
def test_schema_and_structure_agree(value):
    """The schema accepts options exactly if `structure` does."""
    _, problems = structure(Options, value, key="options.x")
    mistakes = [error.message for error in VALIDATOR.iter_errors(value)]
    assert bool(mistakes) == bool(problems), (mistakes, problems)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"internal", "mistake"}])
def test_each_option_has_values_that_both_take_and_others_that_both_refuse(name):
    """Each option has values that both accept and values that both refuse, so that the test above means something."""
    samples = [None, True, 1, 3, 0.5, -1, "a1", "fast", "red", [], [1, "a"], ["a"] * 3, {}, {"host": "h"}, {"red": 1}]
    verdicts = set()
    for value in samples:
        _, problems = structure(Options, {name: value}, key="options.x")
        assert VALIDATOR.is_valid({name: value}) == (not problems)
        verdicts.add(not problems)
    assert verdicts == {True} if name == "anything" else {True, False}


def made(kind: Any, validator: Any = None, **settings: Any) -> type:
    return attrs.make_class("Made", {"x": attrs.field(type=kind, validator=validator, **settings)})


v = attrs.validators


@pytest.mark.parametrize(
    ("kind", "validator", "good", "bad"),
    [
        (int, v.ge(1), [1, 2], [0]),
        (int, v.gt(1), [2], [1]),
        (float, v.le(1), [1, 0.5], [1.5]),
        (float, v.lt(1), [0.5], [1]),
        (int, v.and_(v.ge(1), v.ge(3), v.le(9), v.le(5)), [3, 5], [2, 6]),
        (int | None, v.optional([v.ge(1), v.lt(3)]), [None, 2], [0, 3]),
        (str, v.in_(["a", "b"]), ["a"], ["c", ""]),
        (str | None, v.optional(v.in_({"a", "b"})), ["a", None], ["c"]),
        (Literal["a", "b"], v.in_(["b", "c"]), ["b"], ["a", "c"]),
        (str, v.matches_re("a+"), ["a", "aa"], ["ab", "ba", "a\n"]),
        (str, v.matches_re("a+", func=re.match), ["ab"], ["ba"]),
        (str, v.matches_re("a+", func=re.search), ["ba"], ["b"]),
        (str, [v.matches_re("[a-z]+"), v.min_len(6), v.max_len(8)], ["abcdef"], ["abcde", "abcdefghi", "abcdeF"]),
        (str, v.min_len(1), ["a"], [""]),
        (list[int], [v.min_len(1), v.max_len(2)], [[1], [1, 2]], [[], [1, 2, 3]]),
        (dict[str, int], v.min_len(1), [{"a": 1}], [{}]),
    ],
)
def test_validators_of_attrs_are_said(kind, validator, good, bad):
    """The schema checks attrs validators as `structure` does. A variable of the environment may replace any scalar."""
    cls = made(kind, validator)
    for value in (*good, *bad):
        _, problems = structure(cls, {"x": value}, key="options.x")
        assert (not problems) == (value in good), value
        assert takes(cls, {"x": value}) == (value in good), value
    assert takes(cls, {"x": "${NAME}"}) == (kind not in {list[int], dict[str, int]})


@pytest.mark.parametrize(
    ("kind", "validator", "value"),
    [
        # Regular expressions that JSON Schema lacks or reads differently.
        (str, v.matches_re(r"(?i)a"), "A"),
        (str, v.matches_re("a", re.IGNORECASE), "A"),
        (str, v.matches_re(r"\w"), "é"),
        (str, v.matches_re(r"(?P<name>a)"), "a"),
        (str, v.matches_re(r"a\Z"), "a"),
        (str, v.matches_re(r"\-"), "-"),
        # Choices that the schema cannot list.
        (int, v.in_(range(1_000_000)), 5),
        (str, v.in_("abc"), "bc"),
        (int, v.instance_of(int), 1),
        (int, lambda *_: None, 1),
        (int, v.or_(v.ge(5), v.lt(2)), 1),
    ],
)
def test_what_cannot_be_said_is_left_out(kind, validator, value):
    """What a schema cannot express is left out: it accepts too much rather than too little."""
    cls = made(kind, validator)
    assert structure(cls, {"x": value}, key="options.x")[1] == []
    assert takes(cls, {"x": value})


def test_validator_of_what_a_converter_makes_is_left_out():
    """A validator behind a converter is left out, because it sees another value than the file has."""
    cls = made(int, v.ge(10), converter=lambda value: value * 10)
    assert structure(cls, {"x": 1}, key="options.x")[1] == []
    assert takes(cls, {"x": 1})


def test_type_that_is_not_known_takes_anything():
    """An unknown type accepts anything."""

    class Strange:
        pass

    assert takes(made(Strange), {"x": [1]})
    assert takes(made("not a type at all"), {"x": 1})
    assert takes(made(None), {"x": 1})


def test_required_option_is_required():
    assert definition(Node)["required"] == ["host"]
    assert definition(Node)["properties"]["host"]["description"] == "Its name, or its address.\nRequired."
    assert not takes(Node, {})


def test_class_may_contain_itself():
    assert takes(Node, {"host": "a", "children": [{"host": "b", "children": [{"host": "c"}]}]})
    assert not takes(Node, {"host": "a", "children": [{"host": "b", "children": [{"hots": "c"}]}]})


def test_classes_of_the_same_name_stay_two():
    """Two classes with the same name get separate definitions."""
    schemas = OptionsSchemas()
    first, second = schemas.of_class(made(int)), schemas.of_class(made(str))
    assert first != second
    assert len(schemas.definitions) == 2
    assert all(re.fullmatch(r"[\w.-]+", name) for name in schemas.definitions)


@pytest.mark.parametrize(
    ("default", "shown"),
    [
        (1, 1),
        (Colour.BLUE, "blue"),
        ((1, 2), [1, 2]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (Node("h"), {"host": "h", "weight": 1.0, "children": []}),
        (attrs.Factory(lambda: {"a": [1]}), {"a": [1]}),
    ],
)
def test_default_is_shown_as_a_file_would_have_it(default, shown):
    """A default is shown in the form that a file uses."""
    found = definition(made(Any, default=default))["properties"]["x"]
    assert found["default"] == shown
    assert found["description"].startswith("Default: ")


@pytest.mark.parametrize(
    "default",
    [
        math.inf,
        object(),
        {1: 2},
        attrs.Factory(lambda self: self, takes_self=True),
        attrs.Factory(lambda: 1 / 0),
    ],
)
def test_default_that_json_cannot_say_is_not_shown(default):
    """A default that JSON cannot express is not shown."""
    found = definition(made(Any, default=default))["properties"]["x"]
    assert "default" not in found
    assert found["description"] == ""


def test_default_null_is_said_but_not_filled_in():
    """A default of null is described but not filled in: editors fail on null where they expect text."""
    found = definition(made(str | None, default=None))["properties"]["x"]
    assert "default" not in found
    assert found["description"] == "Default: null."


def test_options_with_a_unit_take_the_spellings_that_structure_takes():
    from jsonschema import Draft202012Validator

    from sage_deploy_files.describing.schema.document import deployment_schema
    from sage_plugins.plugins.registry import Registry

    validator = Draft202012Validator(deployment_schema(Registry.discover()))
    for value, good in (("2m", True), (5, True), ("5x", False), ("${IDLE}", True), (0, False)):
        file = {"services": {"kv": {"options": {"pool": {"idle_timeout": value}}}}}
        assert validator.is_valid(file) == good, value
