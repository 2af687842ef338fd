"""
Build every file of a release twice and check it. Nothing is uploaded.

    python tools/check_release.py [FOLDER]

Each distribution has an sdist and a wheel. Both builds must be equal byte for byte. Each wheel must have `py.typed` and
the licence, and `twine check` must find no problems. With FOLDER, the files are copied there.
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
    """Build and check. Copy the files to *folder*, and remove those of other versions there."""
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
    """Build the sdist and the wheel of each distribution into *folder*. Return them sorted."""
    for project in PROJECTS:
        run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=project)
    return sorted(folder.iterdir())


def digest(file: Path) -> str:
    """Return a hash of the file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def missing_from(file: Path) -> list[str]:
    """Return the required files that an sdist or a wheel lacks."""
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
    """Run *command*. If it fails, end this program with the command's output."""
    # Files in an archive get the earliest possible time, so that the time of the checkout makes no difference.
    variables = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
