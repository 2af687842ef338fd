"""Shared fixtures for tests of the commands."""

from __future__ import annotations

import pytest

from things import write_things


@pytest.fixture
def folder(tmp_path):
    return write_things(tmp_path)
