"""The documentation of a plugin's options, taken from its options class: names, types, defaults and meanings."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import attrs
import pytest

from sage_deploy_files.describing.option_docs import attribute_docs, option_docs
from sage_plugins.config.structure import structure
from sage_plugins.plugins.registry import Registry


class Speed(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@attrs.frozen
class Inner:
    """
    Inner options.

    Attributes:
        depth: How deep.
    """

    depth: int = 3


@attrs.frozen
class Options:
    """
    Options of a test.

    Attributes:
        needed: Has no default.
        ratio: Goes on
            for two lines.
        speed (Speed): With its type.
        inner: Options of its own.

    Not an attribute: this is prose.
    """

    needed: str
    ratio: float | None = 0.5
    speed: Speed = Speed.SLOW
    mode: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ("x", "y")
    limits: Mapping[str, int] = attrs.Factory(dict)
    inner: Inner = attrs.Factory(Inner)
    derived: int = attrs.Factory(lambda self: len(self.names), takes_self=True)
    _hidden: bool = False
    free: Any = None
    marked: Annotated[int, ["unhashable"]] = 1
    internal: int = attrs.field(default=1, init=False)


def test_options_are_described_by_their_class():
    """
    Options have name, type, default and meaning from their class. Attributes that the constructor lacks are left out.
    """
    found = {option.name: option for option in option_docs(Options)}
    assert {name: (option.type, option.default, option.doc) for name, option in found.items()} == {
        "needed": ("string", None, "Has no default."),
        "ratio": ("number or null", 0.5, "Goes on for two lines."),
        "speed": ("fast or slow", "slow", "With its type."),
        "mode": ("a or b", "a", ""),
        "names": ("list of strings", ["x", "y"], ""),
        "limits": ("mapping of strings to integers", {}, ""),
        "inner": ("mapping", {"depth": 3}, "Options of its own."),
        "derived": ("integer", None, ""),
        "hidden": ("boolean", False, ""),
        "free": ("any value", None, ""),
        "marked": ("integer", 1, ""),
    }
    assert [name for name, option in found.items() if option.required] == ["needed"]
    assert [name for name, option in found.items() if option.computed] == ["derived"]


def test_options_below_an_option_are_described():
    (inner,) = next(option for option in option_docs(Options) if option.name == "inner").options
    assert (inner.name, inner.default, inner.doc) == ("depth", 3, "How deep.")


def test_names_are_those_that_the_reader_takes():
    """An attribute with a leading underscore is documented without it, as the reader and the constructor take it."""
    given = {"needed": "n", "hidden": True}
    options, problems = structure(Options, given, key="options.test")
    assert (problems, options._hidden) == ([], True)
    assert given.keys() <= {option.name for option in option_docs(Options)}


def test_class_that_contains_itself_ends():
    """A class that contains itself does not make the description recurse forever."""

    @attrs.frozen
    class Node:
        child: Any = None

    attrs.fields(Node)  # resolve the fields before the class's own name is in an annotation
    Node.__annotations__["child"] = Node
    nested = attrs.make_class("Nested", {"child": attrs.field(type=Node, default=None)})
    assert [option.name for option in option_docs(nested)] == ["child"]


def test_annotations_that_cannot_be_resolved_are_shown_as_written():
    @attrs.frozen
    class Broken:
        value: NoSuchType = None  # noqa: F821 - unresolvable on purpose

    (option,) = option_docs(Broken)
    assert option.type == "NoSuchType"


def test_base_class_says_what_its_heirs_leave_out():
    """A subclass without an `Attributes:` section inherits the meanings of its base class."""

    class Heir(Inner):
        """Without a section."""

    assert attribute_docs(Heir) == {"depth": "How deep."}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "One line.",
        "One line.\n\nArgs:\n    depth: Not an attribute.",
        "One line.\n\nAttributes: none.",
    ],
)
def test_docstring_without_the_section_says_nothing(text):
    assert attribute_docs(type("Plain", (), {"__doc__": text})) == {}


def test_every_option_of_the_installed_plugins_has_a_meaning():
    """Every option of the installed plugins has a meaning."""
    entries = Registry.discover().entries()
    classes = {key: entry.registration.options_class() for key, entry in entries.items()}
    described = [option for cls in classes.values() if cls is not None for option in option_docs(cls)]
    assert {"idle_timeout", "vnodes", "seed"} <= {option.name for option in described}
    assert [option.name for option in described if not option.doc or not option.type] == []
