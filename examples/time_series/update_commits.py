"""
Writes `commits.csv` from the Git history. Run it in a clone to get newer data.

The file is part of the repository, so that the example also runs from sources without their history.
"""

from __future__ import annotations

import csv
import subprocess
from collections import Counter
from pathlib import Path

FILE = Path(__file__).with_name("commits.csv")
#: The area of each folder of the repository; all other folders are "other".
AREAS = {"sage_plugins": "core", "plugins": "plugins", "tests": "tests", "docs": "docs"}


def main() -> None:
    """Write one line for each commit and area: seconds since 1970, area, lines that were added or removed."""
    command = ("git", "log", "--reverse", "--no-merges", "--no-renames", "--numstat", "--format=@%ct")
    log = subprocess.run(command, cwd=FILE.parent, check=True, capture_output=True, text=True).stdout
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("time", "area", "lines"))
        for commit in log.split("@")[1:]:
            time, _, changes = commit.partition("\n")
            for area, lines in sorted(_lines(changes).items()):
                writer.writerow((time, area, lines))


def _lines(changes: str) -> Counter[str]:
    """Count the changed lines of each area; *changes* is the output of `git log --numstat`."""
    areas: Counter[str] = Counter()
    for change in filter(None, changes.splitlines()):
        added, removed, path = change.split("\t")
        if added != "-":  # a binary file has no lines
            areas[AREAS.get(path.partition("/")[0], "other")] += int(added) + int(removed)
    return +areas


if __name__ == "__main__":
    main()
