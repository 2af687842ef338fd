"""
Fetch the files of others that the server's pages and their tests use, and check that they are the recorded ones.

`vendored.json` in each folder has the npm package, the version and the SHA-256 of each. To take another version, change
it there, run this with `--accept`, and look at what it does.

Needs npm. Ends with exit code 1 if a file is another than the recorded one; nothing is written then.
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
    """Fetch the files of all folders; with *accept*, record what came."""
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
    """A file of a package, from the registry that npm is set up for."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{package}@{version}"]
        done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        with tarfile.open(Path(folder, done.stdout.split()[-1])) as archive:
            found = archive.extractfile(f"package/{member}")
            assert found is not None, member
            return found.read()


if __name__ == "__main__":
    main(accept="--accept" in sys.argv[1:])
