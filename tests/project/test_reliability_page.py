"""docs/reliability.md names existing tests for every fault."""

from __future__ import annotations

import re

import pytest

from documentation_pages import DOCS, ROOT

PAGE = (DOCS / "reliability.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (F\d+) \| .+ \| .+ \| (.+) \|$", re.MULTILINE)


def functions():
    folders = (ROOT / "tests", ROOT / "plugins" / "testing" / "src")
    texts = (path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py"))
    return {name for text in texts for name in re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE)}


def test_every_test_that_the_page_names_is_there():
    """Every test that the page names exists."""
    assert not set(re.findall(r"`(test_\w+)`", PAGE)) - functions()


@pytest.mark.parametrize(("fault", "shown_by"), ROW.findall(PAGE))
def test_every_fault_names_its_tests_or_says_that_there_are_none(fault, shown_by):
    """Each fault names its tests, or says that it is not tested."""
    assert "`test_" in shown_by or shown_by.startswith("not tested"), fault


def test_no_fault_is_left_out():
    """Every number of a fault, in all four groups (services, replicas, load, plugins), has its row."""
    numbers = [int(fault[1:]) for fault, _ in ROW.findall(PAGE)]
    assert numbers == [*range(1, 17), *range(20, 40), *range(40, 55), *range(60, 67)]
