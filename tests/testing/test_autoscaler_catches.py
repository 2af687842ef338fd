"""Each faulty autoscaler below fails the conformance case that proves the rule it breaks."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest

from sage_deploy_testing.suites.autoscaler_conformance import AutoscalerConformance
from sage_plugins.hookspecs import hookimpl
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Registration

_RANDOM = Random(1)  # noqa: S311 - no secret


class Good:
    def decide(self, load):
        return (load.ongoing + load.queued) / 2


class NotFinite(Good):
    def decide(self, load):
        return load.ongoing / load.slots if load.slots else float("inf")


class ByChance(Good):
    def decide(self, load):
        return super().decide(load) + _RANDOM.random()


class Restless(Good):
    """Alternates between six replicas more and six fewer, each for 20 decisions."""

    def __init__(self):
        self._looks = count()

    def decide(self, load):
        return max(1, load.replicas + (6 if next(self._looks) % 40 < 20 else -6))


class UpsideDown(Good):
    def decide(self, load):
        return 20 / (1 + load.ongoing + load.queued)


def suite(make, named=None):
    create = named or (lambda _: make())

    class Plugin:
        @hookimpl
        def sage_register_autoscalers(self):
            return [Registration("mine", create, "under test")]

    class Mine(AutoscalerConformance):
        plugin_id = "mine"

        def registry(self):
            return Registry.of(Plugin())

    return Mine()


def make_good(_):
    return Good()


def test_good_one_passes():
    """All cases pass for a correct autoscaler."""
    found = suite(Good, make_good)
    for name in dir(found):
        if name.startswith("test_"):
            getattr(found, name)()


@pytest.mark.parametrize(
    ("faulty", "case"),
    [
        (NotFinite, "test_answer_is_a_number_of_replicas"),
        (ByChance, "test_same_loads_get_the_same_answers"),
        (Restless, "test_steady_load_changes_nothing_in_the_end"),
        (UpsideDown, "test_more_calls_never_get_fewer_replicas"),
    ],
)
def test_fault_is_found(faulty, case):
    """The case that proves a rule fails for the autoscaler that breaks it."""
    with pytest.raises(AssertionError):
        getattr(suite(faulty), case)()


def test_one_that_cannot_be_made_elsewhere_is_found():
    """An autoscaler that cannot be created in another process fails its case."""
    with pytest.raises(Exception, match=r"pickle|local object"):
        suite(Good).test_it_can_be_made_elsewhere()
