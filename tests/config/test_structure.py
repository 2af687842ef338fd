"""`structure` makes a plugin's options class from a mapping, strictly, or returns every problem."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from enum import IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NewType

import attrs
import pytest

from sage_plugins.config.structure import structure


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


@attrs.frozen
class Node:
    host: str
    weight: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))


@attrs.frozen(kw_only=True)
class Options:
    number: int = attrs.field(default=1, validator=attrs.validators.ge(1))
    ratio: float = attrs.field(default=0.5, validator=attrs.validators.lt(10))
    on: bool = False
    name: str | None = None
    words: list[str] = attrs.Factory(list)
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    steps: Sequence[float] = ()
    tags: frozenset[str] = frozenset()
    counts: dict[str, int] = attrs.Factory(dict)
    by_name: Mapping[str, Node] = attrs.Factory(dict)
    mode: Literal["fast", "safe"] = "fast"
    colour: Colour = Colour.RED
    level: Level = Level.LOW
    node: Node | None = None
    nodes: tuple[Node, ...] = ()
    either: int | str = 0
    anything: Any = None


@attrs.frozen
class Ordered:
    low: int
    high: int = attrs.field()

    @high.validator
    def _above_low(self, _attribute, value):
        if value < self.low:
            message = "must be at least low"
            raise ValueError(message)


@attrs.frozen
class Summed:
    a: int = 1
    b: int = 1

    def __attrs_post_init__(self):
        if self.a + self.b > 10:
            message = "a and b together\nmust be 10 or less"
            raise ValueError(message)


def found(cls, value):
    made, problems = structure(cls, value, key="options.x")
    assert made is None
    assert problems
    return [(problem.key, problem.id) for problem in problems]


def test_every_supported_type_is_made():
    """Values of every supported type become attributes."""
    value = {
        "number": 2,
        "ratio": 3,
        "on": True,
        "name": "n",
        "words": ["a"],
        "sizes": [1, 2],
        "pair": [2, "b"],
        "steps": [1, 2.5],
        "tags": ["t"],
        "counts": {"k": 1},
        "by_name": {"z": {"host": "h"}},
        "mode": "safe",
        "colour": "blue",
        "level": 1,
        "node": {"host": "h", "weight": 2},
        "nodes": [{"host": "i"}],
        "either": "text",
        "anything": {"free": [1]},
    }
    made, problems = structure(Options, value, key="options.x")
    assert problems == []
    assert made == Options(
        number=2,
        ratio=3.0,
        on=True,
        name="n",
        words=["a"],
        sizes=(1, 2),
        pair=(2, "b"),
        steps=(1.0, 2.5),
        tags=frozenset({"t"}),
        counts={"k": 1},
        by_name={"z": Node("h")},
        mode="safe",
        colour=Colour.BLUE,
        level=Level.LOW,
        node=Node("h", 2.0),
        nodes=(Node("i"),),
        either="text",
        anything={"free": [1]},
    )
    assert type(made.ratio) is float
    assert type(made.colour) is Colour


def test_read_only_mappings_and_tuples_of_a_config_are_taken():
    """Read-only mappings and tuples, as in a configuration, are accepted."""
    value = MappingProxyType({"counts": MappingProxyType({"k": 1}), "words": ("a",)})
    assert structure(Options, value, key="x") == (Options(counts={"k": 1}, words=["a"]), [])


@pytest.mark.parametrize(
    ("value", "key", "rule", "words"),
    [
        ({"number": True}, "number", "E102", "must be an integer, got true"),
        ({"number": 2.0}, "number", "E102", "must be an integer, got 2.0"),
        ({"number": "2"}, "number", "E102", "must be an integer, got '2'"),
        ({"number": None}, "number", "E102", "must be an integer, got null"),
        ({"number": 0}, "number", "E103", "must be 1 or more, got 0"),
        ({"ratio": True}, "ratio", "E102", "must be a number, got true"),
        ({"ratio": "1.5"}, "ratio", "E102", "must be a number, got '1.5'"),
        ({"ratio": float("nan")}, "ratio", "E102", "must be a finite number, got .nan"),
        ({"ratio": float("inf")}, "ratio", "E102", "must be a finite number, got .inf"),
        ({"ratio": 10**400}, "ratio", "E102", "must be a finite number"),
        ({"on": 1}, "on", "E102", "must be true or false, got 1"),
        ({"on": "yes"}, "on", "E102", "must be true or false, got 'yes'"),
        ({"name": 3}, "name", "E102", "must be a string or null, got 3"),
        ({"words": "abc"}, "words", "E102", "must be a list, got 'abc'"),
        ({"words": {"a": 1}}, "words", "E102", "must be a list, got a mapping"),
        ({"words": ["a", 1]}, "words.1", "E102", "must be a string, got 1"),
        ({"sizes": [1, "2"]}, "sizes.1", "E102", "must be an integer, got '2'"),
        ({"pair": [1]}, "pair", "E102", "must be a list of 2 items (it has 1)"),
        ({"pair": ["a", "a"]}, "pair.0", "E102", "must be an integer, got 'a'"),
        ({"steps": [1, None]}, "steps.1", "E102", "must be a number, got null"),
        ({"tags": "t"}, "tags", "E102", "must be a list, got 't'"),
        ({"counts": []}, "counts", "E102", "must be a mapping, got a list"),
        ({"counts": {"k": "1"}}, "counts.k", "E102", "must be an integer, got '1'"),
        ({"by_name": {"z": {"hots": "h", "host": "h"}}}, "by_name.z.hots", "E101", "unknown key 'hots'"),
        ({"mode": "saef"}, "mode", "E103", "must be fast or safe, got 'saef'"),
        ({"mode": 1}, "mode", "E102", "must be fast or safe, got 1"),
        ({"colour": "bleu"}, "colour", "E103", "must be red or blue, got 'bleu'"),
        ({"level": True}, "level", "E102", "must be 1, got true"),
        ({"node": 3}, "node", "E102", "must be a mapping or null, got 3"),
        ({"node": {}}, "node.host", "E107", "is required, but missing"),
        ({"node": {"host": "h", "weight": -1}}, "node.weight", "E103", "must be 0 or more, got -1.0"),
        ({"nodes": [{"host": "h"}, {"host": 1}]}, "nodes.1.host", "E102", "must be a string, got 1"),
        ({"either": 1.5}, "either", "E102", "must be an integer or a string, got 1.5"),
        ({"nubmer": 1}, "nubmer", "E101", "unknown key 'nubmer'"),
        ({1: 1}, "", "E102", "keys must be strings, got 1"),
    ],
)
def test_one_wrong_value_is_one_problem_at_its_path(value, key, rule, words):
    """One wrong value gives one problem, at its path."""
    made, problems = structure(Options, value, key="options.x")
    assert made is None
    assert [(problem.key, problem.id) for problem in problems] == [(f"options.x.{key}".rstrip("."), rule)]
    assert words in problems[0].message


@pytest.mark.parametrize("value", [None, 3, "text", [], True])
def test_what_is_no_mapping_is_refused_as_a_whole(value):
    """A value that is no mapping gives one problem for the whole."""
    assert found(Options, value) == [("options.x", "E102")]


def test_all_problems_come_at_once_validators_of_the_good_values_too():
    """All problems are returned at once, also those of validators of other values."""
    value = {"number": 0, "ratio": 11, "on": 1, "nodes": [{"weight": -1}, 3], "colr": "red"}
    assert sorted(found(Options, value)) == [
        ("options.x.colr", "E101"),
        ("options.x.nodes.0.host", "E107"),
        ("options.x.nodes.0.weight", "E103"),
        ("options.x.nodes.1", "E102"),
        ("options.x.number", "E103"),
        ("options.x.on", "E102"),
        ("options.x.ratio", "E103"),
    ]


def test_all_failing_validators_are_reported_not_only_the_first():
    """All failing validators are reported, not only the first."""
    assert found(Options, {"number": 0, "ratio": 11}) == [("options.x.number", "E103"), ("options.x.ratio", "E103")]


def test_an_unknown_key_comes_with_the_nearest_spelling():
    """An unknown key suggests the nearest spelling."""
    _, (problem,) = structure(Options, {"color": "red"}, key="options.x")
    assert problem.fix == "did you mean 'colour'?"


def test_a_missing_required_key_is_named():
    assert found(Node, {}) == [("options.x.host", "E107")]


def test_validators_may_look_at_other_attributes():
    """A validator can read other attributes."""
    assert found(Ordered, {"low": 3, "high": 1}) == [("options.x.high", "E103")]
    assert structure(Ordered, {"low": 1, "high": 3}, key="x") == (Ordered(1, 3), [])


def test_a_validator_is_left_out_if_the_attribute_that_it_reads_is_wrong():
    """A validator is skipped if an attribute that it reads is wrong."""
    assert found(Ordered, {"low": "x", "high": 1}) == [("options.x.low", "E102")]


def test_a_check_of_the_whole_class_is_reported_at_the_class_on_one_line():
    """A failed check of the whole class is one problem at the class, on one line."""
    made, (problem,) = structure(Summed, {"a": 9, "b": 9}, key="options.x")
    assert made is None
    assert (problem.id, problem.key) == ("E103", "options.x")
    assert problem.message == "a and b together must be 10 or less"


def test_a_class_without_attrs_is_a_mistake_of_the_plugin():
    """A class without attrs raises TypeError: the plugin is wrong."""
    with pytest.raises(TypeError, match="is not an attrs class"):
        structure(dict, {}, key="x")


def test_no_options_at_all_do_not_import_the_checks_of_their_types():
    """Without options the checks of their types are not imported."""
    code = (
        "import sys, attrs; from sage_plugins.config.structure import structure;"
        "C = attrs.make_class('C', {'a': attrs.field(default=1)});"
        "assert structure(C, {}, key='x') == (C(), []); print('sage_plugins.config.strict_types' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


Port = NewType("Port", int)


@pytest.mark.parametrize(
    ("kind", "value", "made"),
    [
        (Annotated[int, "a port"], 1, 1),
        (Annotated[list, "bare"], (1, "a"), [1, "a"]),
        (Final[int], 1, 1),
        (Port, 1, 1),
        (AbstractSet[str], ["a", "a"], frozenset({"a"})),
        (MutableSet[str], ["a"], {"a"}),
        (MutableSequence[int], (1,), [1]),
        (dict, {1: [2]}, {1: [2]}),
        (Path, "a/b", Path("a/b")),
        (Path, Path("a"), Path("a")),
        (None, 3, 3),
    ],
)
def test_other_spellings_of_types_are_taken(kind, value, made):
    """Annotated, Final, NewType, abstract collections and Path are supported too."""
    cls = attrs.make_class("Made", {"x": attrs.field(type=kind)})
    options, problems = structure(cls, {"x": value}, key="options.x")
    assert (options.x, type(options.x), problems) == (made, type(made), [])


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (complex, 1, "E103 options.x.x: cannot be set: options of type complex are not supported"),
        (Path, 3, "E103 options.x.x: cannot be set: options of type Path are not supported"),
        ("Unknown", 1, "E103 options.x: name 'Unknown' is not defined"),
        (set[Any], [[1]], "E103 options.x.x: unhashable type: 'list'"),
        (dict[int, str], {"1": "a"}, "E102 options.x.x.1: must be an integer, got '1'"),
        (list[int] | None, ["a"], "E102 options.x.x.0: must be an integer, got 'a'"),
        (list[int] | str, 1, "E102 options.x.x: must be a list or a string, got 1"),
        (Literal["a"] | None, "b", "E103 options.x.x: must be a or null, got 'b'"),
        (float | None, float("nan"), "E102 options.x.x: must be a finite number or null, got .nan"),
        (Node | str, {"hst": "h"}, "E101 options.x.x.hst: unknown key 'hst'"),
    ],
)
def test_what_a_type_does_not_take_is_said_at_its_path(kind, value, problem):
    """A value that a type does not accept is reported at its path."""
    cls = attrs.make_class("Made", {"x": attrs.field(type=kind)})
    _, (first, *_) = structure(cls, {"x": value}, key="options.x")
    assert f"{first.id} {first.key}: {first.message}" == problem


def test_instances_of_a_class_are_taken_as_they_are():
    """Instances of the options class are taken unchanged."""
    node = Node("h", -0.0)
    made, problems = structure(Options, {"node": node, "nodes": [node]}, key="options.x")
    assert problems == []
    assert made.node is made.nodes[0] is node


def test_validator_of_what_a_converter_makes_does_not_see_what_was_given():
    """If an attribute has a converter and another value is wrong, its validator does not see the unconverted value."""
    cls = attrs.make_class(
        "Made",
        {
            "x": attrs.field(type=int, converter=lambda value: value * 10, validator=attrs.validators.ge(10)),
            "y": attrs.field(type=int, default=0),
        },
    )
    assert found(cls, {"x": 1, "y": "a"}) == [("options.x.y", "E102")]


def test_what_a_validator_says_of_a_secret_is_not_repeated():
    """The message about a secret does not contain its value."""
    cls = attrs.make_class("Made", {"password": attrs.field(type=str, validator=attrs.validators.in_(["a"]))})
    _, (problem,) = structure(cls, {"password": "my own"}, key="options.x")
    assert problem.message == "is not valid (ValueError)"
    _, (problem,) = structure(cls, {"password": 1234}, key="options.x")
    assert problem.message == "must be a string, got (hidden)"


def test_unknown_keys_beyond_the_first_twenty_get_no_suggestion():
    """Only the first twenty unknown keys get a suggestion."""
    _, problems = structure(Node, {f"hots{number}": 1 for number in range(25)} | {"host": "h"}, key="options.x")
    assert [bool(problem.fix) for problem in problems] == [True] * 20 + [False] * 5


@attrs.frozen
class Measured:
    wait: float = attrs.field(default=1.0, validator=attrs.validators.gt(0), metadata={"unit": "seconds"})
    memory: int = attrs.field(default=1, metadata={"unit": "MiB"})
    name: str = "2m"
    limit: int | None = attrs.field(default=None, metadata={"unit": "MiB"})
    pause: float | None = attrs.field(default=None, metadata={"unit": "seconds"})


def test_attributes_with_a_unit_that_may_be_null_take_texts_with_one():
    """
    Nullable attributes with a unit accept texts.

    A size for an integer becomes an integer, and messages mention null.
    """
    assert structure(Measured, {"limit": "4Gi", "pause": "2m"}, key="options.m")[0] == Measured(limit=4096, pause=120.0)
    _, (problem,) = structure(Measured, {"pause": "2x"}, key="options.m")
    assert problem.message == "must be a number, a duration or null, got '2x'"


def test_attributes_with_a_unit_take_texts_with_one():
    """Attributes with a unit accept texts with a unit; others keep them as text."""
    assert structure(Measured, {"wait": "2m", "memory": "4Gi", "name": "2m"}, key="options.m") == (
        Measured(120.0, 4096, "2m"),
        [],
    )


@pytest.mark.parametrize(
    ("value", "rule", "words"),
    [
        ({"wait": "2x"}, "E102", "options.m.wait: must be a number or a duration, got '2x'"),
        ({"wait": "0s"}, "E103", "options.m.wait: must be more than 0, got 0.0"),
        ({"memory": "100Ki"}, "E103", "options.m.memory: must be a whole number of MiB"),
        ({"wait": True}, "E102", "options.m.wait: must be a number, got true"),
    ],
)
def test_a_wrong_text_for_a_unit_is_answered_with_the_right_way(value, rule, words):
    """A wrong text for an attribute with a unit is refused with the right spelling."""
    found, (problem,) = structure(Measured, value, key="options.m")
    assert found is None
    assert problem.id == rule
    assert words in str(problem)
