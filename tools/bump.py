"""
Set the version of every distribution of this repository.

    python tools/bump.py 0.2.0

This changes each `pyproject.toml`, including the version ranges between the distributions. In the changelog, the
heading `Unreleased` becomes the version and the date. Then review the difference, run `make release`, commit and tag.
"""

from __future__ import annotations

import re
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(version: str, today: str) -> None:
    """
    Write *version* everywhere.

    Raises:
        SystemExit: It is not a version, or not later than the current one. Nothing was changed.
    """
    new = _numbers(version)
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    for file in files:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if _numbers(project["version"]) >= new:
            sys.exit(f"{project['name']} has version {project['version']} already: name a later one than that")
    for file in files:
        file.write_text(bumped(file.read_text(encoding="utf-8"), version), encoding="utf-8")
    changelog = ROOT / "CHANGELOG.md"
    text = changelog.read_text(encoding="utf-8")
    changelog.write_text(dated(text, version, today), encoding="utf-8")
    print(f"{len(files)} distributions have version {version}; look at `git diff`, then run `make release`")


def bumped(pyproject: str, version: str) -> str:
    """Return *pyproject* with this version, and with sibling ranges from its minor version up to the next one."""
    major, minor, _ = _numbers(version)
    text = re.sub(r'^version = "[^"]+"', f'version = "{version}"', pyproject, count=1, flags=re.MULTILINE)
    ranges = f">={major}.{minor},<{major}.{minor + 1}"
    return re.sub(r'"(sage-deploy[\w-]*)>=[^"]+"', rf'"\1{ranges}"', text)


def dated(changelog: str, version: str, today: str) -> str:
    """Return *changelog* with the unreleased changes under *version*, and an empty section for the next ones."""
    return changelog.replace("## Unreleased\n", f"## Unreleased\n\n## {version} - {today}\n", 1)


def _numbers(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        sys.exit(f"{version!r} is no version: write MAJOR.MINOR.PATCH, such as 0.2.0")
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and the version
        sys.exit(__doc__)
    main(sys.argv[1], f"{datetime.now(UTC):%Y-%m-%d}")
