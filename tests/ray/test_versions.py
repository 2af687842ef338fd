"""A replica's process tells a caller its version before it reads anything else."""

from __future__ import annotations

import pickle
import pickletools

from sage_deploy_ray.actors.replica_actor import ReplicaActor
from sage_deploy_ray.directory.ray_directory import RayDirectory
from sage_deploy_ray.directory.registry_actor import REGISTRY
from sage_deploy_ray.options import RayOptions
from sage_deploy_remote.shipping import versions


def test_a_caller_of_another_version_is_told_so_whatever_else_it_sends(monkeypatch):
    """A caller of another version gets the replica's version, whatever arguments it sends."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # an actor sets it in its own process, which is this one here
    theirs = versions.NUMBER + 1, "9.9.9"
    assert ReplicaActor(1).start(theirs, "of", "a", "later", "kind") == (None, versions.own_version())


def test_a_difference_names_both_versions_and_the_cure():
    """The difference names both versions and says what to install; other versions with the same protocol are fine."""
    number, version = versions.own_version()
    assert versions.difference("it", (number, "9.9.9")) is None  # the protocol is the same
    assert versions.difference("it", (number + 1, "9.9.9")) == (
        f"it has sage-deploy-remote 9.9.9, which speaks protocol {number + 1}, and this process has sage-deploy-remote "
        f"{version}, which speaks protocol {number}. Install the same version here and there"
    )


def test_a_directory_that_travels_is_revived_at_the_same_place_in_all_versions():
    """
    A pickled directory uses the same module path in all versions, so that another version can report the difference.
    """
    data = pickle.dumps(RayDirectory("environment", RayOptions(), "process"), 5)
    function = next(arg for code, arg, _ in pickletools.genops(data) if code.name == "SHORT_BINUNICODE")
    assert function == "sage_deploy_ray.directory"
    assert pickle.loads(data).version == versions.own_version()  # noqa: S301 - our own


def test_the_registry_of_each_protocol_has_its_own_name():
    """Each protocol version has its own registry name, because registries of other versions cannot be read."""
    assert REGISTRY.endswith(f"-{versions.NUMBER}")
