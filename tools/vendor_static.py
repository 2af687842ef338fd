"""
Fetch the third-party files that the server's pages and their tests use, and check them against the recorded hashes.

`vendored.json` in each folder has the npm package, the version and the SHA-256 of each file. To update a file, change
the version there, run this program with `--accept`, and review the new file.

Needs npm. If a file differs from its record, the program ends with exit code 1 and writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT / "plugins/server/src/sage_deploy_server/pages/static/vendor", ROOT / "tests/server/vendor")


def main(*, accept: bool) -> None:
    """Fetch the files of all folders. With *accept*, record their hashes."""
    for folder in FOLDERS:
        _renew(folder, accept=accept)


def _renew(folder: Path, *, accept: bool) -> None:
    path = folder / "vendored.json"
    record: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    contents = [_fetch(entry["package"], entry["version"], entry["member"]) for entry in record]
    for entry, content in zip(record, contents, strict=True):
        found = hashlib.sha256(content).hexdigest()
        if not accept and found != entry["sha256"]:
            sys.exit(f"{entry['file']}: the package has another file: SHA-256 {found}, not {entry['sha256']}")
        entry["sha256"] = found
    for entry, content in zip(record, contents, strict=True):
        (folder / entry["file"]).write_bytes(content)
    path.write_text(f"{json.dumps(record, indent=2)}\n", encoding="utf-8")
    print("\n".join(f"{entry['file']}: {entry['package']} {entry['version']}" for entry in record))


def _fetch(package: str, version: str, member: str) -> bytes:
    """Return a file of a package, from the registry that npm is configured for."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        with tarfile.open(Path(folder, done.stdout.split()[-1])) as archive:
            found = archive.extractfile(f"package/{member}")
            assert found is not None, member
            return found.read()


if __name__ == "__main__":
    main(accept="--accept" in sys.argv[1:])
