"""Parses the addresses to listen at, as options and commands give them."""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["is_loopback", "parse"]

_MAX_PORT = 65535


def parse(http: str) -> tuple[str, int]:
    """
    Parse `HOST:PORT`, `[IPv6]:PORT` or `PORT`. A port alone means the loopback interface.

    Raises:
        ValueError: It is none of these; the message says what is allowed.
    """
    host, _, port = str(http).rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        msg = f"{http!r} is no address: give HOST:PORT, or a port alone, such as 8400"
        raise ValueError(msg)
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach *host*."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
