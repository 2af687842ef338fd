"""What the first-party monitors report beyond the suite for all monitors."""

from __future__ import annotations

import gc
import math
import os
import pickle
import random
import sys
import threading
import time

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_deploy_monitors import metrics as metrics_module
from sage_deploy_monitors.events import Events
from sage_deploy_monitors.metrics import EDGES_S, MOST_PAIRS, Metrics, MetricsRecorder
from sage_deploy_monitors.options import EventsOptions
from sage_deploy_monitors.process_usage import ProcessUsage
from sage_plugins import errors
from sage_plugins.metrics import HISTOGRAM_EDGES_S, MethodMetrics, ServiceMetrics
from sage_plugins.values import Event, Outcome, ReplicaInfo

PATIENCE = 20.0
REPLICA = ReplicaInfo("kv", "kv#0")
CALLER = ReplicaInfo("kv", None)


def summarised(*calls, who=REPLICA, methods=("get", "put")):
    """Return the summary of `Metrics` for calls `(method, outcome, wait_s, run_s)`."""
    metrics = Metrics()
    recorder = metrics.recorder(who, methods)
    record = recorder.writer()
    for call in calls:
        record(*call)
    return metrics.summary([recorder.snapshot()])


# -- metrics: durations ------------------------------------------------------------------------------------------------


@pytest.fixture(params=[MOST_PAIRS, 2], ids=["pairs", "folded"])
def most_pairs(request):
    """The normal limit, and one so low that most tests fold calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_module, "MOST_PAIRS", request.param)
        yield request.param


ANY_PAIRS = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the same fixture value for all examples


@pytest.mark.usefixtures("most_pairs")
def test_queue_and_run_have_percentiles_of_their_own():
    """Queue and run times have their own percentiles, each within a fifth of the true value and at most the maximum."""
    calls = [(0, Outcome.OK, wait_ms / 1e3, 0.5) for wait_ms in range(1, 101)]
    found = summarised(*calls)
    for name, exact in (("queue_p50", 0.050), ("queue_p95", 0.095), ("queue_p99", 0.099)):
        assert exact / 1.2 <= found[name] <= min(1.2 * exact, 0.1)
    for name in ("run_p50", "run_p95", "run_p99"):
        assert found[name] == pytest.approx(0.5)
    for name, exact in (("p50", 0.550), ("p95", 0.595), ("p99", 0.599)):
        assert exact / 1.2 <= found[name] <= min(1.2 * exact, 0.6)
    assert found["avg_queue_time"] == pytest.approx(0.0505)
    assert found["avg_run_time"] == pytest.approx(0.5)
    assert found["avg_response_time"] == pytest.approx(0.5505)


@pytest.mark.parametrize("share", ["p50", "p95", "p99"])
@pytest.mark.usefixtures("most_pairs")
@ANY_PAIRS
@given(
    calls=st.lists(
        st.tuples(st.floats(min_value=0, max_value=1e4), st.floats(min_value=1e-9, max_value=1e4), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_percentiles_lie_within_what_was_measured(share, calls):
    """Each percentile lies between the shortest and the longest duration."""
    replica, caller = [], []
    for wait, run, given_up in calls:
        (caller if given_up else replica).append((0, Outcome.TIMEOUT if given_up else Outcome.OK, wait, run))
    metrics = Metrics()
    snapshots = []
    for who, recorded in ((REPLICA, replica), (CALLER, caller)):
        recorder = metrics.recorder(who, ("get",))
        record = recorder.writer()
        for call in recorded:
            record(*call)
        snapshots.append(recorder.snapshot())
    found = metrics.summary(snapshots)
    durations = {
        "": [wait + run for _, _, wait, run in replica] + [run for *_, run in caller],
        "queue_": [wait for _, _, wait, _ in replica],
        "run_": [run for *_, run in replica],
    }
    for prefix, each in durations.items():
        value = found[prefix + share]
        low, high = min(each, default=0.0), max(each, default=0.0)
        assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@pytest.mark.usefixtures("most_pairs")
@ANY_PAIRS
@given(
    calls=st.lists(
        st.tuples(st.floats(min_value=0, max_value=100), st.floats(min_value=1e-9, max_value=100)),
        min_size=1,
        max_size=30,
    )
)
def test_histograms_have_every_call_and_none_in_a_bucket_that_is_too_fast(calls):
    """A histogram counts every call, and none in a bucket that was too fast for it. It is at most a fifth off."""
    found = summarised(*((0, Outcome.OK, wait, run) for wait, run in calls))
    durations = {
        "duration": [wait + run for wait, run in calls],
        "queue": [wait for wait, _ in calls],
        "run": [run for _, run in calls],
    }
    for name, each in durations.items():
        histogram = found["histograms"][name]
        assert sum(histogram["buckets"].values()) == found["request_count"]
        assert set(histogram["buckets"]) <= {*HISTOGRAM_EDGES_S, math.inf}
        assert histogram["sum"] == pytest.approx(sum(each), abs=1e-6)
        for edge in HISTOGRAM_EDGES_S:
            counted = sum(number for upper, number in histogram["buckets"].items() if upper <= edge)
            fast = sum(duration <= (edge - 2e-6) / 1.2 for duration in each)
            assert fast <= counted <= sum(duration <= edge * (1 + 1e-9) for duration in each)


def test_memory_of_the_counts_does_not_grow_with_the_time_that_a_service_runs():
    """The memory for counts does not grow with the number of calls; totals and sums stay exact."""
    recorder = MetricsRecorder(REPLICA, ("get",), None)
    drawn = random.Random(1)  # noqa: S311 - no secret
    record = recorder.writer()
    runs = []
    for _ in range(20_000):
        runs.append(drawn.lognormvariate(-6, 2))
        record(0, drawn.choice([Outcome.OK, Outcome.ERROR]), drawn.lognormvariate(-8, 3), runs[-1])
    ((cells,),) = recorder._live.values()
    assert len(cells.pairs) <= MOST_PAIRS
    assert sum(map(len, cells.folded)) < 1_000
    assert recorder.counts()["request_count"] == 20_000
    assert cells.sums[metrics_module._RUN] == pytest.approx(sum(runs))
    exact = sorted(runs)[10_000]
    metrics = Metrics()
    metrics.recorder(REPLICA, ("get",))
    assert exact / 1.25 <= metrics.summary([recorder.snapshot()])["run_p50"] <= exact * 1.25


def test_no_bucket_of_a_scrape_falls_when_calls_are_folded(monkeypatch):
    """No bucket decreases when calls are folded, since a reader takes that for a restart."""
    metrics = Metrics()
    drawn = random.Random(2)  # noqa: S311 - no secret
    recorder = metrics.recorder(REPLICA, ("get",))
    record = recorder.writer()
    for _ in range(500):
        record(0, Outcome.OK, drawn.lognormvariate(-8, 2), drawn.lognormvariate(-6, 2))
    before = {family.name: family.values for family in metrics.families([recorder.snapshot()])}
    monkeypatch.setattr(metrics_module, "MOST_PAIRS", 1)
    record(0, Outcome.OK, 1e3, 1e3)
    ((cells,),) = recorder._live.values()
    assert len(cells.pairs) == 1
    after = {family.name: family.values for family in metrics.families([recorder.snapshot()])}
    for name in ("sage_request_duration_seconds", "sage_queue_wait_seconds"):
        ((_, *old),), ((_, *new),) = before[name].values(), after[name].values()
        assert [more - less for more, less in zip(new, old, strict=True)] == [0] * (len(old) - 1) + [1]


def test_durations_beyond_the_edges_are_counted():
    """Durations beyond the smallest and largest bucket are counted too."""
    found = summarised((0, Outcome.OK, 0.0, 0.0), (0, Outcome.OK, 1e9, 1e9))
    assert found["request_count"] == 2
    assert found["p50"] == 2 * EDGES_S[0]
    assert 2 * EDGES_S[-1] <= found["p99"] <= 2e9


def test_call_given_up_while_it_ran_has_no_known_wait():
    """A call abandoned while it ran counts in the response time, but in neither queue nor run time."""
    found = summarised((0, Outcome.TIMEOUT, 0.0, 2.0), who=CALLER)
    assert (found["request_count"], found["error_count"], found["outcomes"]) == (1, 1, {"timeout": 1})
    assert (found["avg_response_time"], found["avg_queue_time"], found["avg_run_time"]) == (2.0, 0.0, 0.0)
    assert found["p50"] == 2.0
    assert (found["queue_p99"], found["run_p99"]) == (0.0, 0.0)


def test_call_given_up_in_the_queue_has_waited_and_not_run():
    """A call cancelled in the queue counts as waiting, not as running."""
    found = summarised((0, Outcome.CANCELLED, 2.0, 0.0), who=CALLER)
    assert (found["avg_response_time"], found["avg_queue_time"], found["avg_run_time"]) == (2.0, 2.0, 0.0)
    assert found["queue_p50"] == 2.0
    assert found["run_p99"] == 0.0


def test_abandoned_calls_do_not_raise_the_mean_queue_time(deploy, threaded, gate):
    """Calls that time out while they run do not raise the mean queue time."""
    service = deploy(threaded)
    with pytest.raises(errors.CallTimeoutError, match="may still be running"):
        service.handle.with_options(timeout=0.2).call("run", gate)
    gate.open()
    metrics = service.metrics
    assert metrics.avg_response_time >= 0.2
    assert (metrics.avg_queue_time, metrics.avg_run_time) == (0.0, 0.0)


# -- metrics: methods, merging, memory ---------------------------------------------------------------------------------


def test_methods_have_numbers_of_their_own(deploy, strategy):
    """Each method has the same counts as the service, refused calls included."""
    service = deploy(strategy)
    for _ in range(3):
        service.handle.echo()
    with pytest.raises(ZeroDivisionError):
        service.handle.call("run", lambda: 1 / 0)
    service.env.close()
    with pytest.raises(errors.ServiceStoppedError):
        service.handle.echo()
    metrics = service.metrics
    echo, run, unused = (metrics.methods[name] for name in ("echo", "run", "given"))
    assert (echo.request_count, echo.error_count, echo.rejected_count) == (3, 0, 1)
    assert echo.rejections == metrics.rejections == {"stopped": 1}
    assert (run.request_count, run.error_count, dict(run.outcomes)) == (1, 1, {"error": 1})
    assert echo.p99 >= echo.run_p50 > 0
    assert unused == MethodMetrics()
    assert metrics.request_count == sum(each.request_count for each in metrics.methods.values())
    assert metrics.rejected_count == sum(each.rejected_count for each in metrics.methods.values())


def test_service_metrics_have_every_field_of_a_method():
    """ServiceMetrics has every field of MethodMetrics."""
    fields = [field.name for field in attrs.fields(MethodMetrics)]
    assert set(summarised()) == {*fields, "methods", "cpu_usage", "memory_usage"}
    assert set(fields) < {field.name for field in attrs.fields(ServiceMetrics)}


def test_snapshots_travel_and_merge():
    """Snapshots can be pickled, and merging them in any grouping gives the same summary."""
    metrics = Metrics()
    snapshots = []
    for number in range(3):
        recorder = metrics.recorder(ReplicaInfo("kv", f"kv#{number}"), ("get", "put"))
        record = recorder.writer()
        for _ in range(number + 1):
            record(number % 2, number, 0.25 * number, 0.5)
        snapshots.append(pickle.loads(pickle.dumps(recorder.snapshot())))  # noqa: S301 - made here
    counted = {**metrics.summary(snapshots), "cpu_usage": 0, "memory_usage": 0}
    assert metrics.summary([metrics.merge(snapshots)]) == counted
    assert metrics.summary([metrics.merge(snapshots[:2]), metrics.merge(snapshots[2:])]) == counted
    assert counted["request_count"] == 6


def test_counts_of_ended_workers_stay_and_their_cells_go():
    """Counts of ended workers are kept, in memory that does not grow."""
    recorder = MetricsRecorder(REPLICA, ("get",), None)
    kept = recorder.writer()
    for _ in range(100):
        record = recorder.writer()
        record(0, Outcome.OK, 0.0, 0.001)
        kept(0, Outcome.OK, 0.0, 0.001)
    del record
    gc.collect()
    assert sum(recorder.snapshot()["methods"]["get"].pairs.values()) == 200
    assert len(recorder._live) == 1


def test_snapshot_while_workers_count_loses_nothing():
    """Snapshots taken while workers count are consistent, and the last one has every call."""
    recorder = MetricsRecorder(REPLICA, ("get",), None)
    start = threading.Barrier(5)

    def work():
        record = recorder.writer()
        start.wait(PATIENCE)
        for number in range(5000):
            record(0, Outcome.OK, 1e-6 * (number % 500), 1e-4)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait(PATIENCE)
    seen = 0
    while any(thread.is_alive() for thread in threads):
        methods = recorder.snapshot()["methods"]
        count = sum(methods["get"].pairs.values()) if methods else 0
        assert count >= seen
        seen = count
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(recorder.snapshot()["methods"]["get"].pairs.values()) == 20_000


# -- metrics: the process ----------------------------------------------------------------------------------------------


def test_memory_is_the_resident_set_of_the_process(deploy):
    """Memory is the resident set of the process, counted once for all replicas in it."""
    import psutil

    service = deploy("single", replicas=3, load_balancing=True)
    whole = psutil.Process().memory_info().rss
    assert 0.5 * whole < service.metrics.memory_usage < 1.5 * whole


def test_processor_time_is_measured_over_the_time_since_a_reading():
    """Processor time is measured since an earlier reading. A reading soon after another one does not disturb it."""
    usage = ProcessUsage()
    clock = usage._before
    until = clock.cpu_s + 0.1
    while time.process_time() < until:
        pass
    elapsed = time.monotonic() - clock.at
    for _ in range(2):
        found = usage.read()["cpu_percent"]
        assert 0 < found <= 100 * os.cpu_count()
        assert found >= 0.5 * 100 * 0.1 / elapsed
    assert usage._before is clock, "the window is not shortened by a reading that follows at once"


def test_psutil_is_imported_by_the_first_reading_only(program):
    """psutil is imported when the metrics are first read."""
    import subprocess

    source = """
        import sys
        from sage_plugins import Environment
        class Echo:
            def echo(self): ...
        with Environment() as env:
            env.register_service("echo", Echo)
            env.service("echo").echo()
            print("psutil" in sys.modules)
            print(env.get_service_status("echo")["metrics"].memory_usage > 0)
            print("psutil" in sys.modules)
        """
    done = subprocess.run(program(source), capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True", "True"]


# -- events ------------------------------------------------------------------------------------------------------------


def told(number, size=1000):
    events = Events(EventsOptions(size))
    for turn in range(number):
        events.event(Event("kv", "turn", f"turn {turn}", "kv#0"))
    return events


def test_events_are_numbered_and_dated():
    """Each event has the next number and the wall clock's time."""
    before = time.time()
    latest = told(3).summary([])["latest"]
    assert [event["number"] for event in latest] == [1, 2, 3]
    assert [event["reason"] for event in latest] == ["turn 0", "turn 1", "turn 2"]
    assert before <= latest[0]["time"] <= latest[2]["time"] <= time.time()
    assert list(latest[0]) == ["number", "time", "kind", "reason", "replica"]


def test_oldest_events_are_dropped_and_counted():
    """Beyond `size` the oldest events are dropped and counted."""
    summary = told(10, size=4).summary([])
    assert [event["number"] for event in summary["latest"]] == [7, 8, 9, 10]
    assert summary["dropped"] == 6
    assert sum(summary["counts"].values()) == 10


def test_events_from_many_threads_are_all_counted():
    """Events from many threads get consecutive numbers."""
    events = Events(EventsOptions(5000))
    start = threading.Barrier(8)

    def tell():
        start.wait(PATIENCE)
        for _ in range(500):
            events.event(Event("kv", "turn", ""))

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [event["number"] for event in events.summary([])["latest"]] == list(range(1, 4001))


def test_status_shows_the_events_of_the_service(deploy, strategy):
    """The status shows the service's events with replica and reason, also after it has stopped."""
    service = deploy(strategy, monitors=["events"], replicas=2, load_balancing=True)
    reported = service.env.get_service_status("svc")["monitors"]["events"]
    assert sorted((event["kind"], event["replica"]) for event in reported["latest"]) == [
        (f"replica_{state}", f"svc#{index}") for state in ("ready", "starting") for index in (0, 1)
    ]
    service.env.close()
    reported = service.env.get_service_status("svc")["monitors"]["events"]
    assert [event["kind"] for event in reported["latest"][-2:]] == ["replica_stopped"] * 2
    assert reported["dropped"] == 0


def test_failed_constructor_is_an_event_with_its_reason(env):
    """The event of a failed replica has its constructor's error."""
    from sage_plugins import ServiceDeploymentConfig

    class Failing:
        def __init__(self):
            raise ValueError("no such file: model.bin")

    env.register_service_with_config(
        "svc", Failing, deployment_config=ServiceDeploymentConfig(monitors=["events"], startup_timeout=PATIENCE)
    )
    task = env.task("svc")
    with pytest.raises(errors.DeployError):
        env.deploy()
    (failed,) = [event for event in task.status()["monitors"]["events"]["latest"] if event["kind"] == "replica_failed"]
    assert "no such file: model.bin" in failed["reason"]


def test_refused_calls_are_counted_and_no_events(deploy, threaded, occupy):
    """Refused calls are counted, but make no events."""
    service = deploy(threaded, monitors=["events"], options={"events": {"size": 5}}, queue_size=0, overload="reject")
    gate = occupy(service)
    before = service.env.get_service_status("svc")["monitors"]["events"]
    for _ in range(1000):
        with pytest.raises(errors.OverloadedError):
            service.handle.echo()
    after = service.env.get_service_status("svc")["monitors"]["events"]
    gate.open()
    assert after == before | {"refused": {"overloaded": 1000}}


def test_events_can_be_read_by_a_signal_handler_that_interrupts_one():
    """A signal handler can read the events while the interrupted thread holds their lock."""
    events = Events(EventsOptions(10))
    with events._lock:
        events.event(Event("kv", "inside", ""))
        assert len(events.summary([])["latest"]) == 1


@pytest.mark.parametrize("size", [0, -1, True, "many"])
def test_size_of_the_ring_is_checked(deploy, size):
    """A wrong `size` is refused."""
    with pytest.raises((errors.PlanError, errors.ConfigError), match=r"options\.events\.size"):
        deploy("single", monitors=["events"], options={"events": {"size": size}})


def test_monitors_module_stays_light():
    """Loading the plugin imports neither psutil nor the monitors."""
    import subprocess

    code = (
        "import sage_deploy_monitors as m, sys;"
        " print(*[n for n in sys.modules if n.startswith(('psutil', m.__name__))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sage_deploy_monitors"]
