"""One process decides about the detached services of an environment, also when their registry is started again."""

from __future__ import annotations

import asyncio

import pytest

from sage_deploy_ray.directory import registry_actor
from sage_deploy_ray.directory.registry_actor import RegistryActor


@pytest.fixture
def start(monkeypatch):
    """Start a registry, which finds what the one before it has kept."""
    kept = {}

    class Store:
        def __init__(self, namespace):
            self.namespace = namespace

        def load(self):
            return dict(kept.get(self.namespace, {}))

        def save(self, holders):
            kept[self.namespace] = dict(holders)

    monkeypatch.setattr(registry_actor, "HolderStore", Store)
    return lambda namespace="here": RegistryActor(namespace)


def hold(registry, holder, wait_s=0.0):
    return asyncio.run(registry.hold("detached/env", holder, f"process {holder}", wait_s)).other


def test_only_the_earlier_holder_is_granted_by_a_registry_that_was_started_again(start):
    """It waits for that one as for any that may have died."""
    assert hold(start(), "first") == ""
    after = start()
    assert hold(after, "second") == "process first"
    assert hold(after, "first") == ""
    assert hold(start(), "second") == "process first"


def test_holder_that_lost_it_is_refused_by_a_registry_that_was_started_again(start, monkeypatch):
    """However often it is started: what counts is who held it last."""
    before = start()
    assert hold(before, "first") == ""
    monkeypatch.setattr(before._holders["detached/env"], "expires_at", 0.0)
    assert hold(before, "second") == ""
    assert hold(start(), "first") == "process second"


def test_holder_that_does_not_come_back_is_waited_for_no_longer_than_a_lease(start, monkeypatch):
    assert hold(start(), "first") == ""
    monkeypatch.setattr(registry_actor, "_LEASE_S", 0.05)
    assert hold(start(), "second", 5.0) == ""


def test_environment_that_was_let_go_is_free_after_a_new_start(start):
    before = start()
    assert hold(before, "first") == ""
    asyncio.run(before.release("detached/env", "first"))
    assert hold(start(), "second") == ""


def test_namespaces_are_apart(start):
    assert hold(start("here"), "first") == ""
    assert hold(start("there"), "second") == ""
