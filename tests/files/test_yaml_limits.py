"""
The YAML reader: aliases, merge keys and depth do not exceed its limits.

The tests check the cost of reading by what it does: nodes made, values entered, variables read. Minimal files are
enough here; tests/files/test_deployment_file.py reads whole deployment files.
"""

from __future__ import annotations

import sys

import pytest

from sage_deploy_files.reading.nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_nodes
from yaml_reading import as_written, flaws, found, nodes, only, root

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
