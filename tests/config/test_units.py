"""Durations and sizes with units: each spelling means one number, and any other is refused with the right spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_plugins.config.service_config import fields
from sage_plugins.config.units import duration, size, without_units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("2m", 120),
        ("1.5h", 5400),
        ("1d", 86400),
        ("1h30m", 5400),
        ("1m500ms", 60.5),
        ("0ms", 0),
        ("0.1s", 0.1),
    ],
)
def test_a_duration_is_so_many_seconds(text, seconds):
    """A duration with a unit is a number of seconds."""
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1 s", "1S", "30m1h", "1s1s", "1us", "1e3s", ".5s", "1.s", "1s\n", "inf", "1h" * 40]
)
def test_what_is_no_duration_is_none(text):
    """A text that is no duration gives None."""
    assert duration(text) is None


@pytest.mark.parametrize(("text", "mebibytes"), [("512Mi", 512), ("4Gi", 4096), ("0.5Gi", 512), ("1Ti", 1048576)])
def test_a_size_is_so_many_mebibytes(text, mebibytes):
    """A size with a unit is a number of MiB."""
    assert size(text) == mebibytes


@pytest.mark.parametrize("text", ["", "4", "4G", "4GB", "4gi", "-4Gi", "4 Gi", "Gi", "1e3Mi"])
def test_what_is_no_size_is_none(text):
    """A text that is no size gives None."""
    assert size(text) is None


@given(st.integers(0, 10**9))
def test_milliseconds_are_exact(number):
    """A number of milliseconds is exactly the float that the same number of seconds gives."""
    assert duration(f"{number}ms") == float(f"{number}e-3")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("timeout", "250ms", 0.25),
        ("memory_mb", "4Gi", 4096),
        (
            "methods",
            {"get": {"timeout": "2m", "batch": {"wait": "5ms"}}},
            {"get": {"timeout": 120, "batch": {"wait": 0.005}}},
        ),
        ("autoscale", {"max": 3, "look_back": "1m"}, {"max": 3, "look_back": 60}),
        ("user_config", {"timeout": "2m"}, {"timeout": "2m"}),
        ("queue_size", "5", "5"),
    ],
)
def test_spellings_are_read_wherever_a_unit_is_declared_and_nowhere_else(name, value, wanted):
    """Units are read only in fields that declare one, at any depth."""
    assert without_units(fields()[name], name, value) == (wanted, [])


def test_what_is_read_is_not_changed_in_place():
    """Reading units does not change the given mapping."""
    given = {"get": {"timeout": "2m"}}
    without_units(fields()["methods"], "methods", given)
    assert given == {"get": {"timeout": "2m"}}


@pytest.mark.parametrize(
    ("name", "value", "rule", "words"),
    [
        (
            "timeout",
            "30",
            "E102",
            "must be a number, a duration or null, got '30' (write the number of seconds, or a duration such as 250ms",
        ),
        ("timeout", "none", "E102", "(null means no limit)"),
        ("memory_mb", "4GB", "E102", "(GB means powers of 1000: write Ki, Mi, Gi or Ti)"),
        ("memory_mb", "4G", "E102", "(G means powers of 1000: write Ki, Mi, Gi or Ti)"),
        ("memory_mb", "100Ki", "E103", "must be a whole number of MiB, got '100Ki', which is 0.0976562 (round it)"),
    ],
)
def test_another_spelling_is_answered_with_the_right_one(name, value, rule, words):
    """A wrong spelling is refused with the right one."""
    _, (problem,) = without_units(fields()[name], name, value)
    assert problem.id == rule
    assert words in str(problem)
