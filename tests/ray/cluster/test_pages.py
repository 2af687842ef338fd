"""The documentation pages that need a cluster: their code blocks run on the test cluster."""

from __future__ import annotations

import pytest

from documentation_pages import ON_A_CLUSTER, Page, working_folder
from tutorial_page import Tutorial

pytestmark = [pytest.mark.docs, pytest.mark.ray, pytest.mark.timeout(180)]


@pytest.mark.parametrize("path", ON_A_CLUSTER, ids=lambda path: path.name)
def test_blocks_of(path, cluster, tmp_path, monkeypatch):
    """The blocks of a page give what the page shows."""
    with working_folder(tmp_path, monkeypatch):
        Page(path, monkeypatch, RAY_ADDRESS=cluster.address).take_all()


def test_blocks_of_the_tutorial(ray_folder, tmp_path, monkeypatch):
    """Both terminals print what the tutorial shows."""
    monkeypatch.setenv("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(80 * 2**20))
    with working_folder(tmp_path, monkeypatch):
        Tutorial(monkeypatch).take_all()
