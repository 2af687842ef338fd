"""The verbs of a call, on target `local`: the same under every strategy."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import decimal
import logging
import pickle
import threading
import traceback
from concurrent.futures import Future

import pytest

from sage_plugins import ServiceDeploymentConfig, errors

PATIENCE = 20.0


class CustomError(Exception):
    def __init__(self, code, *, detail):
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail


class Raising:
    """Methods that fail, each in its own way; instances of the class are the services of these tests."""

    def builtin(self):
        return {}["missing"]

    def custom(self):
        raise CustomError(7, detail=["as", "given"])

    def chained(self):
        try:
            self.builtin()
        except KeyError as error:
            raise ValueError("outer") from error

    def group(self):
        raise ExceptionGroup("several", [ValueError(1), CustomError(2, detail=None)])

    def noted(self):
        error = RuntimeError("noted")
        error.add_note("look here")
        raise error

    def timeout(self):
        raise TimeoutError("the method's own")

    def cancelled(self):
        raise concurrent.futures.CancelledError("the method's own")

    def stop_iteration(self):
        next(iter(()))

    async def later(self):
        await asyncio.sleep(0)
        raise CustomError(8, detail="async")

    def leave(self, kind):
        raise kind("leaving")

    async def leave_later(self, kind):
        await asyncio.sleep(0)
        raise kind("leaving")

    def unprintable(self):
        class Unprintable(SystemExit):
            def __str__(self):
                raise RuntimeError("no text")

        raise Unprintable

    def alive(self):
        return "alive"


def outcomes(handle):
    """Each way to make a call and get its outcome, by name."""
    return {
        "call": handle.call,
        "submit": lambda *args: handle.submit(*args).result(PATIENCE),
        "acall": lambda *args: asyncio.run(handle.acall(*args)),
    }


VERBS = pytest.mark.parametrize("verb", ["call", "submit", "acall"])


# -- results and arguments ---------------------------------------------------------------------------------------------


@VERBS
def test_result_is_the_method_s_own_object(deploy, strategy, verb):
    """Arguments and results travel by reference."""
    given = object()
    assert outcomes(deploy(strategy).handle)[verb]("echo", given) is given


def test_attribute_call_is_a_call(deploy, strategy):
    handle = deploy(strategy).handle
    assert handle.given(1, 2, key="word") == handle.call("given", 1, 2, key="word") == ((1, 2), {"key": "word"})


@VERBS
def test_arguments_may_have_any_name(deploy, strategy, verb):
    """Keyword arguments that are also names of ours reach the method."""
    handle = deploy(strategy).handle
    words = {"method": 1, "timeout": 2, "self": 3, "key": 4, "args": 5, "kwargs": 6, "call": 7, "name": 8}
    result = {
        "call": lambda: handle.call("given", **words),
        "submit": lambda: handle.submit("given", **words).result(PATIENCE),
        "acall": lambda: asyncio.run(handle.acall("given", **words)),
    }[verb]()
    assert result == ((), words)
    assert handle.given(**words) == ((), words)


def test_wrong_arguments_are_the_method_s_type_error(deploy, strategy):
    with pytest.raises(TypeError, match="echo"):
        deploy(strategy).handle.echo(1, 2, 3)


def test_method_may_return_an_exception(deploy, strategy):
    """An exception that is returned, and None, are results like any other."""
    handle = deploy(strategy).handle
    error = ValueError("returned")
    assert handle.echo(error) is error
    assert handle.submit("echo", error).result(PATIENCE) is error
    assert handle.echo(None) is None


@VERBS
def test_async_methods_are_awaited_for_the_caller(deploy, strategy, verb):
    async def double(value):
        await asyncio.sleep(0)
        return value * 2

    assert outcomes(deploy(strategy).handle)[verb]("arun", double, 21) == 42


def test_async_methods_of_one_worker_share_a_loop(deploy):
    """Under `single` all coroutines run on one loop of the worker's thread, and may share what belongs to it."""
    service = deploy("single")

    async def loop_and_thread():
        return asyncio.get_running_loop(), threading.current_thread()

    first, second = (service.handle.call("arun", loop_and_thread) for _ in range(2))
    assert first == second
    assert first[1] is service.handle.thread()


def test_async_method_can_be_called_from_a_thread_with_a_running_loop(deploy, strategy):
    """A caller that blocks its own event loop gets its result all the same."""
    handle = deploy(strategy).handle

    async def value():
        await asyncio.sleep(0)
        return "value"

    async def main():
        return handle.call("arun", value)

    assert asyncio.run(main()) == "value"


def test_bound_verb_keeps_working(environments, strategy, probe):
    """`handle.call` and `handle.submit` taken before the first call are as good as those taken later."""
    env = environments()
    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("lazy", probe, deployment_config=config)
    handle = env.service("lazy")
    call, submit, echo = handle.call, handle.submit, handle.echo

    assert [call("echo", 1), call("echo", 2), submit("echo", 3).result(PATIENCE), echo(4)] == [1, 2, 3, 4]


def test_handle_serves_many_threads(deploy, strategy, in_thread):
    """Calls from many threads each get their own result."""
    handle = deploy(strategy).handle
    start = threading.Barrier(8)

    def caller(number):
        start.wait(PATIENCE)
        return [handle.call("echo", (number, turn)) for turn in range(50)]

    callers = [in_thread(caller, number) for number in range(8)]
    for number, future in enumerate(callers):
        assert future.result(PATIENCE) == [(number, turn) for turn in range(50)]


def test_handle_does_not_travel(deploy):
    """A handle belongs to its process, and pickling it says so."""
    with pytest.raises(errors.CallError, match="belongs to this process"):
        pickle.dumps(deploy("single").handle)


# -- what is served ----------------------------------------------------------------------------------------------------


@VERBS
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("_private", "private"),
        ("__init__", "private"),
        ("stop", "life-cycle hook"),
        ("setup", "life-cycle hook"),
        ("check_health", "life-cycle hook"),
        ("ecco", "did you mean 'echo'"),
        ("Echo", "did you mean 'echo'"),
        ("qqqqqqqqqq", "its methods are "),
        ("", "its methods are "),
    ],
)
def test_what_is_not_served_is_not_found(deploy, verb, name, why):
    """Private names, life-cycle hooks and unknown names raise MethodNotFoundError, with the nearest name."""
    with pytest.raises(errors.MethodNotFoundError, match=why) as caught:
        outcomes(deploy("single").handle)[verb](name)
    assert isinstance(caught.value, AttributeError)
    assert (caught.value.service, caught.value.method) == ("svc", name)


def test_private_attribute_is_no_method(deploy):
    """A private name is no attribute at all, so protocols that look for `__dunder__` names find none."""
    handle = deploy("single").handle
    with pytest.raises(AttributeError):
        _ = handle._private


def test_unknown_attribute_call_is_not_found(deploy, strategy):
    with pytest.raises(errors.MethodNotFoundError, match="did you mean 'echo'"):
        deploy(strategy).handle.ecoh(1)


@VERBS
@pytest.mark.parametrize("name", ["items", "aitems"])
def test_generator_method_says_stream(deploy, strategy, verb, name):
    """`call` on a generator method raises TypeError naming `stream`."""
    with pytest.raises(TypeError, match="stream"):
        outcomes(deploy(strategy).handle)[verb](name, 3)


def test_served_names_that_the_handle_uses_itself(environments):
    """The handle's own names win over attribute calls; `call` reaches the method."""

    class Shadowed:
        def submit(self, value):
            return ("method", value)

    env = environments()
    env.register_service("shadowed", Shadowed)
    handle = env.service("shadowed")
    assert isinstance(handle.submit("submit", 1), Future)
    assert handle.call("submit", 1) == ("method", 1)


# -- exceptions --------------------------------------------------------------------------------------------------------


@VERBS
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("builtin", KeyError),
        ("custom", CustomError),
        ("chained", ValueError),
        ("group", ExceptionGroup),
        ("noted", RuntimeError),
        ("timeout", TimeoutError),
        ("cancelled", concurrent.futures.CancelledError),
        ("later", CustomError),
    ],
)
def test_exception_arrives_as_itself(deploy, strategy, verb, method, kind):
    """The caller gets the method's exception: its type, and the method's frame in the traceback."""
    with pytest.raises(kind) as caught:
        outcomes(deploy(strategy, Raising).handle)[verb](method)
    assert type(caught.value) is kind
    assert method in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_exception_keeps_what_it_carries(deploy, strategy):
    """Attributes, cause, notes and the members of a group arrive too."""
    handle = deploy(strategy, Raising).handle
    with pytest.raises(CustomError) as custom:
        handle.custom()
    assert (custom.value.code, custom.value.detail) == (7, ["as", "given"])
    with pytest.raises(ValueError, match="outer") as chained:
        handle.chained()
    assert isinstance(chained.value.__cause__, KeyError)
    with pytest.raises(RuntimeError) as noted:
        handle.noted()
    assert noted.value.__notes__ == ["look here"]
    with pytest.raises(ExceptionGroup) as group:
        handle.group()
    assert [type(each) for each in group.value.exceptions] == [ValueError, CustomError]


def test_exception_of_a_submitted_call(deploy, strategy):
    """`exception()` gives the method's exception, and every `result()` raises it."""
    future = deploy(strategy, Raising).handle.submit("custom")
    assert isinstance(future.exception(PATIENCE), CustomError)
    for _ in range(2):
        with pytest.raises(CustomError) as caught:
            future.result(0)
        assert caught.value is future.exception(0)


def test_own_cancelled_error_is_no_cancellation(deploy, strategy):
    """A CancelledError that the method raises is its exception: the call was not cancelled."""
    future = deploy(strategy, Raising).handle.submit("cancelled")
    assert isinstance(future.exception(PATIENCE), concurrent.futures.CancelledError)
    assert not future.cancelled()


def test_stop_iteration_arrives_from_call(deploy, strategy):
    with pytest.raises(StopIteration):
        deploy(strategy, Raising).handle.call("stop_iteration")


def test_stop_iteration_becomes_remote_error_in_a_coroutine(deploy, strategy):
    """A coroutine cannot raise StopIteration: `acall` raises RemoteError that names it."""
    with pytest.raises(errors.RemoteError, match="StopIteration") as caught:
        asyncio.run(deploy(strategy, Raising).handle.acall("stop_iteration"))
    assert caught.value.type_name == "StopIteration"
    assert isinstance(caught.value.__cause__, StopIteration)


@VERBS
@pytest.mark.parametrize("method", ["leave", "leave_later"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_exit_in_a_method_becomes_remote_error(deploy, strategy, verb, method, kind):
    """What would end a thread, a process or a task becomes RemoteError, and the worker lives."""
    service = deploy(strategy, Raising)
    verbs = outcomes(service.handle)
    with pytest.raises(errors.RemoteError, match=f"{kind.__name__}.*leaving|leaving.*{kind.__name__}") as caught:
        verbs[verb](method, kind)
    assert caught.value.type_name == kind.__name__
    assert caught.value.original_message == "leaving"
    assert f"in {method}" in caught.value.traceback_text
    assert (caught.value.service, caught.value.method, caught.value.replica) == ("svc", method, "svc#0")
    assert [service.handle.alive() for _ in range(service.slots + 1)] == ["alive"] * (service.slots + 1)


def test_exit_without_text_becomes_remote_error(deploy, strategy):
    """An exception that cannot even be printed ends its own call alone."""
    handle = deploy(strategy, Raising, timeout=2.0).handle
    with pytest.raises(errors.RemoteError, match="Unprintable"):
        handle.call("unprintable")
    assert handle.alive() == "alive"


# -- futures -----------------------------------------------------------------------------------------------------------


def test_submit_gives_a_real_future(deploy, strategy):
    """`submit` returns a concurrent.futures.Future that ends with the method."""
    future = deploy(strategy).handle.submit("echo", 5)
    assert isinstance(future, Future)
    assert future.result(PATIENCE) == 5
    assert (future.done(), future.running(), future.cancelled(), future.exception()) == (True, False, False, None)


def test_submit_does_not_wait_for_the_method(deploy, threaded, gate):
    """`submit` returns while the method runs; the future says so."""
    future = deploy(threaded).handle.submit("run", gate, "result")
    gate.wait_entered()
    assert (future.done(), future.running()) == (False, True)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    with pytest.raises(TimeoutError):
        future.exception(0.01)
    gate.open()
    assert future.result(PATIENCE) == "result"


def test_submit_under_inline_has_run_the_method(deploy):
    """Under `inline` the future is over when `submit` returns, and what the method raised is in it."""
    handle = deploy("inline", Raising).handle
    assert handle.submit("alive").done()
    assert isinstance(handle.submit("builtin").exception(0), KeyError)


def test_futures_work_with_wait(deploy, threaded, gates):
    """`concurrent.futures.wait` knows our futures, also together with others."""
    handle = deploy(threaded, queue_size=10).handle
    first, rest = gates(), gates()
    calls = [handle.submit("run", first, 0), *(handle.submit("run", rest, number) for number in (1, 2, 3))]
    stranger = Future()
    first.wait_entered()
    first.open()
    done, pending = concurrent.futures.wait([*calls, stranger], PATIENCE, concurrent.futures.FIRST_COMPLETED)
    assert calls[0] in done
    assert stranger in pending
    rest.open()
    stranger.set_result(None)
    done, pending = concurrent.futures.wait([*calls, stranger], PATIENCE)
    assert (len(done), pending) == (5, set())
    # All over when it is asked.
    assert concurrent.futures.wait(calls, 0).not_done == set()


def test_wait_sees_the_first_exception(deploy, threaded, gate, in_thread, until):
    """FIRST_EXCEPTION ends the wait when a call fails meanwhile, and not when one ends well."""

    def fail():
        gate()
        raise ValueError("the method's own")

    handle = deploy(threaded, queue_size=10).handle
    failing, stranger = handle.submit("run", fail), Future()
    waiting = in_thread(
        concurrent.futures.wait,
        [failing, handle.submit("echo"), stranger],
        return_when=concurrent.futures.FIRST_EXCEPTION,
    )
    gate.wait_entered()
    until(lambda: stranger._waiters)
    assert not waiting.done()
    gate.open()
    try:
        done, pending = waiting.result(PATIENCE / 4)
        assert failing in done
        assert stranger in pending
    finally:
        stranger.set_result(None)


def test_futures_work_with_as_completed(deploy, strategy):
    """`concurrent.futures.as_completed` gives each call once."""
    handle = deploy(strategy, queue_size=200).handle
    calls = [handle.submit("echo", number) for number in range(100)]
    assert sorted(call.result() for call in concurrent.futures.as_completed(calls, PATIENCE)) == list(range(100))


class Waiter:
    """What `concurrent.futures.wait` and `as_completed` install in a future."""

    def __init__(self):
        self.told = []

    def add_result(self, future):
        self.told.append(future)

    add_exception = add_cancelled = add_result


@pytest.mark.parametrize("ending", ["result", "cancel"])
def test_waiter_is_told_of_an_end_that_was_not_seen(deploy, gate, occupy, in_thread, until, ending):  # noqa: PLR0913, PLR0917 - fixtures
    """
    Who installs a waiter under the future's condition is told once if the state then was not over, else never.

    `wait` and `as_completed` count on it: told too often, `wait` returns while another call is pending.
    """
    service = deploy("single")
    if ending == "result":
        future = service.handle.submit("run", gate)
        gate.wait_entered()
    else:
        occupied = occupy(service)
        future = service.handle.submit("echo")
    early, late = Waiter(), Waiter()
    with future._condition:
        future._waiters.append(early)
    with future._condition:
        # The call ends while the condition is held, as far as it can.
        if ending == "result":
            gate.open()
            until(lambda: service.env.get_service_status("svc")["replicas"][0]["inflight"] == 0)
        else:
            cancelling = in_thread(future.cancel)
            until(lambda: service.waiting == 0)
        threading.Event().wait(0.02)
        over = future._state in {"FINISHED", "CANCELLED_AND_NOTIFIED"}
        future._waiters.append(late)
    if ending == "cancel":
        assert cancelling.result(PATIENCE)
        occupied.open()
    service.handle.echo()  # by now everybody was told who ever will be
    assert early.told == [future]
    assert late.told == ([] if over else [future])


def test_futures_can_be_awaited(deploy, strategy):
    """`asyncio.wrap_future` turns a call into an awaitable, result and exception alike."""
    handle = deploy(strategy, Raising).handle

    async def main():
        assert await asyncio.wrap_future(handle.submit("alive")) == "alive"
        with pytest.raises(CustomError):
            await asyncio.wrap_future(handle.submit("custom"))

    asyncio.run(main())


def test_cancelling_a_wrapped_future_cancels_the_call(deploy, threaded, occupy):
    service = deploy(threaded)
    occupied = occupy(service)
    call = service.handle.submit("echo")

    async def main():
        wrapped = asyncio.wrap_future(call)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    asyncio.run(main())
    assert call.cancelled()
    occupied.open()


def test_callbacks_run_once_whenever_they_are_added(deploy, strategy, in_thread, gate):
    """A done-callback runs exactly once with the future, whether it was added before or after the end."""
    service = deploy(strategy)
    seen = []
    if strategy != "inline":
        future = service.handle.submit("run", gate)
        gate.wait_entered()
        ended = threading.Event()
        future.add_done_callback(lambda call: seen.append(("before", call)))
        future.add_done_callback(lambda _: ended.set())
        assert not seen
        gate.open()
        assert ended.wait(PATIENCE)
        assert seen == [("before", future)]
    future = service.handle.submit("echo")
    future.result(PATIENCE)
    seen.clear()
    future.add_done_callback(lambda call: seen.append(("after", call)))
    assert seen == [("after", future)]


def test_callback_that_raises_is_logged(deploy, strategy, gate, caplog):
    """What a callback raises is logged; other callbacks, the caller and the worker do not notice."""
    handle = deploy(strategy).handle
    future = handle.submit("echo", 1) if strategy == "inline" else handle.submit("run", gate, 1)
    ended = threading.Event()

    def fail(_):
        raise RuntimeError("the callback's own")

    with caplog.at_level(logging.ERROR, "sage_plugins"):
        future.add_done_callback(fail)
        future.add_done_callback(lambda _: ended.set())
        gate.open()
        assert ended.wait(PATIENCE)
    assert future.result(PATIENCE) == 1
    assert "the callback's own" in caplog.text
    assert handle.echo(2) == 2


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the assertion below says it
def test_callback_cannot_end_the_worker(deploy, threaded, gate, kind):
    """Not even a callback that raises SystemExit ends the worker that runs it."""
    service = deploy(threaded, timeout=2.0)
    futures = [service.handle.submit("run", gate) for _ in range(service.slots)]
    gate.wait_entered(service.slots)

    def leave(_):
        raise kind

    for future in futures:
        future.add_done_callback(leave)
    gate.open()
    for future in futures:
        future.result(PATIENCE)
    assert [service.handle.echo(turn) for turn in range(3)] == [0, 1, 2]


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_queued_call_is_cancelled(deploy, threaded, occupy):
    """`cancel` of a queued call is True; it never runs and its result raises a CancelledError."""
    service = deploy(threaded)
    occupied = occupy(service)
    ran = []
    future = service.handle.submit("run", ran.append, 1)
    seen = []
    future.add_done_callback(seen.append)

    assert future.cancel()
    assert future.cancel(), "a second time"
    assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
    assert seen == [future]
    assert service.waiting == 0
    with pytest.raises(errors.CallCancelledError) as caught:
        future.result(0)
    assert isinstance(caught.value, concurrent.futures.CancelledError)
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception(0)
    occupied.open()
    for _ in range(service.slots):
        service.handle.echo()
    assert ran == []


def test_running_call_is_not_cancelled(deploy, threaded, gate):
    """`cancel` of a running call is False, and its result comes."""
    future = deploy(threaded).handle.submit("run", gate, "result")
    gate.wait_entered()
    assert not future.cancel()
    gate.open()
    assert future.result(PATIENCE) == "result"
    assert not future.cancelled()


def test_ended_call_is_not_cancelled(deploy, strategy):
    future = deploy(strategy).handle.submit("echo", 1)
    future.result(PATIENCE)
    assert not future.cancel()
    assert future.result(0) == 1


def test_cancel_wakes_who_waits(deploy, threaded, occupy, in_thread, until):
    """A thread that waits for the result is released when another thread cancels."""
    service = deploy(threaded)
    occupied = occupy(service)
    future = service.handle.submit("echo")
    waiting = in_thread(future.result, PATIENCE)
    until(lambda: future._latch is not None)
    assert future.cancel()
    with pytest.raises(errors.CallCancelledError):
        waiting.result(PATIENCE)
    occupied.open()


def test_call_is_started_or_cancelled_never_both(deploy, threaded):
    """Whoever comes first, worker or canceller, decides: a call that `cancel` promised away has not run."""
    handle = deploy(threaded, queue_size=1000).handle
    ran = set()
    for batch in range(20):
        calls = [handle.submit("run", ran.add, (batch, number)) for number in range(20)]
        cancelled = {(batch, number) for number, call in enumerate(calls) if call.cancel()}
        for call in calls:
            if not call.cancelled():
                call.result(PATIENCE)
        assert {each for each in ran if each[0] == batch} == {(batch, number) for number in range(20)} - cancelled


# -- coroutines --------------------------------------------------------------------------------------------------------


def test_acall_from_several_loops(deploy, strategy, in_thread):
    """`acall` works from loops in different threads at the same time."""
    handle = deploy(strategy).handle
    start = threading.Barrier(3)

    async def main(number):
        return await asyncio.gather(*(handle.acall("echo", (number, turn)) for turn in range(20)))

    def caller(number):
        start.wait(PATIENCE)
        return asyncio.run(main(number))

    callers = [in_thread(caller, number) for number in range(3)]
    assert [caller.result(PATIENCE) for caller in callers] == [
        [(number, turn) for turn in range(20)] for number in range(3)
    ]


def test_acall_does_not_block_its_loop(deploy, strategy, gate):
    """While a call runs, its loop goes on: here it opens the gate for which the method waits."""
    handle = deploy(strategy).handle

    async def main():
        call = asyncio.ensure_future(handle.acall("run", gate, "result"))
        await asyncio.to_thread(gate.wait_entered)
        gate.open()
        return await call

    assert asyncio.run(main()) == "result"


def test_first_acall_does_not_block_its_loop(environments, strategy, gate):
    """An `acall` that has to deploy the service first does not block its loop meanwhile."""

    class Slow:
        def __init__(self):
            gate()

        def answer(self):
            return 42

    env = environments()
    config = ServiceDeploymentConfig(threading_strategy=strategy)
    env.register_service_with_config("slow", Slow, deployment_config=config)

    async def main():
        call = asyncio.ensure_future(env.service("slow").acall("answer"))
        await asyncio.to_thread(gate.wait_entered)
        gate.open()
        return await call

    assert asyncio.run(main()) == 42


def test_cancelling_the_task_cancels_a_queued_call(deploy, strategy, occupy, until):
    """A call whose awaiting task is cancelled before it starts never runs."""
    service = deploy(strategy)
    occupied = occupy(service)
    ran = []

    async def main():
        task = asyncio.ensure_future(service.handle.acall("run", ran.append, 1))
        await asyncio.to_thread(until, lambda: service.waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert service.waiting == 0
    occupied.open()
    for _ in range(service.slots):
        service.handle.echo()
    assert ran == []
    assert service.metrics.outcomes.get("cancelled") == 1


def test_cancelling_the_task_abandons_a_running_call(deploy, strategy, gate, until):
    """The task is released at once; the method goes on, holds its slot, and its result goes nowhere."""
    service = deploy(strategy)

    async def main():
        task = asyncio.ensure_future(service.handle.acall("run", gate))
        await asyncio.to_thread(gate.wait_entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # ends although the method is inside
    assert service.metrics.abandoned_count == 1
    gate.open()
    until(lambda: service.metrics.abandoned_count == 0)
    assert service.handle.echo(1) == 1
    assert dict(service.metrics.outcomes) == {"cancelled": 1, "ok": 1}


def test_loop_that_ended_is_forgotten(deploy, threaded, gate, caplog):
    """A loop that was closed before the result came harms nobody."""
    service = deploy(threaded)
    loop = asyncio.new_event_loop()
    task = loop.create_task(service.handle.acall("run", gate))
    loop.run_until_complete(asyncio.sleep(0))
    while not task.done() and not gate.entered:
        loop.run_until_complete(asyncio.sleep(0.001))
    task._log_destroy_pending = False
    loop.close()
    gate.open()
    assert [service.handle.echo(turn) for turn in range(3)] == [0, 1, 2]
    assert not caplog.records
    task.get_coro().close()


# -- options of a handle -----------------------------------------------------------------------------------------------


def test_with_options_gives_another_handle(deploy, threaded, occupy):
    """`with_options` changes calls of the handle that it returns, and no others."""
    service = deploy(threaded, timeout=PATIENCE)
    occupied = occupy(service)
    hasty = service.handle.with_options(timeout=0.02)
    patient = service.handle.submit("echo", "patient")
    with pytest.raises(errors.CallTimeoutError):
        hasty.echo()
    with pytest.raises(errors.CallTimeoutError):
        hasty.with_options(key="k").echo()  # options add up
    occupied.open()
    assert patient.result(PATIENCE) == "patient"
    assert hasty.with_options(timeout=None).echo(1) == 1


def test_timeout_none_is_no_limit(deploy, strategy):
    """`timeout=None` lifts the configuration's limit: the method sees that nothing bounds it."""
    service = deploy(strategy, timeout=10.0)

    def remaining():
        return service.handle.call("context").remaining()

    assert service.handle.with_options(timeout=None).call("run", lambda: None) is None
    context = service.handle.context()
    assert service.handle.with_options(timeout=None).call("run", context.remaining) is None
    assert 0 < service.handle.call("run", context.remaining) <= 10
    assert remaining() is None, "outside any call there is no limit"


@pytest.mark.parametrize(
    "timeout",
    [0, -1, -0.5, True, False, "1", float("nan"), float("inf"), [], 10**400, decimal.Decimal(1)],
    ids=lambda value: repr(value)[:20],
)
def test_bad_timeout_is_a_config_error(deploy, timeout):
    """A time-out must be a number of seconds above 0, or None."""
    with pytest.raises(errors.ConfigError, match="timeout"):
        deploy("single").handle.with_options(timeout=timeout)


def test_key_and_idempotent_travel_with_the_call(deploy, threaded):
    """What `with_options` sets is what balancer and failover get to see."""
    handle = deploy(threaded).handle
    call = handle.with_options(key=("tenant", 7), idempotent=True).submit("echo")
    assert (call.key, call.options.idempotent) == (("tenant", 7), True)
    plain = handle.submit("echo")
    assert (plain.key, plain.options.idempotent) == (None, None)


# -- context variables -------------------------------------------------------------------------------------------------

WORD = contextvars.ContextVar("word", default="unset")


@VERBS
def test_method_sees_the_caller_s_context_variables(deploy, strategy, verb):
    handle = deploy(strategy).handle
    token = WORD.set("the caller's")
    try:
        assert outcomes(handle)[verb]("run", WORD.get) == "the caller's"

        async def get():
            return WORD.get()

        assert outcomes(handle)[verb]("arun", get) == "the caller's"
    finally:
        WORD.reset(token)


@VERBS
def test_method_s_changes_of_context_variables_stay_with_its_call(deploy, strategy, verb):
    """What a method sets is not seen by its caller, nor by the next call: no strategy differs in that."""
    handle = deploy(strategy).handle
    token = WORD.set("before")
    precision = decimal.getcontext().prec

    def change():
        WORD.set("changed")
        decimal.setcontext(decimal.Context(prec=7))

    try:
        outcomes(handle)[verb]("run", change)
        assert WORD.get() == "before"
        assert decimal.getcontext().prec == precision
        assert outcomes(handle)[verb]("run", WORD.get) == "before"
    finally:
        WORD.reset(token)
        decimal.getcontext().prec = precision
