"""
For any bytes, the reader returns a file or a ConfigError with printable problems that point into the file.

A file that is read makes configurations, and reads the same after it was written out.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import deployment_files
import reader_fuzz

FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
FEW = settings(max_examples=300, **FUZZ)
TEXTS = reader_fuzz.corpus()


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    return lambda data: reader_fuzz.check(data, path)


@pytest.fixture(autouse=True)
def _variables(monkeypatch):
    for name, value in deployment_files.VARIABLES.items():
        monkeypatch.setenv(name, value)


@FEW
@given(data=st.binary(max_size=400))
@example(data=b"\x85")
@example(data=b"? ")
def test_any_bytes(check, data):
    check(data)


@FEW
@given(text=st.text(max_size=400))
def test_any_text(check, text):
    check(text.encode("utf-8", "surrogatepass"))


@FEW
@given(tokens=st.lists(st.sampled_from(reader_fuzz.TOKENS), max_size=60))
def test_any_heap_of_tokens(check, tokens):
    check("".join(tokens).encode("utf-8", "surrogatepass"))


@FEW
@given(body=st.lists(st.sampled_from(reader_fuzz.TOKENS), max_size=20))
def test_any_heap_of_tokens_below_a_service(check, body):
    check(f"services:\n  kv:\n    {''.join(body)}".encode("utf-8", "surrogatepass"))


@FEW
@given(random=st.randoms(use_true_random=False))
def test_any_damage_to_the_files_of_the_tests(check, random):
    check(reader_fuzz.damaged(random, TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_ten_thousand_damaged_files(check, seed):
    random = Random(seed)  # noqa: S311 - repeatable, not secret
    for _ in range(10_000):
        check(reader_fuzz.damaged(random, TEXTS))
