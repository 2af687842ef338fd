"""Small services for the tests of the command line."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MODULE = """
    class Counter:
        def __init__(self, start):
            self.value = start

        def process(self):
            self.value += 1
            return f"counted to {self.value}"


    class Keeper:
        def process(self, key):
            return key


    class Failing:
        def __init__(self):
            raise ValueError("no luck")


    class Stopping:
        def stop(self):
            print("stop hook ran", flush=True)
"""


def write_things(folder: Path) -> Path:
    """Write the module `things` to *folder*. Return the folder."""
    (folder / "things.py").write_text(dedent(_MODULE), encoding="utf-8")
    return folder


def deployment(folder: Path, text: str) -> Path:
    """Write a deployment file to *folder*. Return its path."""
    file = folder / "service_deployment.yaml"
    file.write_text(dedent(text), encoding="utf-8")
    return file
