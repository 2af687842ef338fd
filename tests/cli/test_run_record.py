"""A process records what it runs, for plans made while it lives. Only the same user can read or write the record."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sage_deploy_cli.runs.run_record import RunRecord, find_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "services.yaml"
    path.write_text("services: {}")
    return path


@pytest.fixture
def runner(file):
    """A process that has taken the record and written what it runs."""
    program = f"""
        import sys
        from pathlib import Path
        from sage_deploy_cli.runs.run_record import RunRecord

        record = RunRecord.take(Path({str(file)!r}), "busy")
        record.note({{"kv": {{"timeout": 5.0}}}})
        print("noted", flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "noted\n"
        yield process
        process.kill()


def test_another_process_is_found_with_what_it_runs(file, runner):
    run = find_run(file)
    assert (run.pid, run.profile, run.services) == (runner.pid, "busy", {"kv": {"timeout": 5.0}})


def test_a_file_is_the_same_by_every_name(file, runner, tmp_path, monkeypatch):
    """A file is recognized by every name: relative, absolute or through a link."""
    (tmp_path / "link.yaml").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    for name in ("services.yaml", "./services.yaml", "link.yaml"):
        assert find_run(tmp_path / name).pid == runner.pid


def test_a_process_that_was_killed_is_not_found(file, runner):
    """A killed process is not found: its record is still there, but the operating system has released its lock."""
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert list((file.parent / "state").rglob("*.json"))
    assert find_run(file) is None


def test_only_one_process_has_the_record_of_a_file(file, runner):
    """Only one process can hold the record of a file; the next gets it after that one ends."""
    assert RunRecord.take(file, None) is None
    runner.stdin.close()
    runner.wait()
    record = RunRecord.take(file, None)
    assert record is not None
    record.close()


def test_nobody_is_found_where_nobody_runs(file):
    """Without a running process nothing is found, also after a record was closed."""
    assert find_run(file) is None
    record = RunRecord.take(file, None)
    record.note({})
    record.close()
    record.close()
    assert find_run(file) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1}', "[" * 100_000, "\0"])
def test_a_note_that_cannot_be_understood_is_none(file, runner, text):
    """A record that cannot be parsed is ignored."""
    (note,) = (file.parent / "state").rglob("*.json")
    note.write_text(text)
    assert find_run(file) is None


@pytest.mark.parametrize("value", [None, 7, "text", [1, 2], {"a": 5}, {"a": None}, {"a": [1]}, 1.5])
@pytest.mark.parametrize("key", ["version", "pid", "file", "profile", "services"])
def test_a_note_of_another_shape_is_none(file, runner, key, value):
    """A record with a wrong type is ignored, so readers can rely on the types."""
    (note,) = (file.parent / "state").rglob("*.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {key: value}))
    right = {"pid": int, "file": str, "profile": (str, type(None))}
    assert (find_run(file) is not None) == isinstance(value, right.get(key, ()))


HOSTILE = {
    "a link to a file": lambda path, other: path.symlink_to(other),
    "a link to nothing": lambda path, other: path.symlink_to("nothing"),
    "a FIFO": lambda path, other: os.mkfifo(path),
    "a directory": lambda path, other: path.mkdir(),
    "a device": lambda path, other: path.symlink_to("/dev/zero"),
    "a file that others can write": lambda path, other: (path.write_bytes(other.read_bytes()), path.chmod(0o666)),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", ["json", "lock"])
def test_only_a_file_of_the_users_own_is_read(file, runner, kind, hostile):
    """Anything but the user's own regular file is ignored: links, FIFOs, devices, files that others can write."""
    (path,) = (file.parent / "state").rglob(f"*.{kind}")
    other = path.rename(file.parent / "other")
    hostile(path, other)
    assert find_run(file) is None


def test_a_note_without_end_is_not_read(file, runner, monkeypatch):
    """A record that is too large is not read, because it could exceed the memory."""
    monkeypatch.setattr("sage_deploy_cli.runs.run_record._MAX_BYTES", 100)
    (note,) = (file.parent / "state").rglob("*.json")
    note.write_text(note.read_text() + " " * 100)
    assert find_run(file) is None


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_what_lies_in_its_place_is_replaced_or_said_to_be_in_the_way(file, tmp_path, hostile):
    """Anything in the record's place is replaced or reported; no other file is written."""
    record = RunRecord.take(file, None)
    record.note({})
    (note,) = (file.parent / "state").rglob("*.json")
    precious = note.rename(tmp_path / "precious")
    before = precious.read_bytes()
    hostile(note, precious)
    try:
        record.note({"kv": {}})
    except OSError as error:
        assert "is not a regular file" in str(error)  # noqa: PT017 - one of two accepted outcomes
    else:
        assert stat.S_ISREG(note.lstat().st_mode)
        assert json.loads(note.read_text())["services"] == {"kv": {}}
    assert precious.read_bytes() == before
    if note.is_dir():
        note.rmdir()
    record.close()


def test_nobody_else_can_read_or_write_it(file, runner):
    """The record's folder has mode 0700 and its files 0600."""
    folder = file.parent / "state" / "sage-deploy" / "runs"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_folder_that_others_can_write_is_refused(file):
    """A folder that others can write is refused with the command to fix it."""
    folder = file.parent / "state" / "sage-deploy" / "runs"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="chmod 700"):
        RunRecord.take(file, None)


def test_a_link_in_its_place_is_not_followed(file, tmp_path):
    """A link in the lock's place is not followed, so that no one can make the user overwrite another file."""
    record = RunRecord.take(file, None)
    record.close()
    (lock,) = (file.parent / "state").rglob("*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"symbolic link|Too many levels"):
        RunRecord.take(file, None)
    assert not (tmp_path / "precious").exists()


def test_what_a_killed_process_noted_is_gone_once_another_has_the_record(file, runner):
    """A new holder clears the record of a killed process, so that no plan compares with it."""
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    record = RunRecord.take(file, None)
    (note,) = (file.parent / "state").rglob("*.json")
    assert json.loads(note.read_text())["services"] == {}
    record.close()


def test_a_user_without_a_home_directory_is_told_what_to_set(file, monkeypatch):
    """A user without a home directory, as in some containers, is told which variable to set; no run is found."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert find_run(file) is None
    with pytest.raises(OSError, match="no home directory; set HOME or XDG_STATE_HOME"):
        RunRecord.take(file, None)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_run_by_nobody(file, name):
    """A name that no file can have has no run."""
    assert find_run(Path(name)) is None
