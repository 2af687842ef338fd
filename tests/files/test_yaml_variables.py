"""The YAML reader: what variables stand for, which are refused, and that no message shows their content."""

from __future__ import annotations

import json
from collections import UserDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_deploy_files.reading.nodes import MAX_SCALAR, read_nodes
from sage_deploy_files.reading.variables import MAX_BROUGHT
from yaml_reading import flaws, found, only, root, value

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
