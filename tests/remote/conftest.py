"""Fixtures of these tests: certificates, an environment that publishes its services in a directory, and a project."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

import memory_directory
import sage_deploy_autoscalers
import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins.plugins.registry import Registry
from shipped_project import PROJECT, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from certificates import Authority
    from sage_deploy_remote.rpc.certificates import Certificates
    from sage_plugins import Environment


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates take the command `openssl`")
    from certificates import Authority

    return Authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="session")
def node_certificates(authority: Authority) -> Certificates:
    """The certificates of one node."""
    return authority.issue("node")


@pytest.fixture
def plugin() -> memory_directory.Plugin:
    """The plugin with the target and the directory in memory."""
    return memory_directory.Plugin()


@pytest.fixture
def env(environments: Callable[..., Environment], plugin: memory_directory.Plugin) -> Environment:
    """An environment that uses this plugin."""
    registry = Registry.of(
        sage_deploy_autoscalers,
        sage_deploy_balancers,
        sage_deploy_local,
        sage_deploy_monitors,
        sage_deploy_threading,
        plugin,
    )
    return environments("theirs", registry=registry)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of modules that this process can import. At the end they are removed from `sys.modules`."""
    folder = write(tmp_path / "project", PROJECT)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__spec__", "")) or name == "only_here":
            del sys.modules[name]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder
