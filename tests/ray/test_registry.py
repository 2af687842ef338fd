"""One process controls the detached services of an environment, even after their registry has restarted."""

from __future__ import annotations

import asyncio

import pytest

from sage_deploy_ray.directory import registry_actor
from sage_deploy_ray.directory.registry_actor import RegistryActor


@pytest.fixture
def start(monkeypatch):
    """Start a registry, which loads what the previous one saved."""
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
    """After a restart, the registry grants the environment only to its earlier holder."""
    assert hold(start(), "first") == ""
    after = start()
    assert hold(after, "second") == "process first"
    assert hold(after, "first") == ""
    assert hold(start(), "second") == "process first"


def test_holder_that_lost_it_is_refused_by_a_registry_that_was_started_again(start, monkeypatch):
    """After a restart, a holder that had lost the environment is refused: only the last holder counts."""
    before = start()
    assert hold(before, "first") == ""
    monkeypatch.setattr(before._holders["detached/env"], "expires_at", 0.0)
    assert hold(before, "second") == ""
    assert hold(start(), "first") == "process second"


def test_holder_that_does_not_come_back_is_waited_for_no_longer_than_a_lease(start, monkeypatch):
    """A new holder waits for an absent one at most for the length of a lease."""
    assert hold(start(), "first") == ""
    monkeypatch.setattr(registry_actor, "_LEASE_S", 0.05)
    assert hold(start(), "second", 5.0) == ""


def test_environment_that_was_let_go_is_free_after_a_new_start(start):
    """A released environment is free after a restart of the registry."""
    before = start()
    assert hold(before, "first") == ""
    asyncio.run(before.release("detached/env", "first"))
    assert hold(start(), "second") == ""


def test_namespaces_are_apart(start):
    """The same environment in two namespaces can have two holders."""
    assert hold(start("here"), "first") == ""
    assert hold(start("there"), "second") == ""
