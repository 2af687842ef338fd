"""Certificates for tests, made by the command `openssl`."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from sage_deploy_remote.rpc.certificates import Certificates

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NEEDS_OPENSSL", "Authority"]

NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates take the command `openssl`")

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]


class Authority:
    """A certificate authority with its own folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.certificate, self._key = folder / "authority.pem", folder / "authority.key"
        _request(*_KEY, "-nodes", "-keyout", self._key, "-out", self.certificate, "-subj", "/CN=authority")

    def issue(self, name: str, *addresses: str, password: str | None = None) -> Certificates:
        """Issue a certificate for a node at *addresses*."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        _request(
            *_KEY,
            *(["-nodes"] if password is None else ["-passout", f"pass:{password}"]),
            *["-CA", self.certificate, "-CAkey", self._key, "-keyout", key, "-out", certificate],
            *["-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:FALSE"],
            *["-addext", "subjectAltName=" + ",".join(["DNS:localhost", *(f"IP:{each}" for each in addresses)])],
        )
        return Certificates(str(certificate), str(key), str(self.certificate))


def _request(*options: str | Path) -> None:
    command = ["openssl", "req", "-x509", "-days", "2", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
