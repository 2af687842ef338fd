"""`sage-deploy explain` as a user runs it. tests/files/test_field_docs.py tests what it knows."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from command_line import sage_deploy
from sage_plugins.config.service_config import GROUPS, fields
from sage_plugins.config.units import UNIT_WORDS, duration, size


def test_field_is_explained_with_its_place_type_default_and_meaning(tmp_path):
    done = sage_deploy("explain", "timeout", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "performance.timeout"
    assert f"  {fields()['timeout'].doc}" in lines
    assert "  type        number or null, more than 0" in lines
    assert "  default     30.0" in lines
    snippet = done.stdout[done.stdout.index("  services:") :]
    assert yaml.safe_load(snippet) == {"services": {"my_service": {"performance": {"timeout": 30.0}}}}


def test_spellings_of_units_are_such(tmp_path):
    """The reader accepts the spellings of units that `explain` shows."""
    for unit, read in (("seconds", duration), ("MiB", size)):
        spellings = re.findall(r"\w*\d\w*", UNIT_WORDS[unit])
        assert spellings
        assert None not in map(read, spellings)
    done = sage_deploy("explain", "memory_mb", cwd=tmp_path)
    assert f"  unit        MiB; a file may also have {UNIT_WORDS['MiB']}\n" in done.stdout


def test_group_is_explained_with_its_fields(tmp_path):
    done = sage_deploy("explain", "health", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name, info in fields().items():
        line = f"  {name}: {info.type}"
        assert (line in done.stdout) == (info.group == "health"), name


def test_overview_names_everything(tmp_path):
    """Without FIELD, `explain` lists the keys of the file and of a service, with the fields of each group."""
    done = sage_deploy("explain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("version", "services", "defaults", "profiles", "class", "init", "args", "kwargs", *GROUPS, *fields()):
        assert name in done.stdout, name


def test_options_of_a_plugin_are_explained(tmp_path):
    done = sage_deploy("explain", "options.pool.idle_timeout", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Seconds without work" in done.stdout
    assert "60.0" in done.stdout


@pytest.mark.parametrize(("field", "near"), [("thread_cout", "thread_count"), ("options.poool", "pool")])
def test_unknown_field_is_bad_input_with_the_nearest_spelling(field, near, tmp_path):
    """An unknown field exits with 2 and is answered with the nearest name."""
    done = sage_deploy("explain", field, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"did you mean '{near}'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_id_of_a_rule_leads_to_the_page_of_rules(tmp_path):
    """A rule's ID is answered with its place in docs/errors.md, because messages show such IDs."""
    done = sage_deploy("explain", "E307", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "docs/errors.md#e307" in done.stderr


def test_json_has_the_same_for_programs(tmp_path):
    """`--json` has the keys and their paths for programs, for one field and for the whole file."""
    done = sage_deploy("explain", "methods.batch", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["version"] == 1
    (batch,) = content["fields"]
    assert batch["path"] == "methods.<name>.batch"
    assert [key["path"] for key in batch["keys"]] == ["methods.<name>.batch.size", "methods.<name>.batch.wait"]
    whole = json.loads(sage_deploy("explain", "--json", cwd=tmp_path).stdout)
    assert [key["path"] for key in whole["fields"][0]["keys"]] == ["version", "defaults", "profiles", "services"]
