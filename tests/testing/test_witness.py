"""A history of single calls sorts their outcomes and lets the checker judge them."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from sage_plugins.errors import OverloadedError, ReplicaDiedError
from witness import History


class Handle:
    """Ends each call with the next of the given outcomes."""

    def __init__(self, *outcomes):
        self._outcomes = iter(outcomes)

    def with_options(self, **_):
        return self

    def submit(self, _method, number):
        future = Future()
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        elif outcome != "lost":
            future.set_result(number if outcome == "ok" else outcome)
        return future


MAYBE = ReplicaDiedError("gone", maybe_executed=True)


def check(tmp_path, ran, *outcomes, idempotent=False, deaths=1):
    history = History(tmp_path / "witness")
    handle = Handle(*outcomes)
    for _ in outcomes:
        history.call(handle, "run", idempotent=idempotent)
    with (tmp_path / "witness").open("a") as file:
        file.writelines(f"ran {number} 1 0.0\n" for number in ran)
    return history.check(slots=1, deaths=deaths, patience=0)


def test_calls_that_ended_as_they_may_are_sorted(tmp_path):
    """A correct history sorts its calls into answered, died and failed."""
    refused = OverloadedError("full")

    found = check(tmp_path, [0, 1], "ok", MAYBE, refused)

    assert (found.ok, found.died, found.failed, found.twice) == ({0}, {1}, {2: refused}, set())


def test_idempotent_call_may_run_twice(tmp_path):
    """An idempotent call that ran twice is no violation, and is listed in `twice`."""
    assert check(tmp_path, [0, 0], "ok", idempotent=True).twice == {0}


@pytest.mark.parametrize(
    ("ran", "outcomes", "said"),
    [
        ([], ["lost"], "lost: svc.run, call 0"),
        ([0], [KeyError(1)], "untyped: "),
        ([0, 0], ["ok"], "twice: svc.run, call 0: ran 2 times"),
        ([], ["ok"], "unrun: "),
        ([0, 1], ["ok"], "wrong: .* number 1, which nobody made"),
        ([0], [7], "wrong: .* of call 7"),
        ([], [ReplicaDiedError("gone", maybe_executed=False)], "lost: .* had not started"),
        ([0, 1], [MAYBE, MAYBE], "unexplained: .* 2 calls died with 1 replicas"),
    ],
)
def test_what_must_not_happen_is_found(tmp_path, ran, outcomes, said):
    """Each violation raises an error that names the rule and the call."""
    with pytest.raises(AssertionError, match=said):
        check(tmp_path, ran, *outcomes)
