"""Shared fixtures for tests of routing: a service with a method of every kind."""

from __future__ import annotations

import pytest

from shapes import Shapes


@pytest.fixture
def shapes(deploy):
    """Deploys the service under a strategy and returns its handle."""
    return lambda strategy, **config: deploy(strategy, Shapes, **config).handle
