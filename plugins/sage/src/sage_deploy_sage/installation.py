"""Checks whether this package supports the installed version of SAGE."""

from __future__ import annotations

import re
from importlib import metadata
from typing import TYPE_CHECKING, Final

from sage_plugins.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_installation", "check_version"]

#: Supported versions: from the first one up to, but without, the second one. As in pyproject.toml. Before 0.3.2.3,
#: SAGE's `LocalEnvironment` has no usable services: its contexts cannot call any, and it runs no pipeline with a key.
KNOWN: Final = ((0, 3, 2, 3), (0, 4))

_NAME: Final = "SAGE"


def check_installation() -> Iterator[Finding]:
    """Check SAGE's version without importing SAGE."""
    try:
        yield check_version(metadata.version("isage"))
    except metadata.PackageNotFoundError:
        yield Finding(_NAME, "failure", "isage is not installed", "pip install 'sage-deploy[sage]'")


def check_version(version: str) -> Finding:
    """Check whether services can be deployed for pipelines of this version of SAGE."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:4])
    first, beyond = KNOWN
    if first <= numbers < beyond:
        return Finding(_NAME, "ok", f"isage {version}")
    wanted = f"isage>={'.'.join(map(str, first))},<{'.'.join(map(str, beyond))}"
    found = f"isage {version} is another than the versions that sage-deploy-sage knows"
    return Finding(_NAME, "failure", found, f"pip install '{wanted}'")
