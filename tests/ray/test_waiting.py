"""The message about an actor that got no process in time. No Ray runs."""

from __future__ import annotations

import pytest

from sage_deploy_ray.cluster.pending_reasons import why_waiting
from sage_deploy_remote.placement.nodes import Node, Resources

GIB = 2**30
NEED = Resources(2.0, GIB, 0.0)
PENDING = "PENDING_CREATION"


def node(cpu, memory=4 * GIB):
    return Node("id", "gpu-1", "host", "10.0.0.1", {}, Resources(4.0, 4 * GIB, 1.0), Resources(cpu, memory, 1.0))


@pytest.mark.parametrize(
    ("free", "says", "advice"),
    [
        (node(0.5), "it reserves 2 CPUs and 1024 MiB memory on gpu-1, which has 0.5 of 4 CPUs free", "ask for less"),
        (node(2.0, 0), "which has 0 of 4096 MiB memory free", "ask for less"),
        (node(2.0), "although it reserves 2 CPUs and 1024 MiB memory on gpu-1, where that is free", "raylet.out"),
        (None, "its node gpu-1 is gone", "placed elsewhere"),
    ],
)
def test_state_place_and_what_is_missing_there_are_said_with_what_to_do(free, says, advice):
    """The message has the actor's state, its node, what is missing there, and what to do."""
    found = why_waiting(PENDING, "gpu-1", free, NEED)

    assert all(words in found for words in (PENDING, says, advice))


def test_gpus_may_be_free_in_sum_and_none_of_them_whole():
    """If GPUs are free only in sum, the message says so."""
    assert "free in sum only" in why_waiting(PENDING, "gpu-1", node(2.0), NEED._replace(gpu=1.0))


@pytest.mark.parametrize("state", ["ALIVE", ""])
def test_nothing_is_said_of_an_actor_whose_process_runs_or_whose_state_is_unknown(state):
    assert not why_waiting(state, "gpu-1", None, NEED)
