"""
Build everything that a release uploads, twice, and check it; uploads nothing.

    python tools/check_release.py [FOLDER]

Each distribution gives an sdist and a wheel. Both builds must be equal byte for byte. Each wheel has `py.typed` and
the licence, and twine must find nothing to complain about. With FOLDER, the files are left there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = [ROOT, *sorted(pyproject.parent for pyproject in ROOT.glob("plugins/*/pyproject.toml"))]


def main(folder: Path | None) -> None:
    """Build and check; leave the files in *folder*, and none of another version."""
    with tempfile.TemporaryDirectory(prefix="sage-release-") as first, tempfile.TemporaryDirectory() as second:
        files, others = build(Path(first)), build(Path(second))
        different = [mine.name for mine, other in zip(files, others, strict=True) if digest(mine) != digest(other)]
        if different:
            sys.exit(f"two builds differ: {', '.join(different)}")
        for file in files:
            missing = missing_from(file)
            if missing:
                sys.exit(f"{file.name} lacks {', '.join(missing)}")
        run(sys.executable, "-m", "twine", "check", "--strict", *files)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for old in (*folder.glob("sage_deploy*.whl"), *folder.glob("sage_deploy*.tar.gz")):
                old.unlink()
            for file in files:
                shutil.copy(file, folder)
    print(
        f"{len(files)} files of {len(PROJECTS)} distributions: equal in two builds, typed, licensed, twine is content"
    )


def build(folder: Path) -> list[Path]:
    """Build the sdist and the wheel of each distribution into *folder*; gives them in order."""
    for project in PROJECTS:
        run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=project)
    return sorted(folder.iterdir())


def digest(file: Path) -> str:
    """What tells two contents apart."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def missing_from(file: Path) -> list[str]:
    """The files that an sdist or a wheel must have and has not."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            names = wheel.namelist()
        wanted = ["py.typed", "LICENSE"]
    else:
        with tarfile.open(file) as sdist:
            names = sdist.getnames()
        wanted = ["LICENSE", "README.md", "pyproject.toml"]
    return [name for name in wanted if not any(each.split("/")[-1] == name for each in names)]


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run *command*; ends this program with all that it said if it fails."""
    # Files in an archive get the time of the first day that one can have, not that of a checkout.
    variables = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
