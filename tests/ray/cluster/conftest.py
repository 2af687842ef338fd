"""One Ray cluster, shared by all tests that need a Ray runtime."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sage_deploy_testing.tools import leak_guard

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ray_cluster import RayCluster

_HERE = Path(__file__).parent
_CLUSTER: pytest.StashKey[RayCluster] = pytest.StashKey()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests after all others: each test process starts its own cluster for them."""
    items.sort(key=lambda item: _HERE in item.path.parents)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """End the cluster after the last test here. An idle cluster keeps a twentieth of a processor busy."""
    done = yield
    if (nextitem is None or _HERE not in nextitem.path.parents) and _CLUSTER in item.config.stash:
        item.config.stash[_CLUSTER].close()
    return done


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Return Ray's folder for sessions: private, so nothing finds another cluster, and short for socket paths."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
        patch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _cluster_of_the_run(ray_folder: Path, pytestconfig: pytest.Config) -> Iterator[RayCluster]:
    from ray_cluster import RayCluster

    cluster = pytestconfig.stash[_CLUSTER] = RayCluster(ray_folder)
    leak_guard.add_runtime(cluster)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(_cluster_of_the_run: RayCluster) -> Iterator[RayCluster]:
    """The cluster."""
    yield _cluster_of_the_run
    _cluster_of_the_run.tidy()
