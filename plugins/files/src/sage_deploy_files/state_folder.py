"""The folder where processes of one user leave data for each other."""

from __future__ import annotations

import os
from pathlib import Path

from sage_deploy_files.bounded_file import is_own

__all__ = ["make_private", "state_folder"]


def state_folder() -> Path:
    """
    Return sage-deploy's folder in the user's state directory. It may not exist yet.

    Raises:
        FileNotFoundError: This user has no home directory.
    """
    state = os.environ.get("XDG_STATE_HOME") or ""
    if Path(state).is_absolute():
        base = Path(state)
    else:
        try:
            base = Path.home() / ".local" / "state"
        except RuntimeError:  # no HOME, and no entry in the list of users, as in many containers
            raise FileNotFoundError("this user has no home directory; set HOME or XDG_STATE_HOME") from None
    return base / "sage-deploy"


def make_private(folder: Path) -> None:
    """
    Create *folder* if it does not exist, and check that nobody else can write to it.

    Raises:
        OSError: It cannot be created, or others can write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_own(folder.stat()):
        raise PermissionError(f"{folder} can be written by others; make it your own: chmod 700")
