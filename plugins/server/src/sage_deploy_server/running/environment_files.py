"""Sockets of this user's running environments, in a folder that only the user can enter."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sage_deploy_files.bounded_file import is_own
from sage_deploy_files.state_folder import make_private, state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["EnvironmentFiles", "connect", "listening_sockets"]

#: Longest socket path, in bytes, that all systems accept.
_MAX_PATH_BYTES: Final = 100


def _folder() -> Path:
    return state_folder() / "environments"


class EnvironmentFiles:
    """The files of one running environment. They are deleted when it ends."""

    def __init__(self, id: str) -> None:
        """
        Create the folder, which only the user can enter.

        Args:
            id: ID of the environment.

        Raises:
            OSError: The folder cannot be created.
        """
        folder = _folder()
        make_private(folder)
        self.socket = folder / f"{os.getpid()}-{id[:8]}.sock"
        self.token = self.socket.with_suffix(".token")

    def listen(self) -> socket.socket:
        """Return a listening socket. Only this user can connect, because only they can enter its folder."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(self.socket) as address:
                listening.bind(address)
            self.socket.chmod(0o600)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
        return listening

    def remove(self) -> None:
        """Delete the files. Idempotent."""
        for file in (self.socket, self.token):
            file.unlink(missing_ok=True)


def listening_sockets() -> list[Path]:
    """
    Return the sockets of environments that may run, the newest last. Deletes the files of killed processes.

    To find out whether an environment runs, connect to its socket.
    """
    try:
        folder = _folder()
        if not is_own(folder.stat()):
            return []
        found = sorted(folder.glob("*.sock"), key=lambda each: each.stat().st_mtime)
    except OSError:
        return []
    return [each for each in found if _is_alive(each)]


def _is_alive(path: Path) -> bool:
    pid = path.name.partition("-")[0]
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        with suppress(OSError):
            path.unlink()
            path.with_suffix(".token").unlink()
        return False
    except PermissionError:
        return False
    return True


def connect(path: Path, timeout: float) -> socket.socket:
    """
    Connect to the environment whose socket is at *path*.

    Raises:
        OSError: No environment listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with _address(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield the address of the socket at *path*. A path that is too long goes through its open folder."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
