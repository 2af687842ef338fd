"""Deadlines: end to end, queue included; the caller is released, the method keeps its slot until it ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.call import Call
from sage_plugins.clock import SystemClock

PATIENCE = 20.0
#: A deadline that the tests let pass.
SHORT = 0.03


VERBS = pytest.mark.parametrize("verb", ["call", "submit", "acall"])


def outcome(handle, verb, *args):
    """Make a call in one of the three ways, and wait for its outcome."""
    if verb == "acall":
        return asyncio.run(handle.acall(*args))
    return handle.call(*args) if verb == "call" else handle.submit(*args).result()


def counted(service):
    return {name: number for name, number in service.metrics.outcomes.items() if number}


# -- in the queue ------------------------------------------------------------------------------------------------------


@VERBS
def test_deadline_in_the_queue(deploy, strategy, occupy, verb):
    """A call whose time is over in the queue ends at stage "queue", and its method never runs."""
    service = deploy(strategy)
    occupied = occupy(service)
    ran = []
    hasty = service.handle.with_options(timeout=SHORT)
    with pytest.raises(errors.CallTimeoutError, match=r"svc\.run waited 0\.03 s in the queue") as caught:
        outcome(hasty, verb, "run", ran.append, 1)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.stage, caught.value.service, caught.value.method) == ("queue", "svc", "run")
    metrics = service.metrics
    assert (metrics.queue_size, metrics.abandoned_count, counted(service)) == (0, 0, {"timeout": 1})
    occupied.open()
    for _ in range(service.slots):
        service.handle.echo()
    assert ran == []


def test_queue_timeout_bounds_the_wait_alone(deploy, strategy, occupy, gate, in_thread):
    """`queue_timeout` ends calls that wait; one that has started minds `timeout` alone."""
    service = deploy(strategy, queue_timeout=SHORT, timeout=PATIENCE)
    running = in_thread(service.handle.call, "run", gate, "result")
    gate.wait_entered()
    others = [in_thread(service.handle.call, "run", gate) for _ in range(service.slots - 1)]
    gate.wait_entered(len(others))
    with pytest.raises(errors.CallTimeoutError, match="queue") as caught:
        service.handle.call("echo")
    assert caught.value.stage == "queue"
    # By now the running call's own time in the queue would long be over.
    assert not running.done()
    gate.open()
    assert running.result(PATIENCE) == "result"


def test_queue_timeout_of_a_future(deploy, threaded, occupy):
    """A submitted call ends at its `queue_timeout` too, with nobody looking; one that runs goes on past it."""
    service = deploy(threaded, queue_timeout=SHORT)
    ended = threading.Event()
    occupied = occupy(service)
    queued = service.handle.submit("echo")
    queued.add_done_callback(lambda _: ended.set())
    assert ended.wait(PATIENCE)
    assert queued.exception(0).stage == "queue"
    occupied.open()


def test_queue_timeout_of_a_started_future(deploy, threaded, gate):
    """The clock that ends calls in the queue leaves one alone that has started, until its deadline."""
    service = deploy(threaded, queue_timeout=SHORT, timeout=2 * SHORT)
    ended = threading.Event()
    running = service.handle.submit("run", gate)
    gate.wait_entered()
    running.add_done_callback(lambda _: ended.set())
    assert ended.wait(PATIENCE)
    assert running.exception(0).stage == "run"


def test_deadline_of_a_granted_turn(deploy, gate, in_thread, until, monkeypatch):
    """Under `inline`, a call whose time is over at the moment in which it gets its turn never runs."""
    service = deploy("inline")
    holder = in_thread(service.handle.call, "run", gate)
    gate.wait_entered()
    ran = []
    expire = Call.expire

    def expire_late(call):
        # The caller has found its time to be over; before it says so, the slot becomes free and goes to its call.
        if call.method.name == "given" and not gate._open.done():
            gate.open()
            holder.result(PATIENCE)
        return expire(call)

    monkeypatch.setattr(Call, "expire", expire_late)
    with pytest.raises(errors.CallTimeoutError) as caught:
        service.handle.with_options(timeout=SHORT).call("given", ran)
    assert caught.value.stage == "queue"
    assert service.metrics.abandoned_count == 0
    assert counted(service) == {"ok": 1, "timeout": 1}
    assert service.handle.echo(1) == 1, "the slot is free again"


class Jumping(SystemClock):
    """The machine's clock, which a test can move on."""

    def __init__(self):
        super().__init__()
        self.ahead = 0.0
        self.on_read = None
        real = self.monotonic

        def monotonic():
            if self.on_read is not None:
                self.on_read()
            return real() + self.ahead

        self.monotonic = monotonic


def test_deadline_at_the_moment_of_the_start(deploy, threaded, occupy, until):
    """A call that a worker takes up when its time is over never runs, and its caller is told so."""
    clock = Jumping()
    service = deploy(threaded, env_options={"clock": clock})
    handle = service.handle.with_options(timeout=1000)
    workers = set()
    start = threading.Barrier(service.slots)

    def who():
        workers.add(threading.current_thread())
        start.wait(PATIENCE)

    for call in [handle.submit("run", who) for _ in range(service.slots)]:
        call.result(PATIENCE)
    occupied = occupy(service)
    ran = []
    late = handle.submit("run", ran.append, 1)
    looked = threading.Event()

    def look():
        # In the worker, while it is about to start the call: its time is over, and its caller looks.
        if threading.current_thread() in workers and not looked.is_set() and occupied._open.done():
            looked.set()
            clock.ahead = 2000.0
            late.done()

    clock.on_read = look
    occupied.open()
    with pytest.raises(errors.CallTimeoutError) as caught:
        late.result(PATIENCE)
    clock.on_read = None
    assert looked.is_set()
    assert (caught.value.stage, ran) == ("queue", [])
    patient = service.handle.with_options(timeout=None)
    for _ in range(service.slots):
        patient.echo()
    until(lambda: service.metrics.request_count == 3 * service.slots + 1)
    assert service.metrics.abandoned_count == 0


# -- while it runs -----------------------------------------------------------------------------------------------------


@VERBS
def test_deadline_while_the_method_runs(deploy, threaded, gate, until, verb):
    """The caller is released at stage "run" although the method hangs; the call keeps its slot, abandoned."""
    service = deploy(threaded)
    hasty = service.handle.with_options(timeout=SHORT)
    with pytest.raises(errors.CallTimeoutError, match=r"gave no answer in 0\.03 s \(replica svc#0\)") as caught:
        outcome(hasty, verb, "run", gate)
    assert (caught.value.stage, caught.value.replica) == ("run", "svc#0")
    assert gate.entered == 1, "the method is inside"
    status = service.env.get_service_status("svc")
    assert status["metrics"].abandoned_count == 1
    assert status["replicas"][0]["inflight"] == 1
    assert counted(service) == {"timeout": 1}

    gate.open()
    until(lambda: service.metrics.abandoned_count == 0)
    assert service.handle.echo(1) == 1
    assert service.env.get_service_status("svc")["replicas"][0]["inflight"] == 0
    assert counted(service) == {"timeout": 1, "ok": 1}, "the late result is counted nowhere"


def test_deadline_under_inline_comes_with_the_method_s_end(deploy):
    """`inline` cannot release its caller, but a result that comes after the deadline is no result."""
    service = deploy("inline")
    hasty = service.handle.with_options(timeout=SHORT)

    remaining = service.handle.context().remaining

    def outlast():
        while remaining() > 0:
            threading.Event().wait(0.005)

    with pytest.raises(errors.CallTimeoutError) as caught:
        hasty.call("run", outlast)
    assert caught.value.stage == "run"
    assert service.metrics.abandoned_count == 0
    assert counted(service) == {"ok": 1, "timeout": 1}


def test_late_result_goes_nowhere(deploy, threaded, gates):
    """The result of an abandoned call reaches neither its caller, who was told, nor any other call."""
    service = deploy(threaded)
    hanging = [gates() for _ in range(service.slots)]
    late = [service.handle.with_options(timeout=SHORT).submit("run", gate, "late") for gate in hanging]
    for call in late:
        with pytest.raises(errors.CallTimeoutError):
            call.result()
    following = service.handle.submit("echo", "own")
    for gate in hanging:
        gate.open()
    assert following.result(PATIENCE) == "own"
    for call in late:
        assert isinstance(call.exception(0), errors.CallTimeoutError)


def test_late_exception_goes_nowhere(deploy, threaded, gate, until):
    service = deploy(threaded)

    def fail():
        gate()
        raise ValueError("late")

    with pytest.raises(errors.CallTimeoutError):
        service.handle.with_options(timeout=SHORT).call("run", fail)
    gate.open()
    until(lambda: service.metrics.abandoned_count == 0)
    assert counted(service) == {"timeout": 1}


def test_single_is_busy_while_an_abandoned_method_runs(deploy, gate):
    """One call at a time stays true: the next call waits for the abandoned method to end."""
    service = deploy("single")
    with pytest.raises(errors.CallTimeoutError):
        service.handle.with_options(timeout=SHORT).call("run", gate)
    waiting = service.handle.submit("run", gate._open.done)
    with pytest.raises(errors.CallTimeoutError) as caught:
        service.handle.with_options(timeout=SHORT).call("echo")
    assert caught.value.stage == "queue"
    assert not waiting.running()
    gate.open()
    assert waiting.result(PATIENCE), "it ran after the abandoned method"


def test_pool_goes_on_beside_an_abandoned_method(deploy, gate):
    """An abandoned method takes one slot of a pool, and no more."""
    service = deploy("pool")
    with pytest.raises(errors.CallTimeoutError):
        service.handle.with_options(timeout=SHORT).call("run", gate)
    assert [service.handle.echo(turn) for turn in range(5)] == list(range(5))


def test_async_method_past_its_deadline(deploy, threaded, gate):
    """A coroutine that hangs releases its caller too."""
    service = deploy(threaded)
    with pytest.raises(errors.CallTimeoutError) as caught:
        service.handle.with_options(timeout=SHORT).call("arun", gate.acall)
    assert caught.value.stage == "run"
    gate.open()


def test_method_s_own_timeout_error_is_no_deadline(deploy, strategy):
    """A TimeoutError that the method raises arrives as itself."""

    def fail():
        raise TimeoutError("the method's own")

    with pytest.raises(TimeoutError, match="own") as caught:
        deploy(strategy).handle.call("run", fail)
    assert not isinstance(caught.value, errors.CallTimeoutError)


def test_waiting_for_a_result_with_a_timeout_ends_no_call(deploy, threaded, gate):
    """`result(timeout)` that runs out is a plain TimeoutError, and the call goes on."""
    future = deploy(threaded).handle.submit("run", gate, 1)
    with pytest.raises(TimeoutError) as caught:
        future.result(SHORT)
    assert not isinstance(caught.value, errors.CallTimeoutError)
    gate.open()
    assert future.result(PATIENCE) == 1


# -- who watches -------------------------------------------------------------------------------------------------------


def test_unwatched_future_is_over_when_it_is_looked_at(deploy, threaded, gate):
    """A submitted call ends at its deadline although nobody waits for it: whoever looks next finds it over."""
    service = deploy(threaded)
    future = service.handle.with_options(timeout=SHORT).submit("run", gate)
    while not future.done():
        threading.Event().wait(0.002)
    assert isinstance(future.exception(0), errors.CallTimeoutError)
    assert service.metrics.abandoned_count == 1


def test_future_with_a_callback_is_ended_by_the_clock(deploy, threaded, occupy):
    """A future with a callback is ended at its deadline without anybody looking."""
    service = deploy(threaded)
    occupied = occupy(service)
    ended = Future()
    service.handle.with_options(timeout=SHORT).submit("echo").add_done_callback(ended.set_result)
    over = ended.result(PATIENCE)
    assert over.exception(0).stage == "queue"
    occupied.open()


def test_future_with_a_callback_is_ended_by_the_clock_while_it_runs(deploy, threaded, gate):
    service = deploy(threaded)
    ended = Future()
    service.handle.with_options(timeout=SHORT).submit("run", gate).add_done_callback(ended.set_result)
    assert ended.result(PATIENCE).exception(0).stage == "run"
    gate.open()


def test_awaited_future_is_ended_by_the_clock(deploy, threaded, gate):
    """`asyncio.wrap_future` of a call ends at the call's deadline."""
    handle = deploy(threaded).handle.with_options(timeout=SHORT)

    async def main():
        with pytest.raises(errors.CallTimeoutError):
            await asyncio.wrap_future(handle.submit("run", gate))

    asyncio.run(main())


def test_several_threads_wait_for_one_deadline(deploy, threaded, gate, in_thread):
    """All who wait for a call are released at its deadline, with the same error."""
    future = deploy(threaded).handle.with_options(timeout=SHORT).submit("run", gate)
    waiting = [in_thread(future.exception) for _ in range(4)]
    assert {id(each.result(PATIENCE)) for each in waiting} == {id(future.exception(0))}


# -- what travels ------------------------------------------------------------------------------------------------------


def test_remaining_time_is_seen_by_the_method(deploy, strategy, probe):
    """`ctx.remaining()` is what is left of the call's time, None without a limit and outside calls."""
    service = deploy(strategy)
    context = service.handle.context()
    left = service.handle.with_options(timeout=5).call("run", context.remaining)
    assert 0 < left < 5
    assert context.remaining() is None
    assert context.cancelled is False


def test_inner_calls_end_with_the_outer_deadline(environments, probe, strategy):
    """A service called from within gets the time that remains, or its own limit if that is shorter."""
    env = environments()

    class Outer:
        def ask(self, own):
            inner = self.ctx.service("inner").with_options(timeout=own)
            return inner.call("left"), self.ctx.remaining()

        def ask_by_name(self):
            return self.ctx.call_service("inner", method="left"), self.ctx.remaining()

        def ask_by_future(self):
            return self.ctx.call_service_async("inner", method="left", timeout=500).result(), self.ctx.remaining()

        async def ask_async(self):
            return await self.ctx.service("inner").acall("left"), self.ctx.remaining()

    class Inner:
        def left(self):
            return self.ctx.remaining()

    config = ServiceDeploymentConfig(threading_strategy=strategy, timeout=None)
    env.register_service_with_config("outer", Outer, deployment_config=config)
    env.register_service_with_config("inner", Inner, deployment_config=config)
    env.deploy()
    outer = env.service("outer")
    limited = outer.with_options(timeout=100)

    inner, left = limited.ask(500)
    assert 100 > inner >= left > 50, "the outer limit is shorter"
    inner, left = limited.ask(5)
    assert 0 < inner < 5 < left, "its own limit is shorter"
    inner, left = limited.ask(None)
    assert 100 > inner >= left > 50, "no limit of its own"
    inner, left = limited.ask_by_name()
    assert 100 > inner >= left > 50
    inner, left = limited.ask_by_future()
    assert 100 > inner >= left > 50
    inner, left = limited.ask_async()
    assert 100 > inner >= left > 50
    assert outer.ask(None) == (None, None)


def test_inner_call_is_given_up_with_the_outer(environments, strategy, gate):
    """An inner call ends at the outer call's deadline, though its own service knows no limit."""
    env = environments()
    ended = Future()

    class Outer:
        def ask(self):
            try:
                self.ctx.call_service("inner", gate, method="run")
            except BaseException as error:
                ended.set_result(error)
                raise

    class Inner:
        def run(self, function):
            return function()

    env.register_service_with_config(
        "outer", Outer, deployment_config=ServiceDeploymentConfig(threading_strategy=strategy)
    )
    env.register_service_with_config("inner", Inner, deployment_config=ServiceDeploymentConfig(timeout=None))
    env.deploy()
    with pytest.raises(errors.CallTimeoutError):
        env.service("outer").with_options(timeout=SHORT).ask()
    inner = ended.result(PATIENCE)
    assert isinstance(inner, errors.CallTimeoutError)
    assert (inner.service, inner.stage) == ("inner", "run")
    gate.open()


def test_call_from_a_method_whose_time_is_over(environments, strategy, gate):
    """A method that runs on after its deadline starts no further calls."""
    env = environments()
    ended, ran = Future(), []

    class Outer:
        def ask(self):
            while self.ctx.remaining() > 0:
                threading.Event().wait(0.002)
            try:
                self.ctx.call_service("inner", method="mark")
            except errors.CallError as error:
                ended.set_result(error)

    class Inner:
        def mark(self):
            ran.append(1)

    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("outer", Outer, deployment_config=config)
    env.register_service_with_config("inner", Inner, deployment_config=config)
    env.deploy()
    with pytest.raises(errors.CallTimeoutError):
        env.service("outer").with_options(timeout=SHORT).ask()
    error = ended.result(PATIENCE)
    assert isinstance(error, errors.CallTimeoutError)
    assert (error.stage, ran) == ("queue", [])


def test_method_sees_that_it_was_given_up(deploy, threaded):
    """`ctx.cancelled` turns true when the caller has gone, so a long method can return early and free its slot."""
    service = deploy(threaded)
    context = service.handle.context()
    seen = Future()

    def work():
        turns = [context.cancelled]
        while not context.cancelled:
            threading.Event().wait(0.002)
        seen.set_result(turns)

    with pytest.raises(errors.CallTimeoutError):
        service.handle.with_options(timeout=SHORT).call("run", work)
    assert seen.result(PATIENCE) == [False]


def test_method_sees_that_its_time_is_over_though_nobody_looks(deploy, strategy):
    """`ctx.cancelled` minds the deadline itself: no caller has to look for it to turn true."""
    service = deploy(strategy)
    context = service.handle.context()
    seen = Future()

    def work():
        while not context.cancelled:
            threading.Event().wait(0.002)
        seen.set_result(context.remaining())

    future = service.handle.with_options(timeout=SHORT).submit("run", work)
    assert seen.result(PATIENCE) == 0.0
    with pytest.raises(errors.CallTimeoutError):
        future.result(PATIENCE)


def test_method_sees_that_its_task_was_cancelled(deploy, strategy, gate):
    """`ctx.cancelled` turns true when the awaiting task was cancelled."""
    service = deploy(strategy)
    context = service.handle.context()
    seen = Future()

    def work():
        gate()
        seen.set_result(context.cancelled)

    async def main():
        task = asyncio.ensure_future(service.handle.acall("run", work))
        await asyncio.to_thread(gate.wait_entered)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    gate.open()
    assert seen.result(PATIENCE) is True


# -- where the limit comes from ----------------------------------------------------------------------------------------


def test_limit_per_method(deploy, strategy):
    """`methods.<name>.timeout` beats the service's; `null` there is no limit; `with_options` beats both."""

    class Timed:
        def plain(self):
            return self.ctx.remaining()

        def quick(self):
            return self.ctx.remaining()

        def endless(self):
            return self.ctx.remaining()

    methods = {"quick": {"timeout": 5.0}, "endless": {"timeout": None}}
    handle = deploy(strategy, Timed, timeout=100.0, methods=methods).handle
    assert 50 < handle.plain() < 100
    assert 0 < handle.quick() < 5
    assert handle.endless() is None
    longer = handle.with_options(timeout=1000)
    assert all(500 < left < 1000 for left in (longer.plain(), longer.quick(), longer.endless()))
    assert handle.with_options(timeout=None).quick() is None
    assert 0 < handle.with_options(key="k").quick() < 5, "other options leave the limits alone"


def test_limit_per_method_ends_a_call(deploy, threaded, gate):
    handle = deploy(threaded, timeout=None, methods={"run": {"timeout": SHORT}}).handle
    with pytest.raises(errors.CallTimeoutError) as caught:
        handle.call("run", gate)
    assert (caught.value.stage, caught.value.method) == ("run", "run")


def test_unknown_method_in_methods_is_refused(environments, probe):
    """A limit for a method that the class does not have is an error, with the nearest name."""
    env = environments()
    config = ServiceDeploymentConfig(methods={"ecco": {"timeout": 1}})
    env.register_service_with_config("svc", probe, deployment_config=config)
    with pytest.raises(errors.PlanError, match="did you mean 'echo'"):
        env.deploy()


def test_deploying_takes_none_of_the_call_s_time(environments, gate, in_thread):
    """The first call deploys the service under `startup_timeout`; its own limit starts after that."""

    class Slow:
        def __init__(self):
            gate()

        def left(self):
            return self.ctx.remaining()

    env = environments()
    env.register_service_with_config("slow", Slow, deployment_config=ServiceDeploymentConfig(timeout=SHORT))
    first = in_thread(env.service("slow").with_options(timeout=SHORT).left)
    gate.wait_entered()
    threading.Event().wait(2 * SHORT)  # longer than the call may take
    gate.open()
    assert 0 < first.result(PATIENCE) <= SHORT
