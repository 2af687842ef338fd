"""
The pytest plugin of `pip install sage-deploy[testing]`: an environment for tests of services.

Tests use the fixture `sage_environment`. Their tracebacks hide the frames of sage-deploy, unless pytest runs with
`--full-trace`.
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
    Return a new `Environment` for one test. `SageEnvironment.override` replaces its services by fakes.

    It is closed when the test ends. The test then fails if it left threads, files, asyncio tasks or child processes,
    and the failure lists them.
    """
    from sage_deploy_testing.tools import leak_guard
    from sage_deploy_testing.tools.fakes import SageEnvironment

    if request.config.pluginmanager.has_plugin(leak_guard.NAME):  # it checks every test
        with SageEnvironment("test") as env:
            yield env
    else:
        with leak_guard.guard(request.node), SageEnvironment("test") as env:
            yield env


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Hide the frames of sage-deploy from the traceback of a failed test with that fixture."""
    if call.excinfo is None or "sage_environment" not in getattr(item, "fixturenames", ()):
        return
    for name, module in tuple(sys.modules.items()):
        if name.partition(".")[0] == "sage_plugins" or name.startswith("sage_deploy_"):
            module.__tracebackhide__ = True  # type: ignore[attr-defined] # pytest looks for it in a frame's globals
