"""What the tests of connections share: certificates."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from certificates import Authority
    from sage_deploy_remote.rpc.certificates import Certificates


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Issues certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates take the command `openssl`")
    from certificates import Authority

    return Authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="session")
def node_certificates(authority: Authority) -> Certificates:
    """Those of one node."""
    return authority.issue("node")
