"""The certificates of this process: those of the options, else those that Ray itself uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sage_deploy_remote.rpc.certificates import Certificates
from sage_plugins.errors import DeployError

__all__ = ["certificates_here", "check_certificates"]

#: Ray's variables for what `Certificates` has.
_VARIABLES: Final = {
    "certificate": "RAY_TLS_SERVER_CERT",
    "key": "RAY_TLS_SERVER_KEY",
    "authority": "RAY_TLS_CA_CERT",
}


def certificates_here(option: Certificates | None) -> Certificates | None:
    """
    The certificates for connections of this process to other machines; None if they do without TLS.

    Args:
        option: `RayOptions.tls`. If it is None, Ray's variables count, which it reads in the same way.

    Raises:
        OSError: Ray's variables ask for TLS, and do not say all that it takes.
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
    Find wrong paths in `RayOptions.tls` before replicas start, whose calls would be tasks for want of a connection.

    Raises:
        DeployError: The files cannot be used on this node.
    """
    if option is not None:
        try:
            option.context(listens=False)
        except OSError as error:
            msg = f"options.ray.tls cannot be used on this node: {error}"
            raise DeployError(msg) from error
