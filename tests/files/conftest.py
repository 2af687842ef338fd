"""Shared fixtures for tests of deployment files."""

from __future__ import annotations

import pytest

from sage_deploy_files.reading import nodes as reading
from sage_deploy_files.reading.nodes import Node
from sage_deploy_files.reading.reader import read
from sage_plugins.errors import ConfigError


@pytest.fixture
def made(monkeypatch):
    """A list of all nodes that reading makes."""
    nodes = []

    class Noted(Node):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            nodes.append(self)

    monkeypatch.setattr(reading, "Node", Noted)
    return nodes


@pytest.fixture
def load(tmp_path):
    """Return a function that writes a file and reads it."""

    def load(text, **options):
        path = tmp_path / "services.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(path, **options)

    return load


@pytest.fixture
def refused(load):
    """Return a function that writes a bad file; it returns the places and rules of the problems, and the error."""

    def refused(text, **options):
        with pytest.raises(ConfigError) as caught:
            load(text, **options)
        return [f"{problem.line}:{problem.column} {problem.id}" for problem in caught.value.problems], caught.value

    return refused
