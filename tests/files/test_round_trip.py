"""
A deployment file that is read and written out reads the same again.

The files are those in tests/deployment_files/good and generated ones. Generated files have valid values of any fields
in the entry, a profile and the defaults, with anchors, merge keys, variables, units, and every way to write a scalar.
The results are compared with those of a few lines of Python.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import attrs
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import deployment_files
from generated_files import expected, files
from sage_deploy_files import dump, read
from sage_plugins.config.service_config import GROUPS, plain

GOOD = deployment_files.names(deployment_files.GOOD)


def read_text(text, folder, **options):
    path = Path(folder) / "services.yaml"
    path.write_text(text, encoding="utf-8")
    return read(path, **options)


def flat(document):
    """Return the services of a plain document, with their fields taken out of the groups."""
    services = {}
    for name, entry in document["services"].items():
        services[name] = {key: value for key, value in entry.items() if key not in GROUPS}
        for group in GROUPS:
            services[name].update(entry.get(group, {}))
    return services


def said(entry):
    """Return the values of a service's entry in the shape of a plain document."""
    values = plain(entry.values)
    if entry.class_path is not None:
        values["class"] = entry.class_path
    init = {"args": plain(entry.args), "kwargs": plain(entry.kwargs)}
    if any(init.values()):
        values["init"] = {name: value for name, value in init.items() if value}
    return values


def literal(value):
    """Escape `${`, which begins a variable of the environment."""
    if isinstance(value, dict):
        return {name: literal(child) for name, child in value.items()}
    if isinstance(value, list):
        return [literal(child) for child in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def check(file, folder):
    text = dump(file)
    assert read_text(text, folder) == attrs.evolve(file, profile=None)
    by_others = yaml.safe_load(text)
    assert flat(by_others) == {name: literal(said(entry)) for name, entry in file.services.items()}
    assert by_others.get("options", {}) == literal(plain(file.options))


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_comes_to_what_stands_beside_it(name):
    """A good file gives the outcome that is in the .txt file of the same name."""
    with deployment_files.surroundings(deployment_files.GOOD):
        expected = Path(name).with_suffix(".txt").read_text(encoding="utf-8")
        assert deployment_files.outcome(name) == expected
        for entry in read(name, profile=deployment_files.profile_of(Path(name))).services.values():
            entry.config()


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_written_out_is_the_same_file(name, tmp_path):
    """A good file that is written out reads as the same file."""
    with deployment_files.surroundings(deployment_files.GOOD):
        check(read(name, profile=deployment_files.profile_of(Path(name))), tmp_path)


def test_each_good_file_has_its_outcome_and_each_outcome_its_file():
    outcomes = {path.stem for path in deployment_files.GOOD.glob("*.txt")}
    assert outcomes == {name.removesuffix(".yaml") for name in GOOD}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trip")


def round_trip(folder, case, profile):
    document, text, environment = case
    with mock.patch.dict(os.environ, environment, clear=True):
        file = read_text(text, folder, profile=profile)
    assert {name: said(entry) for name, entry in file.services.items()} == expected(document, profile)
    assert plain(file.options) == document["options"]
    for entry in file.services.values():
        entry.config()
    check(file, folder)


GENERATED = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}


# Shrinking a failing example may take longer than a test may run; the slow test does it.
@settings(max_examples=100, phases=[Phase.explicit, Phase.reuse, Phase.generate], **GENERATED)
@given(case=files(), profile=st.sampled_from([None, "busy"]))
def test_any_valid_file_comes_to_its_values_and_written_out_to_the_same(folder, case, profile):
    """Any valid file gives its values, and reads the same after it was written out."""
    round_trip(folder, case, profile)


@pytest.mark.slow
@settings(max_examples=3000, **GENERATED)
@given(case=files(), profile=st.sampled_from([None, "busy"]))
def test_thousands_of_valid_files_come_to_their_values_and_written_out_to_the_same(folder, case, profile):
    """The same as above, with thousands of files."""
    round_trip(folder, case, profile)
