"""Bounded: `queue_size` calls wait per service, exactly; more are refused or wait for room, in order."""

from __future__ import annotations

import asyncio
import collections
import random
import threading
from concurrent.futures import Future

import pytest

from sage_plugins import errors

PATIENCE = 20.0
SHORT = 0.03


# -- reject ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_size", [0, 1, 5])
def test_reject_is_exact_under_many_threads(deploy, strategy, occupy, in_thread, until, queue_size):  # noqa: PLR0913, PLR0917 - fixtures
    """However many threads call at once, exactly `queue_size` calls come to wait; the others are refused at once."""
    service = deploy(strategy, queue_size=queue_size, overload="reject")
    occupied = occupy(service)
    callers, turns = 12, 5
    start = threading.Barrier(callers)
    ran = []

    def caller(number):
        start.wait(PATIENCE)
        accepted, refused = [], []
        for turn in range(turns):
            try:
                accepted.append(service.handle.submit("run", ran.append, (number, turn)))
            except errors.OverloadedError as error:
                refused.append(error)
        return accepted, refused

    outcomes = [in_thread(caller, number) for number in range(callers)]
    if strategy == "inline":  # whose callers stay until they had their turn
        until(lambda: service.waiting + sum(each.done() for each in outcomes) == callers)
        assert service.waiting == queue_size
        occupied.open()
    accepted = [call for each in outcomes for call in each.result(PATIENCE)[0]]
    refused = [error for each in outcomes for error in each.result(PATIENCE)[1]]
    assert len(accepted) + len(refused) == callers * turns
    if strategy != "inline":
        assert len(accepted) == queue_size
        assert service.waiting == queue_size
        assert ran == []
    assert {str(error).partition(":")[0] for error in refused} == {"svc.run was not accepted"}
    assert all(f"queue_size={queue_size}" in str(error) for error in refused)
    assert {(error.service, error.method) for error in refused} == {("svc", "run")}
    occupied.open()
    for call in accepted:
        call.result(PATIENCE)
    assert len(ran) == len(accepted)
    assert service.metrics.rejected_count == len(refused)


@pytest.mark.parametrize("verb", ["call", "submit", "acall"])
def test_reject_by_every_verb(deploy, strategy, occupy, queued, verb):
    """`call`, `submit` and `acall` are refused alike, and what was refused never runs."""
    service = deploy(strategy, queue_size=1, overload="reject")
    occupied = occupy(service)
    waiting = queued(service, "echo", "waited")
    ran = []
    verbs = {
        "call": lambda: service.handle.call("run", ran.append, 1),
        "submit": lambda: service.handle.submit("run", ran.append, 1),
        "acall": lambda: asyncio.run(service.handle.acall("run", ran.append, 1)),
    }
    with pytest.raises(errors.OverloadedError, match="queue_size"):
        verbs[verb]()
    occupied.open()
    assert waiting.result(PATIENCE) == "waited"
    service.handle.echo()
    assert ran == []


def test_free_slots_are_not_refused(deploy, strategy):
    """With `queue_size` 0 a call needs a free slot, and gets it."""
    handle = deploy(strategy, queue_size=0, overload="reject").handle
    for turn in range(200):
        assert handle.echo(turn) == turn


def test_every_slot_is_used_before_calls_are_refused(deploy, gate):
    """With `queue_size` 0 as many calls run as there are slots."""
    service = deploy("pool", queue_size=0, overload="reject", thread_count=1, thread_pool_size=4)
    calls = [service.handle.submit("run", gate, number) for number in range(4)]
    gate.wait_entered(4)
    with pytest.raises(errors.OverloadedError):
        service.handle.submit("echo")
    gate.open()
    assert [call.result(PATIENCE) for call in calls] == [0, 1, 2, 3]


def test_unknown_method_takes_no_room(deploy, threaded, occupy):
    """What is refused for another reason takes no place in the queue."""
    service = deploy(threaded, queue_size=1, overload="reject")
    occupied = occupy(service)
    for _ in range(3):
        with pytest.raises(errors.MethodNotFoundError):
            service.handle.submit("ecco")
    waiting = service.handle.submit("echo", 1)
    occupied.open()
    assert waiting.result(PATIENCE) == 1


def test_room_of_calls_that_ran_is_room_again(deploy, threaded, occupy):
    """The queue can be filled again and again: no place is lost."""
    service = deploy(threaded, queue_size=3, overload="reject")
    for _ in range(50):
        occupied = occupy(service)
        calls = [service.handle.submit("echo", number) for number in range(3)]
        with pytest.raises(errors.OverloadedError):
            service.handle.submit("echo")
        occupied.open()
        assert [call.result(PATIENCE) for call in calls] == [0, 1, 2]


def test_room_of_cancelled_calls_is_room_again(deploy, threaded, occupy):
    """Cancelling queued calls makes room at once."""
    service = deploy(threaded, queue_size=2, overload="reject")
    occupied = occupy(service)
    for _ in range(50):
        calls = [service.handle.submit("echo") for _ in range(2)]
        with pytest.raises(errors.OverloadedError):
            service.handle.submit("echo")
        assert [call.cancel() for call in calls] == [True, True]
        assert service.waiting == 0
    last = service.handle.submit("echo", "last")
    occupied.open()
    assert last.result(PATIENCE) == "last"


def test_room_of_expired_calls_is_room_again(deploy, threaded, occupy):
    """Calls whose time is over take no room, although nobody looks at them: a stuck slot cannot fill the queue."""
    service = deploy(threaded, queue_size=5, overload="reject")
    occupied = occupy(service)
    hasty = service.handle.with_options(timeout=SHORT)
    calls = [hasty.submit("echo") for _ in range(5)]
    threading.Event().wait(4 * SHORT)
    following = service.handle.submit("echo", "following")
    assert service.waiting == 1
    assert all(call.done() for call in calls)
    occupied.open()
    assert following.result(PATIENCE) == "following"


def test_callers_that_left_take_no_room(deploy, strategy, occupy):
    """A `call` that ended in the queue has left it."""
    service = deploy(strategy, queue_size=1, overload="reject")
    occupied = occupy(service)
    for _ in range(3):
        with pytest.raises(errors.CallTimeoutError):
            service.handle.with_options(timeout=0.01).echo()
    assert service.waiting == 0
    occupied.open()


def test_large_queue(deploy, threaded, occupy):
    """A queue of several thousand calls is exact too."""
    service = deploy(threaded, queue_size=3000, overload="reject")
    occupied = occupy(service)
    calls = [service.handle.submit("echo", number) for number in range(3000)]
    with pytest.raises(errors.OverloadedError):
        service.handle.submit("echo")
    assert service.waiting == 3000
    occupied.open()
    assert [call.result(PATIENCE) for call in calls] == list(range(3000))
    assert service.waiting == 0


# -- block -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_size", [0, 2])
def test_submit_blocks_until_there_is_room(deploy, threaded, occupy, in_thread, until, queue_size):  # noqa: PLR0913, PLR0917 - fixtures
    """With a full queue `submit` holds its caller, and goes on when there is room."""
    service = deploy(threaded, queue_size=queue_size)
    occupied = occupy(service)
    waiting = [service.handle.submit("echo", number) for number in range(queue_size)]
    submitting = in_thread(service.handle.submit, "echo", "blocked")
    until(lambda: service.parked == 1)
    assert service.waiting == queue_size, "who waits for room is not in the queue"
    assert not submitting.done()
    occupied.open()
    assert submitting.result(PATIENCE).result(PATIENCE) == "blocked"
    assert [call.result(PATIENCE) for call in waiting] == list(range(queue_size))


def test_cancelled_call_makes_room_for_a_blocked_one(deploy, threaded, occupy, in_thread, until):
    """Room that a cancelled call leaves goes to the submitter who has waited longest."""
    service = deploy(threaded, queue_size=1)
    occupied = occupy(service)
    waiting = service.handle.submit("echo")
    first = in_thread(service.handle.submit, "echo", "first")
    until(lambda: service.parked == 1)
    second = in_thread(service.handle.submit, "echo", "second")
    until(lambda: service.parked == 2)
    assert waiting.cancel()
    accepted = first.result(PATIENCE)
    assert (service.parked, service.waiting, second.done()) == (1, 1, False)
    assert accepted.cancel()
    accepted = second.result(PATIENCE)
    assert service.waiting == 1
    occupied.open()
    assert accepted.result(PATIENCE) == "second"


def test_blocked_submitters_go_on_in_order(deploy, occupy, in_thread, until):
    """Who waited for room first gets it first, and runs first."""
    service = deploy("single", queue_size=1)
    occupied = occupy(service)
    ran = []
    waiting = service.handle.submit("run", ran.append, "queued")
    blocked = []
    for number in range(6):
        blocked.append(in_thread(service.handle.submit, "run", ran.append, number))
        until(lambda: service.parked == len(blocked))
    occupied.open()
    waiting.result(PATIENCE)
    for each in blocked:
        each.result(PATIENCE).result(PATIENCE)
    assert ran == ["queued", 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("queue_size", [0, 1])
def test_bound_holds_while_callers_block(deploy, threaded, in_thread, queue_size):
    """Many callers that block see every call through, and never do more than `queue_size` calls wait."""
    service = deploy(threaded, queue_size=queue_size)
    start = threading.Barrier(8)
    seen = []

    def look(number, turn):
        seen.append(service.env.task("svc")._router.waiting)
        return number, turn

    def caller(number):
        start.wait(PATIENCE)
        calls = [service.handle.submit("run", look, number, turn) for turn in range(40)]
        return [call.result(PATIENCE) for call in calls]

    callers = [in_thread(caller, number) for number in range(8)]
    for number, each in enumerate(callers):
        assert each.result(PATIENCE) == [(number, turn) for turn in range(40)]
    assert len(seen) == 320
    assert max(seen) <= queue_size


def test_submit_blocked_past_its_deadline(deploy, threaded, occupy):
    """A submitter for whom there is no room in time gets CallTimeoutError at stage "queue"; the call never runs."""
    service = deploy(threaded, queue_size=0)
    occupied = occupy(service)
    ran = []
    with pytest.raises(errors.CallTimeoutError) as caught:
        service.handle.with_options(timeout=SHORT).submit("run", ran.append, 1)
    assert caught.value.stage == "queue"
    assert (service.parked, service.waiting) == (0, 0)
    occupied.open()
    service.handle.echo()
    assert ran == []


def test_submit_blocked_past_its_queue_timeout(deploy, threaded, occupy):
    """`queue_timeout` counts the wait for room too."""
    service = deploy(threaded, queue_size=0, queue_timeout=SHORT)
    occupied = occupy(service)
    with pytest.raises(errors.CallTimeoutError) as caught:
        service.handle.submit("echo")
    assert caught.value.stage == "queue"
    occupied.open()


@pytest.mark.parametrize("verb", ["call", "acall"])
def test_call_without_room_in_time(deploy, strategy, occupy, verb):
    service = deploy(strategy, queue_size=0)
    occupied = occupy(service)
    hasty = service.handle.with_options(timeout=SHORT)
    with pytest.raises(errors.CallTimeoutError) as caught:
        _ = hasty.call("echo") if verb == "call" else asyncio.run(hasty.acall("echo"))
    assert caught.value.stage == "queue"
    assert (service.parked, service.waiting) == (0, 0)
    occupied.open()
    assert service.handle.echo(1) == 1


def test_acall_suspends_until_there_is_room(deploy, strategy, occupy, until):
    """With a full queue `acall` suspends its task; the loop goes on, and here it is the loop that makes room."""
    service = deploy(strategy, queue_size=0)
    occupied = occupy(service)

    async def main():
        calls = [asyncio.ensure_future(service.handle.acall("echo", number)) for number in range(3)]
        await asyncio.to_thread(until, lambda: service.parked == 3)
        occupied.open()
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [0, 1, 2]


def test_task_cancelled_while_it_waits_for_room(deploy, strategy, occupy, until):
    """A task that is cancelled before there was room for its call leaves nothing behind."""
    service = deploy(strategy, queue_size=0)
    occupied = occupy(service)
    ran = []

    async def main():
        task = asyncio.ensure_future(service.handle.acall("run", ran.append, 1))
        await asyncio.to_thread(until, lambda: service.parked == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
    until(lambda: service.parked == 0)
    occupied.open()
    for _ in range(service.slots):
        service.handle.echo()
    assert ran == []


def test_close_releases_blocked_submitters(deploy, threaded, occupy, in_thread, until):
    """Callers who wait for room when the service stops get ServiceStoppedError; what was accepted is done."""
    service = deploy(threaded, queue_size=1)
    occupied = occupy(service)
    waiting = service.handle.submit("echo", "accepted")
    submitting = in_thread(service.handle.submit, "echo")
    until(lambda: service.parked == 1)
    closing = in_thread(service.env.close)
    with pytest.raises(errors.ServiceStoppedError):
        submitting.result(PATIENCE)
    occupied.open()
    closing.result(PATIENCE)
    assert waiting.result(0) == "accepted"


# -- order -------------------------------------------------------------------------------------------------------------


def test_single_keeps_the_order_of_each_caller(deploy, occupy, in_thread):
    """Under `single` the calls of one caller run in the order in which they were made, however many are queued."""
    service = deploy("single", queue_size=5000)
    occupied = occupy(service)
    ran = []
    start = threading.Barrier(4)

    def caller(number):
        start.wait(PATIENCE)
        calls = [service.handle.submit("run", ran.append, (number, turn)) for turn in range(500)]
        return calls[-1]

    callers = [in_thread(caller, number) for number in range(4)]
    # One goes on calling while the queue is worked off.
    occupied.open()
    last = [each.result(PATIENCE) for each in callers]
    for call in last:
        call.result(PATIENCE)
    for number in range(4):
        assert [turn for caller, turn in ran if caller == number] == list(range(500))


def test_single_keeps_the_order_while_calls_are_cancelled(deploy, occupy):
    """Calls that leave the queue do not disturb the order of the others."""
    service = deploy("single", queue_size=1000)
    occupied = occupy(service)
    ran = []
    calls = [service.handle.submit("run", ran.append, number) for number in range(300)]
    gone = set(random.Random(7).sample(range(300), 150))  # noqa: S311 - no secret
    for number in gone:
        assert calls[number].cancel()
    occupied.open()
    service.handle.echo()
    assert ran == [number for number in range(300) if number not in gone]


def test_inline_takes_turns_in_order(deploy, occupy, queued):
    """Under `inline` the turn goes to who has waited longest."""
    service = deploy("inline")
    occupied = occupy(service)
    ran = []
    waiting = [queued(service, "run", ran.append, number) for number in range(6)]
    occupied.open()
    for each in waiting:
        each.result(PATIENCE)
    assert ran == list(range(6))


@pytest.mark.parametrize("kind", ["single", "inline"])
def test_one_call_at_a_time(deploy, kind, in_thread):
    """`single` and `inline` never run two calls at once, whoever calls."""
    service = deploy(kind)
    inside, most = [], []
    start = threading.Barrier(6)

    def method():
        inside.append(None)
        most.append(len(inside))
        threading.Event().wait(0.0001)  # let the others in, if they can come in
        inside.pop()

    def caller():
        start.wait(PATIENCE)
        for _ in range(30):
            service.handle.call("run", method)

    for each in [in_thread(caller) for _ in range(6)]:
        each.result(PATIENCE)
    assert (len(most), set(most)) == (180, {1})


def test_single_runs_everything_on_one_thread(deploy, in_thread):
    """Under `single` it is always the same thread, whoever calls and however often."""
    service = deploy("single")
    threads = {in_thread(service.handle.call, "thread").result(PATIENCE) for _ in range(10)}
    assert len(threads) == 1


def test_inline_runs_in_the_caller_s_thread(deploy, in_thread):
    """Under `inline` it is the thread that calls, also for one that had to wait for its turn."""
    service = deploy("inline")
    assert service.handle.thread() is threading.current_thread()

    def compare():
        return service.handle.thread() is threading.current_thread()

    assert all(each.result(PATIENCE) for each in [in_thread(compare) for _ in range(10)])


def test_pool_runs_as_many_calls_at_once_as_it_has_threads(deploy):
    """A pool runs `thread_pool_size` calls at the same time, on as many threads."""
    service = deploy("pool", thread_count=1, thread_pool_size=5)
    together = threading.Barrier(5)
    calls = [
        service.handle.submit("run", lambda: (together.wait(PATIENCE), threading.current_thread())) for _ in range(5)
    ]
    assert len({call.result(PATIENCE)[1] for call in calls}) == 5


# -- one outcome -------------------------------------------------------------------------------------------------------


OUTCOMES = {
    "NoneType": "ok",
    "ValueError": "error",
    "CallTimeoutError": "timeout",
    "ServiceStoppedError": "stopped",
}


def outcome(call):
    """How the counters should call the way in which a call ended."""
    assert call.done()
    return "cancelled" if call.cancelled() else OUTCOMES[type(call.exception(0)).__name__]


def storm(handle, seed, stop):
    """Make calls of all kinds, cancel some, watch some; gives the calls, and how many ended in `submit`."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    accepted, ended_here, watched = [], 0, []

    def fail():
        raise ValueError("storm")

    def pause():
        threading.Event().wait(chance.random() / 1000)

    for turn in range(120):
        if (seed, turn) == (0, 90):
            stop.set()
        work = chance.choice([("echo", turn), ("run", fail), ("run", pause)])
        try:
            call = handle.with_options(timeout=chance.choice([None, 0.001, 0.005, 5.0])).submit(*work)
        except errors.CallTimeoutError:  # no room in time
            ended_here += 1
        except (errors.OverloadedError, errors.ServiceStoppedError):
            pass
        else:
            accepted.append(call)
            if chance.random() < 0.3:
                call.cancel()
            if chance.random() < 0.3:
                call.add_done_callback(watched.append)
    return accepted, ended_here, watched


@pytest.mark.parametrize("overload", ["block", "reject"])
def test_every_call_has_one_outcome_in_a_storm(deploy, threaded, in_thread, overload):
    """Results, errors, deadlines, cancellations and a stop at once: each accepted call ends and counts once."""
    service = deploy(threaded, queue_size=20, overload=overload)
    stop = threading.Event()
    callers = [in_thread(storm, service.handle, seed, stop) for seed in range(6)]
    assert stop.wait(PATIENCE)
    service.env.close(drain_timeout=5)

    ended = [caller.result(PATIENCE) for caller in callers]
    outcomes = collections.Counter(outcome(call) for accepted, _, _ in ended for call in accepted)
    outcomes["timeout"] += sum(ended_here for _, ended_here, _ in ended)
    counted = collections.Counter(service.metrics.outcomes)
    for name in ("ok", "error", "cancelled", "timeout"):
        assert counted[name] == outcomes[name] > 0, name
    assert service.metrics.request_count == counted.total()
    assert (service.metrics.abandoned_count, service.waiting) == (0, 0)
    for _, _, watched in ended:
        assert len(watched) == len(set(watched)), "each done-callback ran once"


def test_future_of_a_dropped_call_is_freed(deploy, threaded):
    """A call whose caller does not keep the future ends all the same."""
    service = deploy(threaded)
    ended = Future()
    service.handle.submit("run", ended.set_result, "ran")
    assert ended.result(PATIENCE) == "ran"
