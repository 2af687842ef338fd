"""What every test of the repository runs under, the plugins' own included."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

# Before anything imports from it: a module that is already imported keeps its bare asserts.
pytest.register_assert_rewrite("sage_deploy_testing")

pytest_plugins = ["pytester", "sage_deploy_testing.tools.leak_guard"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep Python from looking through the tests again and again while they are collected: they all stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """
    Set apart what lives as long as the run: every module, and thousands of tests.

    Else each full collection, of the leak guard's and of the tests' own, would look at all of it: close to a second.
    """
    gc.collect()
    gc.freeze()
