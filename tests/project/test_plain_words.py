"""Pages say things in the words that engineers use everywhere, one word for one thing."""

from __future__ import annotations

import re

import pytest

from documentation_pages import DOCS, ROOT

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

#: Quotes the words.
WORD_LISTS = {"CONTRIBUTING.md"}

ENGLISH = [
    path
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))
    if not {"zh", "_build"} & set(path.relative_to(ROOT).parts) and path.name not in WORD_LISTS
]


def rare_words(text: str) -> list[str]:
    """A line for each word of `INSTEAD` in *text*, code blocks aside."""
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return [
        f"{number}: {found[0]!r}: write {INSTEAD[found[0].lower()][0]!r} ({INSTEAD[found[0].lower()][1]})"
        for number, line in enumerate(prose.splitlines(), 1)
        for found in re.finditer(rf"(?<![\w-])({'|'.join(INSTEAD)})(?![\w-])", line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_has_no_rare_words(path):
    """A word of the list has a plainer one, which the message names."""
    assert rare_words(path.read_text(encoding="utf-8")) == []


def test_rare_words_are_found_where_they_are():
    text = "Plain.\n```python\nanew = 1\n```\nWhoever waits, waits anew; newanew and time-out-like are others.\n"
    assert [line.split(":")[0:2] for line in rare_words(text)] == [["5", " 'Whoever'"], ["5", " 'anew'"]]
