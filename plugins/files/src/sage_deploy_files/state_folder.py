"""Where this user's processes keep what others of the same user find."""

from __future__ import annotations

import os
from pathlib import Path

from sage_deploy_files.bounded_file import is_own

__all__ = ["make_private", "state_folder"]


def state_folder() -> Path:
    """
    The folder of sage-deploy below the user's state directory; it need not be there.

    Raises:
        FileNotFoundError: This user has no home directory.
    """
    state = os.environ.get("XDG_STATE_HOME") or ""
    if Path(state).is_absolute():
        base = Path(state)
    else:
        try:
            base = Path.home() / ".local" / "state"
        except RuntimeError:  # without HOME, and not in the list of users, as in many containers
            raise FileNotFoundError("this user has no home directory; set HOME or XDG_STATE_HOME") from None
    return base / "sage-deploy"


def make_private(folder: Path) -> None:
    """
    See that *folder* is there, and that nobody else can write in it.

    Raises:
        OSError: It cannot be made, or others can write in it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_own(folder.stat()):
        raise PermissionError(f"{folder} can be written by others; make it your own: chmod 700")
