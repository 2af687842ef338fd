"""Shared fixtures for tests of environments."""

from __future__ import annotations

import pytest

from given_arguments import Given


@pytest.fixture
def given():
    """A new class for each test, so that the test can count its instances."""
    return type("Given", (Given,), {"made": 0})
