"""The doctor reports parts of a Ray cluster that are open to other people, and only those."""

from __future__ import annotations

import os

import pytest

from sage_deploy_ray.cluster.exposure import (
    check_cluster,
    check_installation,
    check_token_file,
    check_version,
    is_loopback,
    version_of,
)
from sage_plugins.plugins.listing import examine
from sage_plugins.plugins.registry import Registry

OPEN, CLOSED = "10.0.0.1:6379", "127.0.0.1:6379"


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "127.8.0.1", "localhost:8265", "[::1]:6379", "::1"])
def test_only_this_machine_reaches(address):
    """Addresses that only this machine reaches."""
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:8265", "10.0.0.1", "[::]:6379", "::", "head:6379", "localhost.evil", ""])
def test_others_may_reach(address):
    """Addresses that other machines may reach."""
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("address", "token", "dashboard", "found"),
    [
        (OPEN, True, None, []),
        (CLOSED, False, None, []),
        (OPEN, False, None, ["asks for no token"]),
        (OPEN, True, "10.0.0.1:8265", ["the dashboard at 10.0.0.1:8265 is open"]),
        (OPEN, False, "0.0.0.0:8265", ["asks for no token", "the dashboard at 0.0.0.0:8265 is open"]),
        (OPEN, True, "127.0.0.1:8265", []),
        (OPEN, True, "", []),
    ],
)
def test_cluster(address, token, dashboard, found):
    """
    A cluster without a token or with an open dashboard is reported with a fix, unless only this machine reaches it.
    """
    findings = list(check_cluster(address, token=token, dashboard=dashboard))

    assert len(findings) == len(found)
    for finding, words in zip(findings, found, strict=True):
        assert words in finding.found
        assert finding.status == "warning"
        assert finding.fix


@pytest.mark.parametrize(
    ("version", "status"),
    [("2.53.9", "failure"), ("2.9.0", "failure"), ("1.13", "failure"), ("2.54.0", "ok"), ("2.60.0", "ok"), ("3", "ok")],
)
def test_version(version, status):
    """A Ray version below 2.54 is a failure."""
    assert check_version(version).status == status


def test_version_ends_where_it_is_no_number():
    """Only the numbers of a version count."""
    assert version_of("2.60.0rc1") == (2, 60)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("mode", "found"), [(0o600, 0), (0o400, 0), (0o644, 1), (0o640, 1), (0o602, 1)])
def test_token_file(tmp_path, mode, found):
    """A token file that others can read or write is reported with the fix; the token is not shown."""
    token = tmp_path / "token"
    token.write_text("secret", encoding="ascii")
    token.chmod(mode)

    findings = list(check_token_file({"RAY_AUTH_TOKEN_PATH": str(token)}))

    assert len(findings) == found
    assert all(f"chmod 600 {token}" in finding.fix and "secret" not in finding.found for finding in findings)


@pytest.mark.parametrize("variables", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "t"}])
def test_token_file_that_is_not_used_is_not_looked_at(tmp_path, variables):
    """A token file that Ray does not use is not checked."""
    token = tmp_path / "token"
    token.touch(mode=0o644)

    assert not list(check_token_file({"RAY_AUTH_TOKEN_PATH": str(token)} | variables))


def test_token_file_that_is_not_there_is_no_finding(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert not list(check_token_file({}))


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, 0),
        ({"RAY_ADDRESS": OPEN}, 0),
        ({"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "disabled"}, 0),
        ({"RAY_ADDRESS": OPEN, "RAY_AUTH_MODE": "disabled"}, 1),
    ],
)
def test_variables_that_ask_for_an_open_cluster(variables, found, tmp_path, monkeypatch):
    """`RAY_AUTH_MODE=disabled` with another machine's address is reported without a connection."""
    monkeypatch.setenv("HOME", str(tmp_path))
    version, *others = check_installation(variables)

    assert version.status == "ok"
    assert len(others) == found


def test_doctor_looks_at_ray():
    """The doctor reports on Ray."""
    assert "Ray" in {finding.name for finding in examine(Registry.discover())}
