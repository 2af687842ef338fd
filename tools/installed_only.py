"""
A pytest plugin that ends the run with exit code 3 if a package of ours came from elsewhere than this environment.

It looks at what the run has imported, whichever way it was found, in each of the processes that share the tests.
tools/check_wheels.py copies it into the environment that it checks.
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
    """What is wrong with what this process has imported."""
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
    """Collects the strays of all processes; the one that began the run reports them."""

    def __init__(self) -> None:
        self._strays: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what another process has found; one that died has failed its test, and found nothing."""
        self._strays.update(getattr(node, "workeroutput", {}).get("strays", ()))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look at this process; tell who began the run, or report."""
        self._strays.update(strays())
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["strays"] = sorted(self._strays)
        elif self._strays:
            print("\nnot the installed wheels were tested:", *sorted(self._strays), sep="\n  ")
            session.exitstatus = 3


def pytest_configure(config: pytest.Config) -> None:
    """Register what collects."""
    config.pluginmanager.register(InstalledOnly())
