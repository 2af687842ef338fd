"""
Calls from other processes to services whose replicas run in the deploying process: counts, ends, queues.

The "other process" is simulated: its client knows the environment only by the directory, and connects by the socket.
"""

from __future__ import annotations

import itertools
from contextvars import copy_context

import pytest

from home_service import PATIENCE_S, cut, outcomes, waiting
from sage_plugins import errors
from sage_plugins.call.current import carry
from sage_plugins.call.stream import AHEAD

# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single", "pool", "async", "inline"])
def test_call_of_another_process_runs_at_home_and_counts_once(env, deploy, strategy, until):
    """A call from another process counts once, under every strategy, and its error keeps its type."""
    home = deploy(threading_strategy=strategy)
    assert home.echo(1) == 1
    with pytest.raises(KeyError, match="why"):
        home.fail("why")
    assert list(itertools.islice(home.stream("numbers"), 3)) == [0, 1, 2]
    assert home.attempts() == 1

    def counted():
        found = outcomes(env)
        return found["ok"] + found.get("cancelled", 0), found["error"]

    until(lambda: counted() == (3, 1))  # the stream ends when the driver hears that its consumer has stopped


def test_time_and_request_of_a_call_travel(env, deploy):
    """The time left and the request id of a call reach the method in the deploying process."""
    home = deploy()
    context = copy_context()
    context.run(carry, request_id="r-1")
    left, request = context.run(home.with_options(timeout=3).left)
    assert 0 < left < 3
    assert request == "r-1"
    assert home.with_options(timeout=None).left()[0] is None


def test_arguments_that_cannot_be_read_fail_the_call_which_counts_once(env, deploy):
    """Arguments that cannot be unpickled fail the call; it counts once, as an error."""
    home = deploy()
    with pytest.raises(ZeroDivisionError):
        home.echo(Unreadable())
    assert outcomes(env) == {"error": 1}


class Unreadable:
    def __reduce__(self):
        return divmod, (1, 0)


def test_options_of_a_handle_are_minded_by_the_router(env, deploy):
    """
    Options of a client's handle apply: a key selects the same replica everywhere, and idempotent calls are retried.
    """
    home = deploy(
        replicas=3, load_balancer="consistent_hash", retry={"on": ["KeyError"], "max_attempts": 3, "backoff": 0.001}
    )
    own = env.service("home")
    keys = ["a", "b", 3, ("c", 4)]
    assert [home.with_options(key=key).index() for key in keys] == [own.with_options(key=key).index() for key in keys]
    for idempotent, attempts in ((None, 1), (True, 4)):
        with pytest.raises(KeyError):
            home.with_options(key="k", idempotent=idempotent).fail("again")
        assert own.with_options(key="k").attempts() == attempts


def test_key_that_cannot_travel_is_refused(deploy):
    """A key that cannot be sent is refused with InvalidKeyError; the handle stays usable."""
    home = deploy()
    with pytest.raises(errors.InvalidKeyError, match=r"home\.echo was not sent: its key is a frozenset"):
        home.with_options(key=frozenset("k")).echo(1)
    assert home.with_options(key="k").echo(2) == 2


def test_calls_of_others_start_by_their_priority(env, deploy, gate, until):
    """Calls of other processes and of this one wait in one queue, sorted by priority."""
    home = deploy(overload="priority", threading_strategy="single")
    own = env.service("home")
    own.submit("hold", "gate")
    gate.wait()
    calls = [own.with_options(priority=each).submit("note", each) for each in (0, 2)]
    calls.append(home.with_options(priority=1).submit("note", 1))
    until(lambda: waiting(env) == 3)
    gate.open.set()
    assert [call.result() for call in calls] == [None] * 3
    assert home.noted() == [2, 1, 0]


def test_calls_of_others_are_answered_together(env, deploy):
    """Calls of other processes are answered in batches of the configured size."""
    home = deploy(methods={"one": {"batch": {"size": 4, "wait": PATIENCE_S / 2}}})
    calls = [home.submit("one", number) for number in range(8)]
    assert [call.result() for call in calls] == [(number, 4) for number in range(8)]
    assert outcomes(env) == {"ok": 8}


# -- calls that are given up -------------------------------------------------------------------------------------------


def test_coroutine_is_cancelled_when_its_caller_elsewhere_gives_it_up(env, deploy, gate):
    """When its caller in another process cancels a call, the coroutine is cancelled."""
    home = deploy(threading_strategy="async")
    call = home.submit("hang", "gate")
    gate.wait()
    assert call.cancel()
    assert gate.cancelled.wait(PATIENCE_S)
    assert home.echo(1) == 1
    assert outcomes(env) == {"cancelled": 1, "ok": 1}


def test_call_that_waits_at_home_never_starts_once_its_caller_has_given_up(env, deploy, gate, until):
    """A call that times out while it waits never starts. It counts as a timeout and frees its place in the queue."""
    home = deploy(threading_strategy="single")
    holding = env.service("home").submit("hold", "gate")
    gate.wait()
    late = home.with_options(timeout=0.5).submit("fail", "never")
    until(lambda: waiting(env) == 1)
    with pytest.raises(errors.CallTimeoutError):
        late.result()
    until(lambda: waiting(env) == 0)
    gate.open.set()
    holding.result()
    assert home.attempts() == 0
    until(lambda: outcomes(env) == {"timeout": 1, "ok": 2})


def test_call_waits_at_home_no_longer_than_in_any_queue(env, deploy, gate):
    """`queue_timeout` also applies to a call of another process."""
    home = deploy(threading_strategy="single", queue_timeout=0.02)
    env.service("home").submit("hold", "gate")
    gate.wait()
    with pytest.raises(errors.CallTimeoutError) as caught:
        home.echo(1)
    assert caught.value.stage == "queue"


def test_calls_of_a_process_that_is_gone_are_given_up(env, deploy, gate, until):
    """When a caller's connection ends, its calls are cancelled and its caller gets ReplicaDiedError."""
    home = deploy()
    call = home.submit("hold", "gate")
    gate.wait()
    cut(env)
    with pytest.raises(errors.ReplicaDiedError, match="no connection to the process that deployed service 'home'"):
        call.result()
    until(lambda: outcomes(env) == {"cancelled": 1})


def test_connection_that_was_lost_is_made_again(env, deploy):
    """After a lost connection the client connects again, and calls succeed."""
    home = deploy()
    assert home.echo(1) == 1
    cut(env)
    assert home.with_options(idempotent=True).echo(2) == 2


# -- streams -----------------------------------------------------------------------------------------------------------


def test_stream_is_never_far_ahead_of_its_consumer_elsewhere(env, deploy, until):
    """A stream runs at most `AHEAD` items ahead of its consumer; it ends when the consumer stops."""
    home = deploy(threading_strategy="pool", thread_count=2)
    with home.stream("numbers") as items:
        assert next(items) == 0
        until(lambda: home.so_far()[0] >= AHEAD)
        given = home.so_far()[0]
        assert [next(items) for _ in range(AHEAD)] == list(range(1, AHEAD + 1))
        assert given <= AHEAD + 1
    until(lambda: home.so_far()[1])


# -- queues and slots --------------------------------------------------------------------------------------------------


def test_full_queue_at_home_refuses_calls_of_others(env, deploy, gate):
    """A full queue refuses calls of other processes and counts them as refused."""
    home = deploy(threading_strategy="single", queue_size=1, overload="reject")
    own = env.service("home")
    own.submit("hold", "gate")
    gate.wait()
    waiting = own.submit("echo", 1)
    with pytest.raises(errors.OverloadedError, match="queue_size=1"):
        home.echo(2)
    gate.open.set()
    assert waiting.result() == 1
    assert env.get_service_status("home")["metrics"].rejected_count == 1


def test_service_that_is_scaled_takes_as_many_calls_of_others_at_once(env, deploy, gate):
    """Scaling a service changes how many calls of other processes run at once."""
    home = deploy(threading_strategy="single")
    assert home.echo(1) == 1
    first = home.submit("hold", "gate")
    gate.wait()
    env.scale("home", 2)
    second = home.submit("hold", "gate")
    gate.wait()
    gate.open.set()
    assert (first.result(), second.result()) == (False, False)
    env.scale("home", 1)
    assert home.echo(2) == 2


def test_calls_of_others_wake_a_service_that_sleeps(env, deploy, until):
    """A call of another process starts a replica of a service that was scaled to zero."""
    delays = {"scale_to_zero_delay": 0.1, "downscale_delay": 0.1, "look_back": 0.1}
    home = deploy(autoscale={"min": 0, "max": 2} | delays)
    until(lambda: not env.get_service_status("home")["replicas"])
    assert home.echo(1) == 1
