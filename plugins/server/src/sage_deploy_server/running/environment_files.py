"""Sockets of this user's running environments, in a folder that only the user can enter."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sage_deploy_files.bounded_file import is_own
from sage_deploy_files.state_folder import make_private, state_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["EnvironmentFiles", "connect", "listening_sockets", "watch_peer"]

#: Longest socket path, in bytes, that all systems accept.
_MAX_PATH_BYTES: Final = 100

#: Maximum seconds to find out whether a process listens at a socket.
_PROBE_S: Final = 1.0


def _folder() -> Path:
    return state_folder() / "environments"


class EnvironmentFiles:
    """The files of one running environment. They are deleted when it ends."""

    def __init__(self, id: str) -> None:
        """
        Create the folder, which only the user can enter.

        Args:
            id: The environment's ID.

        Raises:
            OSError: The folder cannot be created.
        """
        folder = _folder()
        make_private(folder)
        self.socket = folder / f"{os.getpid()}-{id[:8]}-{_machine()}.sock"
        self.token = self.socket.with_suffix(".token")

    def listen(self) -> socket.socket:
        """Return a listening socket. Only this user can connect, because only they can enter its folder."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        new = self.socket.with_suffix(".new")  # nobody may find the socket before it listens, and take it for dead
        try:
            with _address(new) as address:
                listening.bind(address)
            new.chmod(0o600)
            listening.listen(128)
            new.replace(self.socket)
        except BaseException:
            listening.close()
            new.unlink(missing_ok=True)
            raise
        return listening

    def remove(self) -> None:
        """Delete the files. Idempotent."""
        for file in (self.socket, self.token):
            file.unlink(missing_ok=True)


def listening_sockets() -> list[Path]:
    """Return the sockets of running environments, the newest last. Deletes the files of killed processes."""
    try:
        folder = _folder()
        if not is_own(folder.stat()):
            return []
        found = [(_listening_since(path), path) for path in folder.glob("*.sock")]
    except OSError:
        return []
    return [path for _, path in sorted((since, path) for since, path in found if since is not None)]


def _listening_since(path: Path) -> float | None:
    """Return the time at which the socket at *path* was made; None if no process listens there."""
    try:
        made = path.stat().st_mtime
    except OSError:  # its environment has just ended
        return None
    try:
        connect(path, _PROBE_S).close()
    except FileNotFoundError:  # the same
        return None
    except ConnectionRefusedError:
        # Another machine that shares this folder may run the environment. Process IDs do not help: another container
        # has its own.
        if path.stem.endswith(f"-{_machine()}"):
            for file in (path, path.with_suffix(".token")):
                with suppress(OSError):
                    file.unlink()
        return None
    except OSError:  # too many requests wait, for instance because the process is stopped
        pass
    return made


def _machine() -> str:
    """Return a short name of this machine or container."""
    return hashlib.sha256(os.fsencode(socket.gethostname())).hexdigest()[:6]


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


def watch_peer(connection: socket.socket) -> int | None:
    """
    Return a descriptor that can be read once the process that listens for *connection* has ended.

    None if the connection is not local, the process is in a container that this process cannot see into, or this
    system is not Linux.
    """
    if not (hasattr(socket, "SO_PEERCRED") and hasattr(os, "pidfd_open") and connection.family == socket.AF_UNIX):
        return None
    # The kernel translates the ID into one of this container.
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        return os.pidfd_open(pid)
    except OSError:  # it has ended, or is 0: not visible here
        return None


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
