"""Checks how exposed a Ray cluster is. Anyone who reaches an open cluster can run code on it."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sage_plugins.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "OLDEST_RAY",
    "check_cluster",
    "check_installation",
    "check_token_file",
    "check_version",
    "is_loopback",
    "token_file",
    "version_of",
]

#: The first version of Ray without CVE-2026-27482, which let a web page change a cluster.
OLDEST_RAY: Final = (2, 54)

_NAME: Final = "Ray"


def version_of(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: `(2, 60, 0)` for `"2.60.0.post1"`."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach *address*, which is `host`, `host:port` or `[host]:port`."""
    host = address.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_installation(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check Ray without connecting: its version, and the variables that configure it."""
    from importlib import metadata

    yield check_version(metadata.version("ray"))
    yield from check_token_file(environment)
    address = environment.get("RAY_ADDRESS", "")
    if address not in ("", "auto", "local") and environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        yield from check_cluster(address, token=False, dashboard=None)


def check_version(version: str) -> Finding:
    """Check whether this version of Ray may be used at all."""
    if version_of(version) < OLDEST_RAY:
        oldest = ".".join(map(str, OLDEST_RAY))
        found = f"Ray {version} is older than {oldest}, the first without known holes"
        return Finding(_NAME, "failure", found, f"pip install 'ray>={oldest}', here and on every node of the cluster")
    return Finding(_NAME, "ok", f"Ray {version}")


def check_cluster(address: str, *, token: bool, dashboard: str | None) -> Iterator[Finding]:
    """
    Check the exposure of the cluster that this process is connected to.

    Args:
        address: Where its head listens, as `host:port`.
        token: Whether it requires a token.
        dashboard: Where its dashboard listens, as `host:port`; None if there is none.
    """
    if not token and not is_loopback(address):
        found = f"the cluster at {address} asks for no token: anyone who reaches its ports can run code on it"
        yield Finding(_NAME, "warning", found, "set RAY_AUTH_MODE=token on every node and here, or close its network")
    if dashboard and not is_loopback(dashboard):
        found = f"the dashboard at {dashboard} is open to other machines"
        yield Finding(_NAME, "warning", found, "start the head with --dashboard-host=127.0.0.1 and use a tunnel")


def token_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where Ray reads its token from. The file may not exist."""
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def check_token_file(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check whether other users of this machine can read Ray's token."""
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token" or environment.get("RAY_AUTH_TOKEN"):
        return
    path = token_file(environment)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # a missing token is for Ray to report
        return
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        found = f"others on this machine can read the token of the cluster: {path} has mode {mode:04o}"
        yield Finding(_NAME, "warning", found, f"chmod 600 {path}")
