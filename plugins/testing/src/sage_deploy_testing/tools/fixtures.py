"""
The pytest plugin that `pip install sage-deploy[testing]` brings: an environment for tests of services.

Tests ask for the fixture `sage_environment`. In their tracebacks the frames of sage-deploy are hidden, unless pytest
runs with `--full-trace`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_deploy_testing.tools.fakes import SageEnvironment


@pytest.fixture
def sage_environment(request: pytest.FixtureRequest) -> Iterator[SageEnvironment]:
    """
    A new `Environment` for one test, in which services can be replaced by fakes, see `SageEnvironment.override`.

    It is closed when the test ends. A test that leaves threads, files, asyncio tasks or child processes behind then
    fails, with what it left.
    """
    from sage_deploy_testing.tools import leak_guard
    from sage_deploy_testing.tools.fakes import SageEnvironment

    if request.config.pluginmanager.has_plugin(leak_guard.NAME):  # it looks at every test
        with SageEnvironment("test") as env:
            yield env
    else:
        with leak_guard.guard(request.node), SageEnvironment("test") as env:
            yield env


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Hide the frames of sage-deploy from the traceback of a test with that fixture that fails."""
    if call.excinfo is None or "sage_environment" not in getattr(item, "fixturenames", ()):
        return
    for name, module in tuple(sys.modules.items()):
        if name.partition(".")[0] == "sage_plugins" or name.startswith("sage_deploy_"):
            module.__tracebackhide__ = True  # type: ignore[attr-defined] # pytest looks for it in a frame's globals
