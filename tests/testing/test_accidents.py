"""`benchmarks/accidents.py`: how it counts, and that each of its parts comes to an end with figures."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from documentation_pages import ROOT

SCRIPT = ROOT / "benchmarks" / "accidents.py"
#: A hundred answers a second for three seconds before the first process stands still, at 0.
BEFORE = [-3 + number / 100 for number in range(300)]


@pytest.fixture
def accidents(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("accidents")


@pytest.mark.parametrize(
    ("again_at", "rate", "took"),
    [(1.0, 100, 1.0), (3.0, 100, 3.0), (1.0, 96, 1.0), (1.0, 90, None), (4.9, 100, 4.9), (5.1, 100, None)],
)
def test_service_is_back_with_the_first_second_of_95_percent_of_the_answers_before(accidents, again_at, rate, took):
    """All go on at 1; *took* is when they answer again, and a second more."""
    answered = BEFORE + [again_at + number / rate for number in range(8 * rate)]
    found = accidents.back_after(answered, 0.0, 1.0)
    assert found == (took if took is None else pytest.approx(took, abs=0.11))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clog", "--minutes", "0.01"], "1 times processes of 4 replicas stood still"),
        (["nodes", "--minutes", "0.2", "--every", "12", "--freezes", "0"], "kill: 1 nodes of 4"),
        (["head", "--without", "1", "--memory"], "with what it knew: all replicas and one more after"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_part_measures_and_ends(arguments, said):
    """The service comes back whatever happens to it, and no call that must not runs twice."""
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
