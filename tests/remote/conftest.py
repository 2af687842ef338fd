"""Fixtures of these tests: certificates, and an environment that publishes its services in a directory."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

import memory_directory
import sage_deploy_autoscalers
import sage_deploy_balancers
import sage_deploy_local
import sage_deploy_monitors
import sage_deploy_threading
from sage_plugins.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

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
