"""Checks that the packages of `make examples` are installed."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
TIME_SERIES = ROOT / "examples" / "time_series"
SEMANTIC_SEARCH = ROOT / "examples" / "semantic_search"


def pins() -> list[Requirement]:
    """Return the requirements of the group `examples` and of the Makefile."""
    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["examples"]
    (model,) = re.findall(r"^MODEL := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return [Requirement(text) for text in (*group, model)]


def require() -> None:
    """Fail if a package is missing or has another version. A skip would hide that nothing is tested anywhere."""
    for pin in pins():
        try:
            found = version(pin.name)
            fits = found in pin.specifier
        except PackageNotFoundError:
            found, fits = "not installed", False
        if not fits:
            pytest.fail(f"{pin.name} is {found}, this needs {pin}; `make examples` installs it", pytrace=False)
