"""The YAML reader: what aliases and merge keys stand for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_deploy_files.reading.nodes import MAX_DEPTH, read_nodes
from yaml_reading import as_written, flaws, found, nodes, only, root, value


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
        for _, part in sources:
            merged |= {key: part[key] for key in part if key not in merged}
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
