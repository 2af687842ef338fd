"""`target_ongoing` keeps each replica's calls near a number, and the wait below a time."""

from __future__ import annotations

import pytest

from sage_deploy_autoscalers.target_ongoing import TargetOngoing
from sage_plugins.interfaces import Load

LOAD = Load(1000.0, 2, 2, 10, 4, 0, mean_calls=6.0, target_ongoing_requests=4.0)


@pytest.mark.parametrize(
    ("more", "replicas"),
    [
        ({}, 1.5),
        ({"mean_calls": 0.0}, 0.0),
        ({"ready": 0, "slots": 0}, 1.5),
        ({"target_queue_wait": 1.0, "mean_wait_s": 0.5}, 1.5),
        ({"target_queue_wait": 1.0, "mean_wait_s": 1.2}, 2.4),
        ({"target_queue_wait": 1.0, "mean_wait_s": 99.0}, 4.0),
        ({"target_queue_wait": 1.0, "slots": 4}, 3.0),
        ({"target_queue_wait": 1.0, "mean_wait_s": 1.2, "mean_calls": 40.0}, 10.0),
    ],
    ids=["calls", "none", "starting", "short wait", "long wait", "endless wait", "few slots", "calls say more"],
)
def test_calls_and_wait_decide(more, replicas):
    """The mean number of calls decides, and the wait if it has a target. A replica counts for at most its slots."""
    assert TargetOngoing().decide(LOAD._replace(**more)) == pytest.approx(replicas)
