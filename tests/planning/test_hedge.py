"""The plan reports hedging that could never make a second attempt."""

from __future__ import annotations

import pytest

from sage_plugins import Environment, batch_of, errors, idempotent


class Reader:
    @idempotent
    def read(self):
        pass


class Writer:
    def write(self):
        pass


class Batched:
    @idempotent
    def get(self, key):
        pass

    @batch_of("get")
    def get_many(self, keys):
        return keys


def planned(cls, **fields):
    env = Environment("hedge")
    env.register_service_with_config("svc", cls, deployment_config={"hedge": {"delay": "50ms"}, **fields})
    return env.plan()


@pytest.mark.parametrize(
    ("cls", "fields", "rule"),
    [
        (Writer, {"replicas": 2}, "E601"),
        (Batched, {"replicas": 2, "batch_size": 4}, "E601"),
        (Reader, {}, "E602"),
        (Reader, {"autoscale": {"min": 1, "max": 1}}, "E602"),
    ],
    ids=["not idempotent", "batched", "one replica", "one at most"],
)
def test_hedge_without_effect_is_an_error(cls, fields, rule):
    """`hedge` without an idempotent method that can be hedged, or with only one replica, is an error."""
    with pytest.raises(errors.PlanError, match=rule):
        planned(cls, **fields)


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (Reader, {"replicas": 2}),
        (Reader, {"autoscale": {"min": 1, "max": 3}}),
        (Writer, {"replicas": 2, "methods": {"write": {"idempotent": True}}}),
        (Batched, {"replicas": 2}),
    ],
)
def test_hedge_with_an_effect_is_explained(cls, fields):
    """`hedge` that can have an effect gives no error and no warning."""
    plan = str(planned(cls, **fields))
    assert "E60" not in plan
    assert "W12" not in plan


def test_hedge_under_inline_is_said_to_have_no_effect():
    """Under `inline` the plan warns that `hedge` has no effect."""
    assert "W12" in str(planned(Reader, replicas=2, threading_strategy="inline"))
