"""`doctor` checks the sockets for calls to replicas on Ray."""

from __future__ import annotations

import tempfile

import pytest
import ray

from sage_deploy_ray.cluster.links import check_links


@pytest.fixture
def temporary(monkeypatch):
    """Set another folder for temporary files."""

    def use(folder):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))

    return use


def test_both_kinds_of_sockets_are_tried(temporary, tmp_path):
    """`doctor` tries a Unix socket and a TCP port, and removes what it created."""
    temporary(tmp_path)
    near, far = check_links()
    assert (near.status, near.found) == ("ok", "calls can go over a Unix socket")
    assert far.status == "ok"
    assert far.found.startswith("calls can go over TCP at ")
    assert list(tmp_path.iterdir()) == []


def test_machine_without_a_place_for_sockets_is_told_so(temporary):
    """If no Unix socket can be made, the warning says why, what calls use then, and what to do. TCP is still tried."""
    temporary("/nowhere")
    near, far = check_links()
    assert near.status == "warning"
    assert "and would be tasks of Ray, which are slower: FileNotFoundError" in near.found
    assert "TMPDIR" in near.fix
    assert far.status == "ok"


def test_address_that_is_not_this_machine_is_told(monkeypatch):
    """If Ray knows this machine by an address that it does not have, TCP is reported as unusable."""
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "203.0.113.7")
    near, far = check_links()
    assert near.status == "ok"
    assert far.status == "warning"
    assert far.found.startswith("calls cannot go over TCP at 203.0.113.7")
