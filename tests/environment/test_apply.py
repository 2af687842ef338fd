"""`apply` starts new services, replaces changed ones, stops removed ones and leaves the rest alone."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from types import SimpleNamespace

import pytest

from sage_deploy_testing.doubles.virtual_clock import VirtualClock
from sage_plugins import ServiceDeploymentConfig, errors
from sage_plugins.clock import SYSTEM

MODULE = """\
class Echo:
    made = []

    def __init__(self, name="echo", fails=False):
        if fails:
            raise ValueError("cannot be made")
        self.name = name
        Echo.made.append(name)

    def who(self):
        return self.name

    def stream(self):
        yield self.name

    def run(self, function):
        return function()
"""


INTERRUPTING = """\
import signal
import threading

going_on, stopped = threading.Event(), threading.Event()


class Interrupting:
    def __init__(self):
        if self.ctx.replica_index:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            going_on.wait(20)

    def stop(self):
        stopped.set()
"""


@pytest.fixture
def env(environments, clock):
    return environments("test", clock=clock)


@pytest.fixture
def clock(request):
    return getattr(request, "param", SYSTEM)


@pytest.fixture
def load(env, tmp_path, monkeypatch):
    """Writes the deployment file and loads it."""
    (tmp_path / "applied.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def load(text):
        file = tmp_path / "services.yaml"
        file.write_text(text)
        env.load_service_deployment_config(file)

    return load


def entry(name, extra=""):
    return f"  {name}: {{class: 'applied:Echo', init: {{kwargs: {{name: {name}{extra}}}}}}}\n"


def test_what_is_new_starts_what_is_gone_stops_and_the_rest_goes_on(env, load):
    """`apply` starts services new in the file, stops those removed from it and leaves the others running."""
    load("services:\n" + entry("one") + entry("two"))
    env.apply()
    one, two = env.task("one"), env.task("two")
    load("services:\n" + entry("one") + entry("three"))
    env.apply()
    assert env.task("one") is one
    assert one.state == "ready"
    assert two.state == "stopped"
    assert env.service("three").who() == "three"
    with pytest.raises(errors.ServiceNotFoundError):
        env.service("two")


def test_a_first_call_goes_on_with_the_version_that_replaces_one_that_still_starts(env, in_thread, until):
    """If `apply` replaces a service that still starts for its first call, the new version answers that call."""
    begun, goes_on = threading.Event(), threading.Event()

    class Slow:
        def __init__(self):
            begun.set()
            goes_on.wait(20)

        def who(self):
            return "old"

    class New:
        def who(self):
            return "new"

    env.register_service("one", Slow)
    first = in_thread(env.service("one").call, "who")
    assert begun.wait(20)
    env.register_service("one", New)
    applied = in_thread(env.apply)
    until(lambda: env.task("one").state == "ready")
    assert first.result(20) == "new"
    goes_on.set()
    applied.result(20)


@pytest.mark.parametrize(
    ("change", "whole"),
    [("init: {kwargs: {name: other}}", False), ("init: {kwargs: {name: other}}, timeout: 5", True)],
)
def test_a_handle_goes_on_with_what_changed(env, load, change, whole):
    """A handle reaches the changed service, whether its replicas or the whole service were replaced."""
    load("services:\n" + entry("one"))
    handle = env.service("one")
    assert handle.who() == "one"
    old = env.task("one")
    load(f"services:\n  one: {{class: 'applied:Echo', {change}}}\n")
    env.apply()
    assert (old.state, env.task("one") is old) == (("stopped", False) if whole else ("ready", True))
    assert handle.who() == "other"
    assert not env.plan().has_changes


def test_calls_of_the_old_one_are_finished(env, load, gate, in_thread):
    """While a service is replaced, the calls of the old one finish and new calls go to the new one."""
    load("services:\n" + entry("one"))
    running = env.service("one").submit("run", gate)
    gate.wait_entered()
    load("services:\n" + entry("one") + "defaults: {timeout: 7}\n")
    applied = in_thread(env.apply)
    while env.get_service_status("one")["deployment_config"].timeout != 7:
        assert not applied.done()
    assert env.service("one").who() == "one"
    gate.open()
    assert running.result(20) is None
    assert applied.result(20) is None


def test_a_new_one_that_does_not_start_leaves_the_old_one(env, load):
    """If the new version does not start, the old one keeps running."""
    load("services:\n" + entry("one"))
    env.apply()
    load("services:\n" + entry("one", ", fails: true"))
    with pytest.raises(errors.DeployError, match="cannot be made"):
        env.apply()
    assert env.service("one").who() == "one"
    assert env.get_service_status("one")["state"] == "ready"
    assert [each.action for each in env.plan().services] == ["change"]


def test_what_cannot_be_composed_changes_nothing(env, load):
    """If one service has an invalid configuration, `apply` changes nothing."""
    load("services:\n" + entry("one"))
    env.apply()
    load("services:\n" + entry("two") + "  three: {class: 'applied:Nobody'}\n")
    with pytest.raises(errors.ConfigError, match="E703"):
        env.apply()
    assert list(env.running()) == ["one"]
    assert env.get_service_status("one")["state"] == "ready"


def test_a_file_with_mistakes_takes_nothing_away(env, load):
    """A file with mistakes is refused and the services loaded before stay configured."""
    load("services:\n" + entry("one"))
    env.apply()
    with pytest.raises(errors.ConfigError):
        load("services:\n  one: {replicas: 0}\n")
    assert not env.plan().has_changes


def test_services_registered_in_code_stay(env, load):
    """`apply` keeps services that were registered in code when the file no longer lists any."""
    env.register_service_with_config("kv", dict, deployment_config=ServiceDeploymentConfig(timeout=3))
    load("services:\n" + entry("one"))
    env.apply()
    load("services: {}")
    env.apply()
    assert list(env.running()) == ["kv"]


def test_another_file_is_another_set_of_services(env, load, tmp_path):
    """Loading a file again replaces only the entries from that file."""
    load("services:\n" + entry("one"))
    other = tmp_path / "other.yaml"
    other.write_text("services:\n" + entry("two"))
    env.load_service_deployment_config(other)
    load("services:\n" + entry("three"))
    assert [each.name for each in env.plan().services] == ["two", "three"]


def test_a_handle_whose_service_is_gone_says_so(env, load):
    """A handle whose service is no longer configured raises ServiceNotFoundError, even if it has never called."""
    load("services:\n" + entry("one"))
    handle = env.service("one")
    load("services:\n" + entry("two"))
    with pytest.raises(errors.ServiceNotFoundError, match=r"no service 'one' .*: registered: two"):
        handle.who()


def test_a_file_that_is_loaded_while_a_class_is_imported_counts(env, load, tmp_path, monkeypatch):
    """If importing a class loads a newer file, the newer entry counts."""
    (tmp_path / "loading.py").write_text("import loader\nloader.load()\nfrom applied import Echo\n")
    both = "services:\n  one: {{class: 'loading:Echo', init: {{kwargs: {{name: {}}}}}}}\n"
    loader = SimpleNamespace(load=lambda: load(both.format("second")))
    monkeypatch.setitem(sys.modules, "loader", loader)
    load(both.format("first"))
    assert env.check() == []
    env.apply()
    assert env.service("one").who() == "second"


def test_number_and_balancer_that_were_changed_by_hand_are_set_back(env, load):
    """`apply` sets back a number of replicas and a load balancer that were changed while the service ran."""
    load("services:\n" + entry("one"))
    env.apply()
    env.scale("one", 3)
    env.set_load_balancer("one", "random")
    (change,) = json.loads(env.plan().to_json())["services"]
    assert {each["key"] for each in change["changes"]} == {"replicas", "load_balancer"}
    env.apply()
    (change,) = json.loads(env.plan().to_json())["services"]
    assert change["changes"] == []
    assert len(env.get_service_status("one")["replicas"]) == 1


def test_what_was_to_replace_is_stopped_if_that_is_interrupted(env, load, tmp_path):
    """If Ctrl-C interrupts `apply`, the new version is stopped and the old one goes on."""
    (tmp_path / "interrupting.py").write_text(INTERRUPTING)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        load("services:\n" + entry("one"))
        env.apply()
        load("services:\n  one: {class: 'interrupting:Interrupting', replicas: 2, load_balancing: true}\n")
        with pytest.raises(KeyboardInterrupt):
            env.apply()
    finally:
        signal.signal(signal.SIGINT, before)
    interrupting = sys.modules["interrupting"]
    interrupting.going_on.set()
    assert interrupting.stopped.wait(20)
    assert env.service("one").who() == "one"


def test_a_closed_environment_applies_nothing(env, load):
    """A closed environment refuses `apply`."""
    load("services:\n" + entry("one"))
    env.close()
    with pytest.raises(errors.ServiceStoppedError):
        env.apply()


# -- callers who wait for room while their service is replaced ---------------------------------------------------------


async def first_item(handle):
    async with handle.astream("stream") as items:
        return await anext(items)


VERBS = {
    "call": lambda handle: handle.call("who"),
    "submit": lambda handle: handle.submit("who").result(20),
    "acall": lambda handle: asyncio.run(handle.acall("who")),
    "stream": lambda handle: next(handle.stream("stream")),
    "astream": lambda handle: asyncio.run(first_item(handle)),
    "call from a method": lambda handle: handle.call("who"),
}


@pytest.fixture
def full(env, load, gate, in_thread, until):
    """A service whose only slot is taken and whose queue has no room. Returns a function that replaces it."""

    def fill(strategy, extra=""):
        entry = f"services:\n  one: {{class: 'applied:Echo', init: {{kwargs: {{name: NAME}}}}, queue_size: 0, {extra}"
        load(entry.replace("NAME", "old") + f"threading_strategy: {strategy}}}\n")
        in_thread(env.service("one").call, "run", gate)
        gate.wait_entered()
        router = env.task("one")._router

        def replace(parked, meanwhile=lambda: None):
            until(lambda: router.parked == parked)
            meanwhile()
            load(entry.replace("NAME", "new") + f"threading_strategy: {strategy}}}\n")
            return in_thread(env.apply)

        return replace

    return fill


WAYS = [f"{verb} {strategy}" for verb in VERBS for strategy in ("single", "inline")]


@pytest.mark.parametrize("way", WAYS)
def test_a_handle_that_was_there_before_goes_on_with_the_new_one(env, full, gate, way):
    """A handle that called the old service calls the new one after `apply`."""
    verb, strategy = way.rsplit(maxsplit=1)
    replace = full(strategy)
    handle = env.service("one")
    gate.open()
    assert handle.call("who") == "old"
    replace(parked=0).result(20)
    assert VERBS[verb](handle) == "new"


@pytest.mark.parametrize("way", WAYS)
def test_who_waits_for_room_while_its_service_is_replaced_is_served_by_the_new_one(env, full, gate, in_thread, way):
    """A call parked while its service is replaced runs on the new one. The old one finishes what it had accepted."""
    verb, strategy = way.rsplit(maxsplit=1)
    replace = full(strategy)
    caller = lambda: VERBS[verb](env.service("one"))  # noqa: E731 - one of two
    if verb == "call from a method":
        env.register_service("other", Other)
        other = env.service("other")
        caller = lambda: other.run(lambda: VERBS[verb](env.service("one")))  # noqa: E731 - as above
    waiting = in_thread(caller)
    applied = replace(parked=1)
    assert waiting.result(20) == "new"
    assert not applied.done()
    gate.open()
    assert applied.result(20) is None


@pytest.mark.parametrize("clock", [VirtualClock()], indirect=True, ids=["virtual time"])
def test_a_call_that_moves_has_the_time_that_it_had_left(env, clock, full, in_thread):
    """A call that moves to the new service keeps the deadline and the `queue_timeout` from when it was made."""
    replace = full("single", "timeout: 1000, queue_timeout: 900, ")
    made = clock.monotonic()
    waiting = in_thread(env.service("one").submit, "who")
    replace(parked=1, meanwhile=lambda: clock.advance(400))
    moved = waiting.result(20)
    assert (moved.deadline, moved.expires) == (made + 1000, made + 900)


def test_who_waits_for_room_in_a_service_that_stops_for_good_is_told_so(env, full, in_thread, until, gate):
    """A call parked in a service that stops for good ends with ServiceStoppedError."""
    full("single")
    waiting = in_thread(env.service("one").submit, "who")
    until(lambda: env.task("one")._router.parked == 1)
    stopped = in_thread(env.task("one").stop)
    with pytest.raises(errors.ServiceStoppedError, match="'one' is"):
        waiting.result(20)
    gate.open()
    stopped.result(20)


def test_a_method_that_fails_because_another_service_has_stopped_is_not_run_again(env, full, in_thread, gate):
    """A method that raises ServiceStoppedError itself is not run again, since it has run."""
    replace = full("single")
    ran = []

    def fail():
        ran.append(True)
        raise errors.ServiceStoppedError("the other one has stopped")

    waiting = in_thread(env.service("one").call, "run", fail)
    gate.open()
    with pytest.raises(errors.ServiceStoppedError, match="the other one has stopped"):
        waiting.result(20)
    replace(parked=0).result(20)
    assert ran == [True]


class Other:
    def run(self, function):
        return function()


# -- under load --------------------------------------------------------------------------------------------------------


def test_no_call_is_lost_while_one_version_follows_the_other(env, load, in_thread):
    """While versions replace each other, every call of a shared handle is answered."""
    entry = "services:\n  one: {{class: 'applied:Echo', queue_size: 0, init: {{kwargs: {{name: v{}}}}}}}\n"
    load(entry.format(0))
    handle = env.service("one")
    over = threading.Event()

    def call():
        made = 0
        while not over.is_set():
            assert handle.who().startswith("v")
            made += 1
        return made

    callers = [in_thread(call) for _ in range(8)]
    for version in range(1, 15):
        load(entry.format(version))
        env.apply()
    over.set()
    assert sum(caller.result(20) for caller in callers) > 0
    assert handle.who() == "v14"


def test_plans_can_be_made_while_files_are_loaded(env, load, in_thread):
    """Each plan made while files are loaded shows one consistent configuration."""
    over = threading.Event()

    def plan():
        while not over.is_set():
            assert [each.name for each in env.plan().services] in (["one"], ["one", "two"])
            env.check()

    load("services:\n" + entry("one"))
    planners = [in_thread(plan) for _ in range(3)]
    for _ in range(20):
        load("services:\n" + entry("one") + entry("two"))
        load("services:\n" + entry("one"))
    over.set()
    for planner in planners:
        planner.result(20)


def test_a_handle_of_a_service_that_is_gone_says_so(env, load):
    """A handle whose service was removed by `apply` raises ServiceNotFoundError."""
    load("services:\n" + entry("one"))
    handle = env.service("one")
    handle.who()
    load("services: {}\n")
    env.apply()
    with pytest.raises(errors.ServiceNotFoundError, match="no service 'one'"):
        handle.who()


def test_a_handle_whose_verb_another_thread_has_taken_away_composes_it_again(env, load):
    """A handle still works if another thread removed its cached methods meanwhile."""
    load("services:\n" + entry("one"))
    handle = env.service("one")
    handle.who()
    for verb in ("call", "submit"):
        handle.__dict__.pop(verb)
    assert handle.who() == "one"
    assert handle.submit("who").result(20) == "one"


def test_from_within_a_call_no_other_threads_change_is_waited_for(env, load, gates, in_thread):
    """
    A change made within a call is refused while another thread's change runs, since that one may wait for this call.
    """
    first = gates()
    load("services:\n" + entry("one"))
    env.apply()

    def late():
        first()
        env.apply()

    call = env.service("one").submit("run", late)
    first.wait_entered()
    load("services:\n" + entry("one") + "defaults: {timeout: 7}\n")
    applied = in_thread(env.apply)
    while env.get_service_status("one")["deployment_config"].timeout != 7:
        assert not applied.done()
    first.open()
    with pytest.raises(errors.DeployError, match="being changed by another thread"):
        call.result(20)
    assert applied.result(20) is None
