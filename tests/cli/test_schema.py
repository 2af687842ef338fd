"""`sage-deploy schema` as a user runs it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sage_deploy_files.describing.schema.document import deployment_schema
from sage_plugins.plugins.registry import Registry

PATIENCE = 50


def schema(*arguments, cwd, **environment):
    script = Path(sys.executable).with_name("sage-deploy")
    return subprocess.run(
        [script, "schema", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_schema_goes_to_stdout(tmp_path):
    """The schema is the only output on stdout, so that programs can read it."""
    done = schema(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == deployment_schema(Registry.discover())
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_output_is_the_same_text_in_every_run(tmp_path):
    """The output is the same in every run, whatever the hash seed."""
    first, second = (schema(cwd=tmp_path, PYTHONHASHSEED=seed).stdout for seed in ("1", "2"))
    assert first == second


def test_output_goes_to_a_file(tmp_path):
    """`--output` writes what stdout would get. stdout stays empty, and stderr names the file."""
    file = tmp_path / "service_deployment.schema.json"
    done = schema("--output", file.name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"wrote {file.name}\n"
    assert file.read_text(encoding="utf-8") == schema(cwd=tmp_path).stdout
    assert list(tmp_path.iterdir()) == [file]


def test_file_that_is_there_is_replaced(tmp_path):
    """
    An old file is replaced, not rewritten: readers that have it open keep it. A link stays a link; the mode is default.
    """
    file, link = tmp_path / "old.json", tmp_path / "link.json"
    file.write_text("old")
    link.symlink_to(file)
    with file.open() as held:
        assert schema("--output", link, cwd=tmp_path).returncode == 0
        assert held.read() == "old"
    assert link.is_symlink()
    assert json.loads(file.read_text())["$defs"]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("name", ["none/schema.json", "folder"])
def test_file_that_cannot_be_written_is_answered(name, tmp_path):
    """If the file cannot be written, the command exits with 1, names it and leaves nothing behind."""
    (tmp_path / "folder").mkdir()
    done = schema("--output", name, cwd=tmp_path)
    assert done.returncode == 1
    assert f"'{name}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_plugins_that_do_not_load_are_named(tmp_path):
    """A plugin that does not load is named; the schema of the others is printed."""
    broken = tmp_path / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[sage_deploy]\nbroken = no_such_module_at_all\n")
    done = schema(cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0
    assert "'broken' from broken 1.0" in done.stderr
    assert "no_such_module_at_all" in done.stderr
    assert json.loads(done.stdout) == deployment_schema(Registry.discover())
