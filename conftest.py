"""Settings for every test in the repository, including the plugins' tests."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# Before any import of it: a module that is already imported keeps its plain asserts.
pytest.register_assert_rewrite("sage_deploy_testing")

pytest_plugins = ["pytester", "sage_deploy_testing.tools.leak_guard"]
if "LATE_THREADS" in os.environ:
    pytest_plugins.append("late_threads")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Turn off garbage collection while tests are collected: all of them stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """
    Exempt everything that lives as long as the run from garbage collection: all modules and tests.

    Otherwise each full collection, of the leak guard and of tests, would take close to a second.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Do the same after each file: its imports and reports stay too. Not before the leak guard has looked."""
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result
