"""The certificates of this process, from the options or from Ray's own variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sage_deploy_remote.rpc.certificates import Certificates
from sage_plugins.errors import DeployError

__all__ = ["certificates_here", "check_certificates"]

#: Ray's variables for the fields of `Certificates`.
_VARIABLES: Final = {
    "certificate": "RAY_TLS_SERVER_CERT",
    "key": "RAY_TLS_SERVER_KEY",
    "authority": "RAY_TLS_CA_CERT",
}


def certificates_here(option: Certificates | None) -> Certificates | None:
    """
    Return the certificates for connections from this process to other machines. None for no TLS.

    Args:
        option: `RayOptions.tls`. If it is None, Ray's own variables apply, read as Ray reads them.

    Raises:
        OSError: Ray's variables turn TLS on, but some of them are missing.
    """
    if option is not None:
        return option
    if os.environ.get("RAY_USE_TLS", "0").lower() not in {"1", "true"}:
        return None
    missing = [name for name in _VARIABLES.values() if not os.environ.get(name)]
    if missing:
        msg = f"RAY_USE_TLS is set, and {' and '.join(missing)} must be set as well"
        raise OSError(msg)
    return Certificates(**{name: str(Path(os.environ[each]).absolute()) for name, each in _VARIABLES.items()})


def check_certificates(option: Certificates | None) -> None:
    """
    Check the paths in `RayOptions.tls` before replicas start.

    With wrong paths no connection could be opened, so calls would be slow Ray tasks.

    Raises:
        DeployError: The files cannot be used on this node.
    """
    if option is not None:
        try:
            option.context(listens=False)
        except OSError as error:
            msg = f"options.ray.tls cannot be used on this node: {error}"
            raise DeployError(msg) from error
