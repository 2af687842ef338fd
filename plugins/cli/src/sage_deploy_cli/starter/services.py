"""
Two services that find files with equal content.

`Fingerprints` reads files. `Duplicates` asks it about all files in a folder. Both are plain classes, without code for
threads, replicas or timeouts: service_deployment.yaml configures those.
"""

import hashlib
from collections import defaultdict
from pathlib import Path


class Fingerprints:
    """Reads files. Several calls run at once, because reading waits for the disk and hashing releases Python's GIL."""

    def fingerprint(self, path):
        """Return the SHA-256 of the file's content, or None if the file cannot be read."""
        try:
            with Path(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


class Duplicates:
    """Finds files with equal content in a folder and its subfolders."""

    def __init__(self, ctx, folder=".", smallest=1):
        """
        Remember where to look.

        Args:
            ctx: Gives access to other services. sage-deploy passes it to each constructor with a parameter `ctx`.
            folder: Where to look, relative to the folder in which sage-deploy runs.
            smallest: Smallest file size in bytes. Smaller files are ignored.
        """
        self._ctx = ctx
        self._folder = Path(folder)
        self._smallest = smallest

    def setup(self):
        """Check the folder. sage-deploy calls this hook once in each replica, before the first call."""
        if not self._folder.is_dir():
            raise NotADirectoryError(f"there is no folder {self._folder.resolve()}")
        self._fingerprints = self._ctx.service("fingerprints")

    def process(self):
        """Look at every file and return a report. `sage-deploy up --once` calls this method."""
        groups = self.find()
        count = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
        lines = [f"{count} of equal files in {self._folder.resolve()}"]
        for paths in groups:
            lines += ["", f"{Path(paths[0]).stat().st_size:,} bytes each:", *(f"  {path}" for path in paths)]
        return "\n".join(lines)

    def find(self):
        """Return lists of paths of equal files, largest files first. Hidden files and folders are ignored."""
        by_size = defaultdict(list)
        for path in sorted(self._folder.rglob("[!.]*")):
            hidden = any(part.startswith(".") for part in path.relative_to(self._folder).parts)
            if not hidden and path.is_file() and not path.is_symlink():
                by_size[path.stat().st_size].append(str(path))
        groups = []
        for size in sorted(by_size, reverse=True):
            if size >= self._smallest and len(by_size[size]) > 1:
                groups += self._equal(by_size[size])
        return groups

    def _equal(self, paths):
        """Return the groups of equal files among files of one size."""
        # `submit` returns at once, so several files are read at the same time. `result` waits.
        calls = [(path, self._fingerprints.submit("fingerprint", path)) for path in paths]
        by_content = defaultdict(list)
        for path, call in calls:
            by_content[call.result()].append(path)
        by_content.pop(None, None)
        return [equal for equal in by_content.values() if len(equal) > 1]
