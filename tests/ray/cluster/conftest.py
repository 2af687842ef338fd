"""Fixtures of the tests with a Ray runtime: they share one cluster."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sage_deploy_testing.tools import leak_guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_cluster import RayCluster

_HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests after all others, because each test process starts its own cluster for them."""
    items.sort(key=lambda item: _HERE in item.path.parents)


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """
    The folder for Ray's sessions: private, so that nothing finds another cluster, and short, because of its sockets.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
        patch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _cluster_of_the_run(ray_folder: Path) -> Iterator[RayCluster]:
    from ray_cluster import RayCluster

    cluster = RayCluster(ray_folder)
    leak_guard.add_runtime(cluster)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(_cluster_of_the_run: RayCluster) -> Iterator[RayCluster]:
    """The cluster, reset after each test."""
    yield _cluster_of_the_run
    _cluster_of_the_run.tidy()
