"""
The YAML reader: what aliases, merge keys and variables stand for, and that none of them exceeds the limits.

The tests check the cost of reading by what it does: nodes made, values entered, variables read. Minimal files are
enough here; tests/files/test_deployment_file.py reads whole deployment files.
"""

from __future__ import annotations

import json
import sys
from collections import UserDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_deploy_files.reading import nodes as reading
from sage_deploy_files.reading.nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_SCALAR, Node, read_nodes
from sage_deploy_files.reading.variables import MAX_BROUGHT


def root(text, **environment):
    """Return the root of a file without flaws."""
    node, flaws = read_nodes(text.encode(), environment)
    assert flaws == []
    return node


def value(text, **environment):
    return root(text, **environment).value


def flaws(text, **environment):
    return read_nodes(text.encode(), environment)[1]


def found(text, **environment):
    """Return the place and rule of each flaw."""
    return [f"{flaw.line}:{flaw.column} {flaw.id}" for flaw in flaws(text, **environment)]


def only(text, **environment):
    """Return the only flaw."""
    (flaw,) = flaws(text, **environment)
    return flaw


def nodes(node):
    """Return every node of a tree, each once even if it is shared."""
    seen, pending = {id(node): node}, [node]
    while pending:
        top = pending.pop()
        for child in (*top.items, *top.entries.values()):
            if id(child) not in seen:
                seen[id(child)] = child
                pending.append(child)
    return list(seen.values())


def as_written(node):
    """Count the keys and values of a tree as if all aliases were written out."""
    inside = [*node.items, *node.entries.values()]
    return 1 + len(node.entries) + sum(map(as_written, inside))


@pytest.fixture
def made(monkeypatch):
    """A list of all nodes that reading makes."""
    nodes = []

    class Noted(Node):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            nodes.append(self)

    monkeypatch.setattr(reading, "Node", Noted)
    return nodes


class TestAnchors:
    def test_an_alias_stands_for_what_its_anchor_is_on(self):
        """An alias has the value of its anchor."""
        assert value("a: &x {k: [1, two]}\nb: *x\nc: [*x, *x]") == {
            "a": {"k": [1, "two"]},
            "b": {"k": [1, "two"]},
            "c": [{"k": [1, "two"]}] * 2,
        }

    @pytest.mark.parametrize(("text", "expected"), [("4", 4), ("", None), ("'4'", "4"), ("true", True), ("[]", [])])
    def test_a_value_of_any_kind_can_have_an_anchor(self, text, expected):
        assert value(f"- &x {text}\n- *x") == [expected, expected]

    def test_a_key_can_have_an_anchor(self):
        assert value("&x key: *x") == {"key": "key"}

    def test_an_alias_is_the_same_node_and_the_same_plain_value(self):
        """An alias is the same node as its anchor, not a copy."""
        tree = root("- &x {k: v}\n- *x\n- {<<: *x, own: 1}")
        assert tree.items[0] is tree.items[1]
        assert tree.value[0] is tree.value[1]
        assert tree.items[2].entries["k"] is tree.items[0].entries["k"]

    def test_what_an_alias_stands_for_has_the_place_where_it_is_written_and_the_key_its_own(self):
        """The value of an alias has the place of its anchor; the key in front of it keeps its own place."""
        tree = root("a: &x 1\nlonger: *x")
        assert (tree.entries["longer"].line, tree.entries["longer"].column) == (1, 4)
        assert tree.keys["longer"] == (2, 1)

    def test_of_two_anchors_of_one_name_the_later_counts_from_there_on(self):
        """If two anchors have the same name, an alias refers to the last one before it."""
        assert value("- &x 1\n- *x\n- &x 2\n- *x") == [1, 1, 2, 2]
        # The inner anchor starts later, so the end of the outer one changes nothing.
        assert value("- &x [&x 1, *x]\n- *x") == [[1, 1], 1]

    def test_a_key_can_be_an_alias_for_a_string(self):
        tree = root("- &x name\n- {*x : 1}\n- *x : 2")
        assert tree.value == ["name", {"name": 1}, {"name": 2}]
        assert tree.items[1].keys == {"name": (2, 4)}

    @pytest.mark.parametrize("what", ["4", "null", "[]", "{}", "true"])
    def test_a_key_cannot_be_an_alias_for_anything_else(self, what):
        assert found(f"- &x {what}\n- *x : 1\n  k: 2") == ["2:3 E102"]

    def test_a_key_cannot_be_an_alias_for_what_comes_from_a_variable(self):
        """A value from a variable cannot be a key."""
        assert found("- &x ${A}\n- *x : 1", A="name") == ["2:3 E105"]

    def test_keys_that_are_equal_through_an_alias_are_the_same_key_twice(self):
        assert found("- &x name\n- {name: 1, *x : 2}") == ["2:13 E104"]

    def test_an_alias_without_an_anchor_before_it_is_refused_with_the_nearest_name(self):
        """An alias without an anchor before it is refused, with the nearest name or what to do."""
        flaw = only("- &common {}\n- *comon")
        assert (flaw.line, flaw.column, flaw.id) == (2, 3, "E111")
        assert flaw.message == "alias *comon: there is no such anchor before it"
        assert flaw.fix == "did you mean *common?"
        assert only("- *later\n- &later 1").fix == "define it further up, as &name in front of a value"

    @pytest.mark.parametrize(
        ("text", "place"),
        [("&x [*x]", "1:5"), ("&x {k: *x}", "1:8"), ("- &x\n  - - *x", "2:7"), ("&x {*x : 1}", "1:5")],
    )
    def test_an_alias_inside_what_it_stands_for_is_refused(self, text, place):
        """An alias inside the value of its own anchor is refused."""
        assert found(text) == [f"{place} E111"]
        assert "stands inside the value that it stands for" in only(text).message

    def test_an_alias_for_what_is_wrong_is_not_reported_a_second_time(self):
        """A wrong value is reported once, at its anchor, not again at each alias."""
        assert found("- &x !t 1\n- *x\n- &y !t [2]\n- {k: *y}\n- &z a${}\n- <<: *z") == [
            "1:3 E106",
            "3:3 E106",
            "5:7 E105",
        ]

    def test_a_tag_is_refused_wherever_it_stands(self):
        assert found("- &x !!str a\n- !t &y {k: !u v}\n- {!!merge <<: {}}") == [
            "1:3 E106",
            "2:3 E106",
            "2:13 E106",
            "3:4 E106",
        ]

    def test_thousands_of_aliases_without_an_anchor_are_reported_with_few_suggestions(self):
        """If thousands of aliases have no anchor, all are reported, but only five get suggestions, which are slow."""
        text = "".join(f"- &common{index} 1\n- *comon{index}\n" for index in range(5000))
        wrong = flaws(text)
        assert len(wrong) == 5000
        assert sum("did you mean" in flaw.fix for flaw in wrong) == 5


class TestMergeKeys:
    BASE = "- &a {x: 1, y: 2}\n- &b {y: 3, z: 4}\n"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("<<: *a", {"x": 1, "y": 2}),
            ("<<: {x: 5}", {"x": 5}),
            ("<<: [*a, *b]", {"x": 1, "y": 2, "z": 4}),
            ("<<: [*b, {w: 5}, *a]", {"y": 3, "z": 4, "w": 5, "x": 1}),
            ("<<: []", {}),
            ("<<: {}", {}),
            ("<<: {<<: *a, y: 6}", {"y": 6, "x": 1}),
            ("x: 7, <<: *a", {"x": 7, "y": 2}),
            ("<<: *a, x: 7", {"x": 7, "y": 2}),
            ("w: 0, <<: [*a, *b], z: 7", {"w": 0, "z": 7, "x": 1, "y": 2}),
        ],
    )
    def test_own_keys_win_wherever_they_stand_and_earlier_mappings_over_later_ones(self, text, expected):
        """A mapping's own keys win over merged ones, and earlier merged mappings over later ones."""
        merged = value(f"{self.BASE}- {{{text}}}")[2]
        assert merged == expected
        # Own keys come first, in their order.
        assert list(merged) == list(expected)

    def test_a_list_of_mappings_can_have_an_anchor(self):
        assert value("- &l [{x: 1}, {x: 2, y: 3}]\n- <<: *l")[1] == {"x": 1, "y": 3}

    def test_merged_entries_keep_the_place_where_they_are_written(self):
        """Merged entries have the places where they are written."""
        tree = root("- &a\n  x: 1\n- y: 2\n  <<: *a").items[1]
        assert tree.keys == {"y": (3, 3), "x": (2, 3)}
        assert (tree.entries["x"].line, tree.entries["x"].column) == (2, 6)

    def test_merging_changes_nothing_of_what_is_merged(self):
        """A merge does not change the merged mapping."""
        tree = root("- &a {x: 1}\n- &b {<<: *a, y: 2}\n- {<<: [*b, *a], x: 3, z: 4}\n- [*a, *b]")
        assert tree.value == [{"x": 1}, {"y": 2, "x": 1}, {"x": 3, "z": 4, "y": 2}, [{"x": 1}, {"y": 2, "x": 1}]]
        assert [list(node.keys) for node in tree.items[:2]] == [["x"], ["y", "x"]]

    def test_a_merge_is_not_deep(self):
        """A merge replaces values as a whole; nested mappings are not merged."""
        assert value("- &a {k: {x: 1}}\n- {<<: *a, k: {y: 2}}")[1] == {"k": {"y": 2}}

    @pytest.mark.parametrize("key", ["'<<'", '"<<"'])
    def test_in_quotes_it_is_an_ordinary_key(self, key):
        assert value(f"{{{key}: {{x: 1}}, <<: {{y: 2}}}}") == {"<<": {"x": 1}, "y": 2}

    def test_as_a_value_it_is_an_ordinary_string(self):
        assert value("- <<") == ["<<"]

    @pytest.mark.parametrize(
        ("text", "place", "got"),
        [
            ("<<: 3", "1:5", "got 3"),
            ("<<:", "1:4", "got null"),
            ("<<: text", "1:5", "got 'text'"),
            ("<<: [{}, 3, {}]", "1:10", "got 3"),
            ("<<: [[{}]]", "1:6", "got a list"),
            ("l: &l [{}, 3, 4]\nm: {<<: *l}", "2:9", "got 3"),
            ("l: &l 3\nm: {<<: [*l]}", "2:10", "got 3"),
            ("<<: ${A}", "1:5", "got a value from the environment"),
        ],
    )
    def test_anything_else_than_mappings_is_refused_where_it_stands(self, text, place, got):
        """`<<` with anything else than mappings is refused at that value."""
        flaw = only(text, A="secret")
        assert f"{flaw.line}:{flaw.column} {flaw.id}" == f"{place} E111"
        assert flaw.message == f"<< merges a mapping or a list of mappings, {got}"
        assert flaw.fix == "write <<: *name or <<: [*one, *two]"

    def test_a_second_one_in_a_mapping_is_refused(self):
        flaw = only("<<: {x: 1}\n<<: {y: 2}")
        assert (flaw.line, flaw.column, flaw.id) == (2, 1, "E104")
        assert flaw.message == "duplicate key '<<', first on line 1"

    def test_a_key_whose_own_value_is_wrong_is_not_merged_in_its_place(self):
        """If a mapping's own value is wrong, the merged value does not replace it."""
        tree, wrong = read_nodes(b"- &a {x: 1, y: !t 2}\n- {<<: *a, x: !t 3}", {})
        assert [flaw.id for flaw in wrong] == ["E106", "E106"]
        assert tree.items[1].entries == {}
        # The key stays known, so that it is not reported as missing.
        assert list(tree.items[1].keys) == ["x", "y"]


BOMBS = {
    "a billion laughs": "- &a0 [x, x]\n" + "".join(f"- &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
    "laughing keys": "- &a0 {k: x}\n" + "".join(f"- &a{n} {{k: *a{n - 1}, l: *a{n - 1}}}\n" for n in range(1, 60)),
    "laughing merges": "- &m0 {k: x}\n"
    + "".join(f"- &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}], k{n}: x}}\n" for n in range(1, 999)),
    "quadratic aliases": "- &a [" + "x, " * 5000 + "]\n" + "- *a\n" * 5000,
    "quadratic merges": "- &m {" + ", ".join(f"k{n}: x" for n in range(5000)) + "}\n" + "- {<<: *m}\n" * 5000,
    "a chain of merges": "- &m0 {k: x}\n" + "".join(f"- &m{n} {{<<: *m{n - 1}, k{n}: x}}\n" for n in range(1, 5000)),
    "one mapping merged often": "- &m {" + ", ".join(f"k{n}: x" for n in range(5000)) + "}\n"
    "- <<: [" + "*m, " * 5000 + "]\n",
    "deep through aliases": "- &a0 []\n" + "".join(f"- &a{n} [*a{n - 1}]\n" for n in range(1, 5000)),
    "deep through merges": "- &a0 {}\n" + "".join(f"- &a{n} {{<<: {{k: *a{n - 1}}}}}\n" for n in range(1, 5000)),
}

CIRCLES = {
    "an alias to itself": ("&a [*a, *a]", ["1:5 E111", "1:9 E111"]),
    "a key that is its mapping": ("&a {*a : *a}", ["1:5 E111", "1:10 E111"]),
    "a merge of itself": ("&a {k: 1, <<: *a}", ["1:15 E111"]),
    "a merge of itself in a list": ("&a\n<<: [{}, *a]", ["2:10 E111"]),
    "a merge of what it stands in": ("&a {k: {<<: *a}}", ["1:13 E111"]),
}


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "size", "height"),
        [
            ("x", 1, 0),
            ("[]", 1, 1),
            ("[1, 2]", 3, 1),
            ("{k: v}", 3, 1),
            ("{k: [1, {}]}", 5, 3),
            ("[&x [1], *x, [*x]]", 8, 3),
            ("[&x {k: 1}, {<<: *x}, {<<: *x, l: 2}]", 12, 2),
            ("[&x {k: [1]}, {<<: *x, k: 2}]", 8, 3),
        ],
    )
    def test_size_and_height_are_those_of_the_tree_as_if_written_out(self, text, size, height):
        """Size and height count aliases and merges as if they were written out."""
        tree = root(text)
        assert (tree.size, tree.height) == (size, height)
        assert as_written(tree) == size

    def test_an_alias_counts_everything_that_it_stands_for(self):
        """An alias counts as all keys and values that it stands for."""
        ten = "- &x [" + "1," * 9 + "]\n"
        # The root, the anchored list, and 4,998 aliases: 1 + 4,999 * 10.
        fits = ten + "- *x\n" * 4998
        assert root(fits).size == 49_991
        flaw = only(fits + "- *x\n")
        assert (flaw.line, flaw.column, flaw.id) == (5000, 3, "E108")
        assert flaw.message == f"the file has more than {MAX_NODES} keys and values, 10 of them through the alias *x"

    def test_what_is_merged_counts_too(self):
        three = "- &x {k: 1, l: 2, m: 3}\n"
        # Each merge counts 9: the mapping, its key, and 7 for the alias.
        fits = three + "- {<<: *x}\n" * 5554
        assert root(fits).size == 1 + 7 * 5555
        assert found(fits + "- {<<: *x}\n") == ["5556:8 E108"]

    def test_an_alias_is_as_deep_as_what_it_stands_for(self):
        """An alias counts with the depth of what it stands for."""
        half = MAX_DEPTH // 2
        anchor = "&x " + "[" * half + "]" * half
        tree = root(f"[{anchor}, {'[' * (half - 1)}*x{']' * (half - 1)}]")
        assert tree.height == MAX_DEPTH
        flaw = only(f"[{anchor},\n{'[' * half}*x{']' * half}]")
        assert (flaw.line, flaw.column, flaw.id) == (2, half + 1, "E108")
        assert flaw.message == f"nested more than {MAX_DEPTH} levels deep, {half} of them through the alias *x"

    @pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
    def test_a_bomb_is_refused_before_anything_is_made_of_it(self, text, made):
        """A file whose aliases or merges expand enormously is refused before they are expanded."""
        assert len(text) < MAX_BYTES
        (flaw,) = flaws(text)
        assert flaw.id == "E108"
        # At most as many nodes as the file has lists, mappings and scalars; at most as many entries as a file may have.
        assert len(made) <= 1 + sum(map(text.count, "[{:kx"))
        assert sum(len(node.items) + len(node.entries) for node in made) <= MAX_NODES
        assert all(node.size <= MAX_NODES for node in made)

    @pytest.mark.parametrize(("text", "expected"), CIRCLES.values(), ids=CIRCLES)
    def test_what_refers_to_itself_is_refused(self, text, expected, made):
        """A value that contains itself is refused."""
        assert found(text) == expected
        assert len(made) < 10

    def test_as_many_aliases_as_a_file_can_hold_make_no_nodes(self, made):
        """Thousands of aliases share the node of their anchor."""
        tree = root("- &x {k: v}\n" + "- *x\n" * 12_000)
        assert tree.size == 1 + 4 * 12_001 - 12_001
        # The root, the mapping, its key and its value.
        assert len(made) == len(nodes(tree)) + 1 == 4

    def test_reading_needs_no_recursion(self):
        """Reading a file as deep as the limit needs no recursion."""
        text = "- " * MAX_DEPTH + "&x v\n" + "".join(f"- &a{n} [&b{n} {{k: *x}}, *b{n}]\n" for n in range(500))
        frame, depth = sys._getframe(), 0
        while frame:
            frame, depth = frame.f_back, depth + 1
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(depth + 40)
        try:
            tree, wrong = read_nodes(text.encode(), {})
        finally:
            sys.setrecursionlimit(before)
        assert (wrong, tree.height) == ([], MAX_DEPTH)


class Writer:
    """Writes a random file with anchors, aliases and merge keys, with its value as plain Python."""

    DEEPEST = 5
    SCALARS = (None, True, 0, 17, "", "no", "<<", "*x", "two words")

    def __init__(self, draw):
        self._draw = draw
        self._left = 300
        self._turns = 0
        # For each name: the turn of its latest anchor, and the anchor's node once it is complete.
        self._anchors = {}

    def _choose(self, *options):
        return self._draw(st.sampled_from(options))

    def node(self, depth=0):
        self._left -= 1
        kinds = [self._scalar, self._alias, self._alias]
        if depth < self.DEEPEST and self._left > 0:
            kinds += [self._list, self._mapping]
        return self._choose(*kinds)(depth)

    def _anchored(self, write, depth):
        name = self._choose("", "x", "y", "z")
        if not name:
            return write(depth)
        self._turns += 1
        turn = self._turns
        self._anchors[name] = turn, None
        text, value = write(depth)
        # Not if an inner value has an anchor with the same name.
        if self._anchors[name][0] == turn:
            self._anchors[name] = turn, root(json.dumps(value))
        return f"&{name} {text}", value

    def _scalar(self, depth):
        value = self._choose(*self.SCALARS)
        return self._anchored(lambda _: (json.dumps(value), value), depth)

    def _alias(self, depth, kind=object):
        """Return an alias, or what *kind* requires if no anchor fits."""
        names = [
            name
            for name, (_, node) in self._anchors.items()
            if node and isinstance(node.value, kind) and depth + node.height <= MAX_DEPTH and node.size <= self._left
        ]
        if not names:
            return self._mapping(depth) if kind is dict else self._scalar(depth)
        name = self._choose(*names)
        node = self._anchors[name][1]
        self._left -= node.size
        return f"*{name} ", node.value

    def _list(self, depth):
        def write(depth):
            items = [self.node(depth + 1) for _ in range(self._draw(st.integers(0, 3)))]
            return f"[{','.join(text for text, _ in items)}]", [value for _, value in items]

        return self._anchored(write, depth)

    def _mapping(self, depth):
        def write(depth):
            own, merged, texts = {}, {}, []
            keys = self._draw(st.lists(st.sampled_from(["<<", *"abcd"]), unique=True, max_size=4))
            for key in keys:
                if key == "<<":
                    text, merged = self._merged(depth)
                    texts.append(f"<<: {text}")
                else:
                    text, own[key] = self.node(depth + 1)
                    texts.append(f'"{key}": {text}')
            return f"{{{','.join(texts)}}}", own | {key: merged[key] for key in merged if key not in own}

        return self._anchored(write, depth)

    def _merged(self, depth):
        def source(depth):
            self._left -= 1
            return self._choose(self._mapping, lambda depth: self._alias(depth, dict))(depth)

        if self._draw(st.booleans()):
            return source(depth + 1)
        sources = [source(depth + 2) for _ in range(self._draw(st.integers(0, 2)))]
        merged = {}
        for _, value in sources:
            merged |= {key: value[key] for key in value if key not in merged}
        return f"[{','.join(text for text, _ in sources)}]", merged


@st.composite
def shared_trees(draw):
    return Writer(draw).node()


@settings(max_examples=200, deadline=None)
@given(shared_trees())
def test_a_file_with_anchors_reads_as_if_it_were_written_out(drawn):
    """A file with anchors has the same value, size and height as the file written out."""
    text, expected = drawn
    with_anchors, written_out = root(text), root(json.dumps(expected))
    # Compared as JSON, so that the order of keys counts and true is not 1.
    assert json.dumps(with_anchors.value) == json.dumps(expected)
    assert (with_anchors.size, with_anchors.height) == (written_out.size, written_out.height)
    for node in nodes(with_anchors):
        assert node.size == as_written(node)


#: Values that are wrong, each in a different way.
WRONG = ["${A}${", "${A}${NONE}", "${A}${A:-${B}}", "<<: ${A}", "? {}\n: ${A}", "'${A}\\u0000'", '"${A}\\ud800"']


class TestVariables:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("${A}", "one"),
            ("x${A}y", "xoney"),
            ("${A}${B_2}", "onetwo"),
            ("${_}", "low"),
            ("http://${A:-localhost}:${NONE:-80}/", "http://one:80/"),
            ("${NONE:-two words}", "two words"),
            ("${NONE:-}", ""),
            ("${EMPTY:-default}", "default"),
            ("${EMPTY}", ""),
            ("${NONE:-:-}", ":-"),
            ("${NONE:-{a}", "{a"),
            ("${A:-{a}}", "one}"),
            ("${NONE:-$}", "$"),
            ("$A", "$A"),
            ("$", "$"),
            ("$$", "$$"),
            ("a$ {A}", "a$ {A}"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$${", "${"),
            ("$${A}${A}", "${A}one"),
            ("a}${A}", "a}one"),
        ],
    )
    @pytest.mark.parametrize("style", ["{}", "'{}'", '"{}"', "|-\n  {}", ">-\n  {}"])
    def test_a_reference_is_what_the_variable_contains_in_every_style(self, text, expected, style):
        """`${NAME}` gives the variable's content in every style of scalar, and `$${` gives `${`."""
        environment = {"A": "one", "B_2": "two", "EMPTY": "", "_": "low"}
        assert value("k: " + style.format(text), **environment) == {"k": expected}

    def test_a_value_that_goes_over_several_lines_can_have_them(self):
        assert value('k: "${A}\n  ${A}"', A="1") == {"k": "1 1"}
        assert value("k: |\n  ${A:-x\n  y}\n", A="") == {"k": "x\ny\n"}

    def test_the_text_of_a_key_is_left_alone(self):
        """Variables are not replaced in keys."""
        assert value("${A}: 1\n'$${B}': 2\n? ${\n: 3", A="x") == {"${A}": 1, "$${B}": 2, "${": 3}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("4", 4),
            ("0x1F", 31),
            ("1.5", 1.5),
            ("true", True),
            ("null", None),
            ("~", None),
            ("no", "no"),
            (" 4", " 4"),
            ("4\n", "4\n"),
            ("", ""),
        ],
    )
    def test_without_quotes_the_result_means_what_it_would_mean_in_the_file(self, text, expected):
        """Without quotes, the result is read like a scalar in the file: number, boolean, null or text."""
        for tree in (value("- ${A}", A=text), value("- ${A:-" + text + "}") if text.strip() == text else [expected]):
            assert tree == [expected]
            assert type(tree[0]) is type(expected)

    @pytest.mark.parametrize("style", ["'{}'", '"{}"', "|-\n  {}", ">-\n  {}"])
    @pytest.mark.parametrize("text", ["4", "true", "null", ""])
    def test_in_quotes_or_as_a_block_the_result_is_a_string(self, style, text):
        assert value("- " + style.format("${A}"), A=text) == [text]

    @pytest.mark.parametrize("text", ["${A}", "${A}${A}", "${NONE:-}", "${A}${NONE:-}"])
    def test_nothing_is_the_empty_string_and_never_null(self, text):
        """An empty result is the empty string, not null."""
        assert value(f"- {text}", A="") == [""]

    @pytest.mark.parametrize(
        "text", ["[1, 2]", "{k: v}", "k: v", "- a", "*x", "&x a", "!!int 4", "# no", "a\n- b", "'4'"]
    )
    def test_what_a_variable_contains_is_no_yaml(self, text):
        """The content of a variable is never read as YAML."""
        assert value("- &x 1\n- ${A}", A=text) == [1, text]

    @pytest.mark.parametrize("text", ["${B}", "$${B}", "${", "${B:-c}", "$"])
    def test_what_a_variable_contains_is_not_looked_at_again(self, text):
        """The content of a variable is not searched for variables."""
        assert value("- ${A}\n- $${A}${A}", A=text, B="x") == [text, "${A}" + text]

    def test_the_pieces_of_two_variables_are_no_reference(self):
        """A `${` that two adjacent variables form is not a reference."""
        assert value("- ${A}${B}\n- ${A}{B}", A="$", B="{B}") == ["${B}", "${B}"]

    def test_a_value_knows_its_variables(self):
        """A value knows the variables that it uses, also through an alias."""
        tree = root("- x\n- ${B}${A:-1}${B}\n- $${A}\n- &x ${NONE:-1}\n- *x\n- [*x]\n- k: *x", A="", B="2")
        assert [item.variables for item in tree.items] == [(), ("B", "A"), (), ("NONE",), ("NONE",), (), ()]
        assert tree.items[6].entries["k"].variables == ("NONE",)

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("- ${NONE}", "1:3"),
            ("- ab${NONE}", "1:5"),
            ("- 'ab${NONE}'", "1:6"),
            ('- "ab${NONE}"', "1:6"),
            ("- x: é𝄞${NONE}", "1:8"),
            ("- &x ab${NONE}", "1:8"),
            # With escapes, or on several lines, the value differs from the file's text.
            (r'- "\t${NONE}"', "1:3"),
            ("- 'a''b${NONE}'", "1:3"),
            ("- ab\n  ${NONE}", "1:3"),
            ("- |\n  ${NONE}", "1:3"),
            ("- >-\n  ${NONE}\n", "1:3"),
        ],
    )
    def test_a_variable_that_is_not_set_is_refused_where_it_stands(self, text, place):
        """A variable that is not set is refused at the place of its reference."""
        flaw = only(text)
        assert f"{flaw.line}:{flaw.column} {flaw.id}" == f"{place} E105"
        assert flaw.message == "the environment has no variable 'NONE'"
        assert flaw.fix == "set it, or write ${NONE:-default}"

    def test_every_variable_that_is_not_set_is_reported(self):
        assert found("- http://${NONE}:${B}${C}/\n- ${D}", B="") == ["1:10 E105", "1:22 E105", "2:3 E105"]

    def test_the_nearest_name_is_named_if_one_is_near(self):
        environment = {"DATABASE_URL": "secret", "PATH": "x"}
        assert only("- ${DATABSE_URL}", **environment).fix == (
            "did you mean 'DATABASE_URL'? If not, set it, or write ${DATABSE_URL:-default}"
        )

    def test_thousands_of_variables_that_are_not_set_are_reported_with_few_suggestions(self):
        """If thousands of variables are not set, all are reported, but only five get suggestions, which are slow."""
        wrong = flaws("".join(f"- ${{COMON{index}}}\n" for index in range(5000)), COMMON="")
        assert len(wrong) == 5000
        assert sum("did you mean" in flaw.fix for flaw in wrong) == 5

    @pytest.mark.parametrize(
        ("text", "column", "words"),
        [
            ("${", 3, "this ${ is not closed: '${'"),
            ("a ${A", 5, "this ${ is not closed: '${A'"),
            ("${A:-b", 3, "this ${ is not closed"),
            ("${A ${A}", 3, "this ${ is not closed"),
            ("${A}${", 7, "this ${ is not closed"),
            ("${}", 3, "'${}' does not name a variable"),
            ("${1X}", 3, "'${1X}' does not name a variable"),
            ("x${A-b}", 4, "'${A-b}' does not name a variable"),
            ("${A:b}", 3, "'${A:b}' does not name a variable"),
            ("${A:?b}", 3, "does not name a variable"),
            ("${ A }", 3, "does not name a variable"),
            ("${Ä}", 3, "does not name a variable"),
            ("${A.b}", 3, "does not name a variable"),
            ("${NONE:-${A}}", 11, "the default of the variable 'NONE' has another ${ in it"),
            ("${A:-b ${A}", 10, "the default of the variable 'A' has another ${ in it"),
            ("${A:-$${A}}", 9, "the default of the variable 'A' has another ${ in it"),
        ],
    )
    def test_a_reference_that_is_spelled_wrong_is_refused_where_it_stands(self, text, column, words):
        """A misspelt reference is refused at its place with what is wrong."""
        flaw = only(f"- {text}", A="secret")
        assert (flaw.line, flaw.column, flaw.id) == (1, column, "E105")
        assert words in flaw.message
        assert flaw.fix

    def test_the_fix_shows_the_right_spelling(self):
        assert only("- ${1X}").fix == "write ${NAME} or ${NAME:-default}; $${ is a literal ${"

    @pytest.mark.parametrize("text", ["{k: ${A}}", "[${A}]", "[a, x${A:-1}]", "{${A}: 1}"])
    def test_inside_brackets_a_reference_needs_quotes(self, text):
        """An unquoted reference inside brackets is refused with the advice to quote it."""
        flaw = only(text, A="1")
        assert (flaw.column, flaw.id) == (text.index("${") + 1, "E110")
        assert (flaw.message, flaw.fix) == (
            "not valid YAML: a ${...} without quotes cannot stand inside [ ] or { }",
            "put it in quotes",
        )
        assert value('{k: "${A}"}', A="1") == {"k": "1"}

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("sec\x00ret", "a control character"),
            ("\x1b[31m", "a control character"),
            ("\x9b", "a control character"),
            (b"sec\xffret".decode("utf-8", "surrogateescape"), "bytes that are not text"),
        ],
    )
    @pytest.mark.parametrize("style", ["{}", "'{}'"])
    def test_what_could_not_stand_in_a_file_cannot_come_from_a_variable(self, text, what, style):
        """Control characters and bytes that are not text are refused also from a variable."""
        flaw = only("- " + style.format("${A}"), A=text)
        assert flaw.id == "E105"
        assert flaw.message == f"the variable 'A' has {what} in it"

    def test_a_variable_can_have_several_lines(self):
        assert value("- ${A}", A="a\r\n\tb\n") == ["a\r\n\tb\n"]

    def test_the_result_is_no_longer_than_a_value_may_be(self):
        """A value with its variables put in may not be longer than the limit for values."""
        half = "x" * (MAX_SCALAR // 2)
        assert value("- ${A}${A}", A=half) == [half * 2]
        flaw = only("- a: ${A}${A}y", A=half)
        assert (flaw.line, flaw.column, flaw.id) == (1, 6, "E108")
        assert (
            flaw.message
            == f"a value of {MAX_SCALAR + 1} characters with its variables put in; the most is {MAX_SCALAR}"
        )

    def test_the_result_is_no_integer_of_hundreds_of_digits(self):
        """A value from a variable may not be an integer of hundreds of digits, except in quotes."""
        assert value("- ${A}", A="9" * 300) == [int("9" * 300)]
        assert found("- ${A}9", A="9" * 300) == ["1:3 E103"]
        assert found("- ${A}", A="9" * 5000) == ["1:3 E103"]
        assert value("- '${A}'", A="9" * 5000) == ["9" * 5000]

    def test_variables_together_bring_no_more_than_the_limit(self):
        """All variables together may not bring more than the limit."""
        each = "x" * (MAX_SCALAR // 2)
        fits = MAX_BROUGHT // len(each)
        assert len(value("- ${A}\n" * fits, A=each)) == fits
        assert found("- ${A}\n" * (fits + 1), A=each) == [f"{fits + 1}:3 E108"]

    def test_each_variable_is_read_once(self):
        class Noted(UserDict):
            read = ()

            def __getitem__(self, name):
                self.read += (name,)
                return super().__getitem__(name)

        environment = Noted(A="1", B="2")
        tree, wrong = read_nodes(b"- ${A}\n- ${A}${B}\n" * 1000, environment)
        assert (tree.size, wrong) == (2001, [])
        assert environment.read == ("A", "B")

    def test_a_huge_variable_that_is_used_often_is_never_put_together(self):
        """A value that would be far too long is refused before it is built."""
        huge = "x" * 1_000_000
        assert only("- " + "${A}" * 16_000, A=huge).message.startswith("a value of 16000000000 characters")

    @pytest.mark.parametrize("secret", ["hunter2", "hunter2\x00", "hunter2\udcff", "7" * 400, "hunter2" * 20_000])
    @pytest.mark.parametrize("text", [*WRONG, "${A}", "&x ${A}\n- {*x : 1}"])
    def test_no_message_shows_what_a_variable_contains(self, text, secret):
        """No message shows the content of a variable."""
        for flaw in flaws(f"- {text}", A=secret, B=secret):
            assert secret[:7] not in repr(flaw)


PRINTABLE = st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"], exclude_characters="$\ufeff")
NAMES = st.sampled_from(["A", "B", "_c", "N4", "UNSET", "EMPTY"])
CONTENTS = st.text(PRINTABLE, max_size=5) | st.sampled_from(["${A}", "$${B}", "${", "}", "$", ":-"])
LITERAL, ESCAPE = st.tuples(st.text(PRINTABLE, max_size=5)), st.just(("$${", "${"))
REFERENCE = st.tuples(
    NAMES, st.none() | st.text(PRINTABLE.filter(lambda character: character != "}"), max_size=5), st.none()
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, CONTENTS), st.lists(LITERAL | ESCAPE | REFERENCE | st.just(("$ ",)), max_size=8))
def test_references_give_what_a_plain_replacement_gives(environment, pieces):
    """References give the same text as a simple replacement in Python."""
    environment = {name: text for name, text in environment.items() if name != "UNSET"} | {"EMPTY": ""}
    text, expected, missing, names = "", "", 0, []
    for piece in pieces:
        if len(piece) < 3:
            text += piece[0]
            expected += piece[-1]
            continue
        name, default, _ = piece
        names.append(name)
        text += f"${{{name}}}" if default is None else f"${{{name}:-{default}}}"
        contents = environment.get(name)
        missing += contents is None and default is None
        expected += contents or default or ""
    tree, wrong = read_nodes(f"- {json.dumps(text, ensure_ascii=False)}".encode(), environment)
    assert [flaw.id for flaw in wrong] == ["E105"] * missing
    if not missing:
        (scalar,) = tree.items
        assert scalar.value == expected
        assert scalar.variables == tuple(dict.fromkeys(names))


@settings(max_examples=300, deadline=None)
@given(st.text("$${{}}:-A1 ", max_size=30), st.sampled_from(["{}", "'{}'", "|-\n  {}"]))
def test_any_heap_of_its_characters_is_a_value_or_a_flaw_at_a_place(text, style):
    """Any mixture of these characters gives a value, or a printable flaw with its place."""
    source = "- " + style.format(text)
    tree, wrong = read_nodes(source.encode(), {"A": "x"})
    lines = source.split("\n")
    assert tree is not None or wrong
    for flaw in wrong:
        assert flaw.message.isprintable()
        assert 1 <= flaw.line <= len(lines)
        if flaw.id == "E105" and style != "|-\n  {}":
            assert lines[flaw.line - 1].startswith("${", flaw.column - 1)
