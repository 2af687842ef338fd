"""
Two services that find files of equal content: one reads files, the other asks it about all files of a folder.

They are plain classes and know nothing of threads, replicas or timeouts. service_deployment.yaml says all of that.
"""

import hashlib
from collections import defaultdict
from pathlib import Path


class Fingerprints:
    """Reads files. Several calls run at once: reading waits for the disk, and hashing frees Python's lock."""

    def fingerprint(self, path):
        """The SHA-256 of a file's content, or None for a file that cannot be read."""
        try:
            with Path(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None


class Duplicates:
    """Finds the files below a folder that have the same content."""

    def __init__(self, ctx, folder=".", smallest=1):
        """
        Remember where to look.

        Args:
            ctx: The way to the other services; passed because there is a parameter of this name.
            folder: Where to look, from the folder in which sage-deploy runs.
            smallest: Smaller files, in bytes, are left out.
        """
        self._ctx = ctx
        self._folder = Path(folder)
        self._smallest = smallest

    def setup(self):
        """A hook: called once in each replica, before its first call."""
        if not self._folder.is_dir():
            raise NotADirectoryError(f"there is no folder {self._folder.resolve()}")
        self._fingerprints = self._ctx.service("fingerprints")

    def process(self):
        """What `sage-deploy up --once` calls: look at every file and return a report."""
        groups = self.find()
        count = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
        lines = [f"{count} of equal files in {self._folder.resolve()}"]
        for paths in groups:
            lines += ["", f"{Path(paths[0]).stat().st_size:,} bytes each:", *(f"  {path}" for path in paths)]
        return "\n".join(lines)

    def find(self):
        """Lists of the paths of equal files, the largest files first. Hidden files and folders are left out."""
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
        """The groups of equal files among files of one size."""
        # `submit` does not wait, so that the files are read side by side; `result` does.
        calls = [(path, self._fingerprints.submit("fingerprint", path)) for path in paths]
        by_content = defaultdict(list)
        for path, call in calls:
            by_content[call.result()].append(path)
        by_content.pop(None, None)
        return [equal for equal in by_content.values() if len(equal) > 1]
