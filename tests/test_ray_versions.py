"""What a replica's process says to a caller of another version: that, before it reads anything else."""

from __future__ import annotations

from sage_deploy_ray.actor import ReplicaActor
from sage_deploy_remote.shipping import versions


def test_a_caller_of_another_version_is_told_so_whatever_else_it_sends(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # an actor sets it in its process, and here that is ours
    theirs = versions.NUMBER + 1, "9.9.9"
    assert ReplicaActor(1).start(theirs, "of", "a", "later", "kind") == (None, versions.spoken())


def test_a_difference_names_both_versions_and_the_cure():
    number, version = versions.spoken()
    assert versions.difference("it", (number, "9.9.9")) is None  # what is said is the same
    assert versions.difference("it", (number + 1, "9.9.9")) == (
        f"it has sage-deploy-remote 9.9.9, which speaks protocol {number + 1}, and this process has sage-deploy-remote "
        f"{version}, which speaks protocol {number}. Install the same version here and there"
    )
