"""
A pytest plugin that ends the run with exit code 3 if one of our packages was imported from outside this environment.

It checks what each process of the test run has imported, however it was found. tools/check_wheels.py copies it into the
environment that it checks.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_OURS = re.compile(r"sage_(plugins|deploy_\w+)(\..*)?")


def strays() -> Iterator[str]:
    """Yield what is wrong with this process's imports."""
    environment = Path(sys.prefix).resolve()
    origins = {
        name: origin
        for name, module in list(sys.modules.items())
        if _OURS.fullmatch(name) and (origin := getattr(module, "__file__", None))
    }
    if "sage_plugins" not in origins:
        yield "sage_plugins was never imported"
    for name, origin in origins.items():
        if not Path(origin).resolve().is_relative_to(environment):
            yield f"{name} from {origin}"


class InstalledOnly:
    """Collects the findings of all processes. The process that began the run reports them."""

    def __init__(self) -> None:
        self._strays: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the findings of another process. A process that died has no findings, but its test has failed."""
        self._strays.update(getattr(node, "workeroutput", {}).get("strays", ()))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Check this process. A worker sends its findings to the main process, which reports all."""
        self._strays.update(strays())
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["strays"] = sorted(self._strays)
        elif self._strays:
            print("\nnot the installed wheels were tested:", *sorted(self._strays), sep="\n  ")
            session.exitstatus = 3


def pytest_configure(config: pytest.Config) -> None:
    """Register the collector."""
    config.pluginmanager.register(InstalledOnly())
