"""Runs the installed script `sage-deploy` as a user does: in its own process, with or without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = Path(sys.executable).with_name("sage-deploy")
#: Seconds after which a process that has not ended counts as hanging.
PATIENCE = 50

#: Variables of the caller's environment that must not affect tests.
_UNSET = ("NO_COLOR", "FORCE_COLOR", "PYTHONPATH", "SAGE_DEPLOY_DISABLED_PLUGINS", "COLUMNS")


def surroundings(**variables: Any) -> dict[str, str]:
    """Return the environment of a process, with *variables* and without those that would change the output."""
    kept = {name: value for name, value in os.environ.items() if name not in _UNSET}
    return kept | {"TERM": "xterm"} | {name: str(value) for name, value in variables.items()}


def sage_deploy(*arguments: Any, cwd: Path | str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the command until it ends. Both outputs are pipes."""
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=cwd,
        env=surroundings(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def installed(folder: Path, *strangers: str) -> str:
    """Return a PYTHONPATH with which these distributions of tests/third_party count as installed."""
    places = [folder]
    for stranger in strangers:
        source = ROOT / "tests" / "third_party" / stranger
        project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        register(folder, stranger, project["version"], project["entry-points"]["sage_deploy"])
        places.append(source)
    return os.pathsep.join(map(str, places))


def register(folder: Path, distribution: str, version: str, points: dict[str, str]) -> None:
    """Write the metadata of an installed distribution to *folder*."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = "".join(f"{name} = {module}\n" for name, module in points.items())
    (info / "entry_points.txt").write_text(f"[sage_deploy]\n{lines}")
