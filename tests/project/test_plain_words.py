"""Pages, comments and messages use the words that engineers use everywhere, one word for one thing."""

from __future__ import annotations

import re
import tokenize
from typing import TYPE_CHECKING

import pytest

from documentation_pages import DOCS, ROOT

if TYPE_CHECKING:
    from pathlib import Path

#: What is written instead, and why.
INSTEAD = {
    "time-out": ("timeout", "the field's spelling"),
    "time-outs": ("timeouts", "the field's spelling"),
    "dead-lock": ("deadlock", "the field's spelling"),
    "anew": ("again", "rare"),
    "lest": ("so that ... not", "rare"),
    "whoever": ("the name of the actor", "a riddle: who is it?"),
    "likewise": ("also", "rare"),
    "forsaken": ("abandoned", "rare"),
    "thereby": ("by this", "rare"),
    "thereof": ("of it", "rare"),
    "by chance": ("at random", "of the field's words"),
    "in vain": ("without success", "rare"),
}

#: The tokens of Python that people read.
PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}

#: Quotes the words.
WORD_LISTS = {"CONTRIBUTING.md", "test_plain_words.py"}

ENGLISH = [
    path
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))
    if not {"zh", "_build"} & set(path.relative_to(ROOT).parts) and path.name not in WORD_LISTS
]


#: Folders of Python code; their comments, docstrings and messages are read like pages.
CODE = ["sage_plugins", "plugins", "benchmarks", "examples", "tools", "typing_tests", "tests"]


def rare_words(text: str) -> list[str]:
    """A line for each word of `INSTEAD` in *text*, outside code."""
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return rare_words_in(re.sub(r"`[^`\n]*`", "", prose))


def rare_words_of_code(path: Path) -> list[str]:
    """A line for each word of `INSTEAD` in a comment or a string of the Python file *path*."""
    with path.open("rb") as file:
        prose = [token for token in tokenize.tokenize(file.readline) if token.type in PROSE]
    return [
        f"{path.relative_to(ROOT)}:{token.start[0] - 1 + int(number)}:{found}"
        for token in prose
        for number, found in (line.split(":", 1) for line in rare_words_in(token.string))
    ]


def rare_words_in(prose: str) -> list[str]:
    """A line for each word of `INSTEAD` in *prose*."""
    return [
        f"{number}: {found[0]!r}: write {INSTEAD[found[0].lower()][0]!r} ({INSTEAD[found[0].lower()][1]})"
        for number, line in enumerate(prose.splitlines(), 1)
        for found in re.finditer(rf"(?<![\w-])({'|'.join(INSTEAD)})(?![\w-])", line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_has_no_rare_words(path):
    """A word of the list has a plainer one, which the message names."""
    assert rare_words(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("folder", CODE)
def test_comments_and_messages_have_no_rare_words(folder):
    """A word of the list has a plainer one, which the message names."""
    paths = [
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "build" not in path.parts and path.name not in WORD_LISTS
    ]
    assert len(paths) > 0
    assert [found for path in paths for found in rare_words_of_code(path)] == []


def test_rare_words_of_code_are_found_where_they_are(tmp_path, monkeypatch):
    """Names are not text."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    file = tmp_path / "some.py"
    file.write_text('"""\nText.\n\nNow anew.\n"""\nanew = 1  # by chance\nf"{now} time-out"\n', encoding="utf-8")
    assert [found.rsplit(":", 1)[0] for found in rare_words_of_code(file)] == [
        "some.py:4: 'anew'",
        "some.py:6: 'by chance'",
        "some.py:7: 'time-out'",
    ]


def test_rare_words_are_found_where_they_are():
    text = "Plain.\n```python\nanew = 1\n```\nWhoever waits, waits anew; newanew and time-out-like are others.\n"
    assert [line.split(":")[0:2] for line in rare_words(text)] == [["5", " 'Whoever'"], ["5", " 'anew'"]]
