"""Socket folders are removed with their processes, however these end."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sage_deploy_remote.rpc import folders
from sage_deploy_remote.rpc.address import Address

NAME = "sage-deploy-link-" + 32 * "0"

#: Listens until its input ends, and prints the path; with an argument its forked copy lives on until then.
PROGRAM = """
import os, sys
from sage_deploy_remote.rpc.address import Address

end, address = Address.new().listen(1)
if len(sys.argv) == 1 or os.fork() == 0:  # the copy tells, so that it no longer holds what its parent had locked
    print(address.place, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(monkeypatch):
    """The temporary folder of this process and its children. Its path is short, because a socket's path must be."""
    with TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(folders, "gettempdir", lambda: folder)
        yield Path(folder)


@contextmanager
def listening(*arguments):
    """A process that listens, with its folder."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        yield program, Path(program.stdout.readline().strip()).parent


def sweep(parent):
    """Sweep as a process does when it makes its first folder."""
    folders._sweep.__wrapped__(parent)


def test_next_process_removes_what_a_killed_one_left(temporary):
    """A new process removes the folder of a killed one, and leaves that of a running one, which stays reachable."""
    with listening() as (_, kept):
        with listening() as (killed, left):
            killed.kill()
        assert left.exists()
        with listening() as (_, new):
            assert {each.name for each in temporary.iterdir()} == {kept.name, new.name}
            Address(str(kept / "socket"), b"").dial().close()


def test_forked_copy_of_a_killed_process_holds_nothing(temporary):
    """A forked copy does not keep the folder of its killed parent, although the copy lives on."""
    with listening("fork") as (killed, left):
        killed.kill()
        killed.wait()
        sweep(temporary)
        assert not left.exists()
        killed.stdin.close()  # this ends the copy


def test_only_folders_of_sockets_are_removed(temporary):
    """Folders with another name or other content are kept, and so are the targets of links."""
    for name in (NAME[:-1], NAME, NAME[:-1] + "1"):
        (temporary / name).mkdir()
        (temporary / name / "socket").touch()
    (temporary / NAME / "other").touch()
    (temporary / "elsewhere").mkdir()
    (temporary / (NAME[:-1] + "2")).symlink_to(temporary / "elsewhere")
    sweep(temporary)
    assert sorted(each.name for each in temporary.iterdir()) == sorted(["elsewhere", NAME[:-1], NAME, NAME[:-1] + "2"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_folders_of_other_users_are_left_alone(temporary):
    """Folders of other users are kept, even by root, who could remove them."""
    (temporary / NAME).mkdir()
    os.chown(temporary / NAME, 12345, 12345)
    sweep(temporary)
    assert (temporary / NAME).exists()


def test_folder_that_is_swept_before_it_is_locked_is_made_again(temporary, monkeypatch):
    """If another process sweeps a new folder before it is locked, the owner makes it again."""
    address, locked = Address.new(), []

    def flock(descriptor, how):
        if not locked:
            Path(address.place).parent.rmdir()
        locked.append(how)
        real(descriptor, how)

    real = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock)
    end, _ = address.listen(1)
    with end:
        monkeypatch.undo()
        assert len(locked) >= 2
        sweep(temporary)
        address.dial().close()
    address.remove()
    assert not list(temporary.iterdir())


def test_folder_that_is_made_again_while_it_is_swept_is_kept(temporary, monkeypatch):
    """A folder that its owner made again during the sweep is kept."""
    folder = temporary / NAME
    folder.mkdir()

    def flock(descriptor, how):
        monkeypatch.undo()
        folder.rmdir()
        folder.mkdir()
        (folder / "socket").touch()
        fcntl.flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    sweep(temporary)
    assert (folder / "socket").exists()
