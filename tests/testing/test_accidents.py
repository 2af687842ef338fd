"""`benchmarks/accidents.py` counts correctly, and each of its parts ends with figures."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from documentation_pages import ROOT

SCRIPT = ROOT / "benchmarks" / "accidents.py"
#: 100 answers a second for three seconds, until the first process is suspended at 0.
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
    """
    The service is back at the first second with at least 95 % of the earlier answers.

    All processes go on at 1. *took* is the start of this second, or `None` if there is none.
    """
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
    """
    Each part ends with its figures and exit code 0.

    That means that the service came back, and that no call ran twice unless it may.
    """
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
