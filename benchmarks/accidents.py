"""
Services on Ray under accidents: `clog` (processes freeze), `nodes` (nodes die), `head` (the cluster's head dies).

Each accident is a subcommand of this program. It prints its findings next to the goals. Everything runs on this machine
and ends with the program. The tests use the same cluster.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import Counter
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from private_ray import private_ray
from workloads import Callers

from sage_deploy_testing.chaos.actions import ACTIONS, World
from sage_deploy_testing.chaos.probe import Probe
from sage_deploy_testing.chaos.run_log import RunLog, machine
from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from workloads import Note

_REPLICAS, _SLOTS = 4, 2
#: Seconds that a method takes. It waits, so that the processors do not limit the throughput.
_TAKES_S = 0.05
#: The settings that docs/guides/ray-cluster.md advises for fast detection of dead nodes.
_ADVISED = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}
_PAUSE: Final = threading.Event()
#: Seconds of each wait of a thread that measures how late this machine wakes threads.
_TICK_S = 0.05


class _Service:
    """
    A service on Ray whose calls are recorded.

    Attributes:
        env: Its environment.
        run_log: Records which calls ran, and where.
        told: Events of the environment: time by `time.perf_counter`, kind, and replica.
    """

    def __init__(self, stack: ExitStack, folder: Path, **config: Any) -> None:
        self.run_log = RunLog(folder / "calls")
        self.told: list[tuple[float, str, str]] = []
        self.env = stack.enter_context(Environment("accidents", on_event=self._note))
        settings = ServiceDeploymentConfig(
            target="remote_any",
            cpu_cores=0.1,
            replicas=_REPLICAS,
            load_balancing=True,
            failover_enabled=True,
            threading_strategy="pool",
            thread_count=_SLOTS,
            thread_pool_size=_SLOTS,
            **config,
        )
        arguments = (self.run_log.path, self.run_log.token, (machine(), os.getpid()))
        self.env.register_service_with_config("svc", Probe, *arguments, deployment_config=settings)
        self.env.deploy()
        # Even numbers are idempotent calls, so the number tells the kind.
        self._numbers = {"idempotent": count(0, 2), "other": count(1, 2)}

    def _note(self, event: Any) -> None:
        self.told.append((time.perf_counter(), event.kind, event.replica or ""))

    @property
    def places(self) -> dict[str, str]:
        """The node of each replica, by replica ID."""
        return {each["id"]: each["node"] for each in self.env.get_service_status("svc")["replicas"]}

    @property
    def is_whole(self) -> bool:
        """Whether all replicas get calls."""
        return [each["state"] for each in self.env.overview()["svc"]["replicas"]] == ["ready"] * _REPLICAS

    def callers(self, *, threads: int, every: float = 0.0) -> Callers:
        """Start threads that make calls, half of them idempotent."""
        kinds = {"idempotent": True, "other": False}
        handles = {kind: self.env.service("svc").with_options(idempotent=may) for kind, may in kinds.items()}

        def call_of(kind: str) -> Callable[[], Any]:
            return lambda: handles[kind].call("work", next(self._numbers[kind]), _TAKES_S)

        return Callers([(kind, call_of(kind)) for _ in range(threads // 2) for kind in kinds], every)

    def report(self, notes: Sequence[Note], timeout: float) -> None:
        """Print the results of the calls, and how long after their deadline they ended."""
        for kind in ("idempotent", "other"):
            of_kind = [each for each in notes if each.kind == kind]
            failed = Counter(each.error for each in of_kind if each.error)
            share = 100 * (1 - failed.total() / len(of_kind))
            print(f"  {kind}: {len(of_kind)} calls, {share:.3f} % answered, others: {dict(failed)}")
        late = sorted(1e3 * (each.ended - each.began - timeout) for each in notes)
        reached = len(late) - bisect_left(late, 0.0)
        print(f"  deadline reached by {reached} calls; the latest ended {late[-1]:.0f} ms after it (goal <= 100)")
        if reached:
            worst = late[-reached:]
            most = worst[math.ceil(0.99 * reached) - 1]
            print(f"  99 % of these within {most:.0f} ms of it, half within {worst[reached // 2]:.0f}")
        print(f"  99.9 % of all calls within {late[math.ceil(0.999 * len(late)) - 1]:.0f} ms of their deadline")
        ran = Counter(each.call for each in self.run_log.ran())
        twice = Counter(number % 2 for number, times in ran.items() if times > 1)
        print(f"  run more than once: {twice[0]} idempotent calls, and {twice[1]} others (goal 0)")


class _Ticks:
    """
    Threads that only wait, in this process and in another one. Their delays come from the machine, not from our code.

    Attributes:
        here: For each wait in this process: when it ended, and how many seconds too late.
        elsewhere: The same for the other process.
    """

    _SOURCE = "import sys, time; [print(time.perf_counter(), flush=True) for _ in iter(lambda: time.sleep(0.05), 1)]"

    def __init__(self, stack: ExitStack) -> None:
        self.here: list[tuple[float, float]] = []
        self.elsewhere: list[tuple[float, float]] = []
        self._over = threading.Event()
        other = subprocess.Popen([sys.executable, "-c", self._SOURCE], stdout=subprocess.PIPE, text=True)
        stack.callback(other.communicate)
        stack.callback(other.kill)
        stack.callback(self._over.set)
        threading.Thread(target=self._wait, daemon=True).start()
        threading.Thread(target=self._read, args=(other.stdout,), daemon=True).start()

    def _wait(self) -> None:
        while not self._over.is_set():
            began = time.perf_counter()
            self._over.wait(_TICK_S)
            ended = time.perf_counter()
            self.here.append((ended, ended - began - _TICK_S))

    def _read(self, lines: Any) -> None:
        last = None
        for line in lines:
            ended = float(line)
            if last is not None:
                self.elsewhere.append((ended, ended - last - _TICK_S))
            last = ended

    def report(self) -> None:
        """Print the delays."""
        for place, ticks in (("in this process", self.here), ("in another process", self.elsewhere)):
            late = sorted(1e3 * each for _, each in ticks)
            most = late[math.ceil(0.999 * len(late)) - 1]
            print(f"  a thread {place} that only waits goes on up to {late[-1]:.0f} ms too late, 99.9 % {most:.0f}")


# -- processes that freeze ---------------------------------------------------------------------------------------------

_CALLERS, _DEADLINE_S = 16, 1.0
#: Number of calls that are shown one by one.
_SHOWN = 5
#: Seconds before each round of freezes that give the normal rate, and the shortest period for a rate.
_BEFORE_S, _WINDOW_S = 3.0, 1.0
_BACK_S, _STEP_S = 5.0, 0.1


def clog(stack: ExitStack, folder: Path, asked: argparse.Namespace) -> None:
    """Freeze some replicas' processes one after the other, thaw them in another order, and repeat."""
    stack.enter_context(private_ray(8))
    service = _Service(stack, folder, timeout=_DEADLINE_S)
    world = World(service.env, {}, None, service.run_log, None, _PAUSE)  # type: ignore[arg-type] - all that `stop` takes
    drawn = random.Random(asked.seed)  # noqa: S311 - not for secrets
    rounds: list[tuple[float, float]] = []
    shams: list[tuple[float, float]] = []
    ticks = _Ticks(stack)
    callers = service.callers(threads=_CALLERS)
    until = time.monotonic() + 60 * asked.minutes
    while time.monotonic() < until:
        _PAUSE.wait(_BACK_S + _BEFORE_S)
        stopped = time.perf_counter()
        if len(rounds) == len(shams):
            assert ACTIONS["stop"].do(world, "svc", drawn) is not None
            rounds.append((stopped, time.perf_counter()))
        else:  # the same time without a freeze shows what other work on this machine does to the rate
            _PAUSE.wait(rounds[-1][1] - rounds[-1][0])
            shams.append((stopped, time.perf_counter()))
    _PAUSE.wait(_BACK_S)
    callers.end()
    print(f"  {len(rounds)} times processes of {_REPLICAS} replicas stood still")
    service.report(callers.notes, _DEADLINE_S)
    ticks.report()
    _show_latest(callers.notes, rounds, ticks)
    answered = sorted(each.ended for each in callers.notes if not each.error)
    rate = statistics.median(rate_of(answered, stopped - _BEFORE_S, stopped) for stopped, _ in rounds)
    print(f"  before: {rate:.0f} answers a second, of {_REPLICAS * _SLOTS / _TAKES_S:.0f} that can be")
    for what, found in (("stops", rounds), ("times when nothing happened", shams)):
        took = [back_after(answered, *each) for each in found]
        inside = [each for each in took if each is not None]
        print(f"  95 % of the rate before, within {_BACK_S:g} s: after {len(inside)} of {len(took)} {what}")
        if inside:
            print(f"  after {statistics.median(inside):.1f} s in the median, {max(inside):.1f} at most")


def _show_latest(notes: Sequence[Note], rounds: Sequence[tuple[float, float]], ticks: _Ticks) -> None:
    """Print when the latest calls ended, and how late the machine woke threads meanwhile."""
    for each in sorted(notes, key=lambda note: note.began - note.ended)[:_SHOWN]:
        deadline = each.began + _DEADLINE_S
        stop = max((begin for begin, _ in rounds if begin <= each.ended), default=math.nan)
        slow = [
            1e3 * max((late for at, late in found if deadline <= at <= each.ended + 1), default=0.0)
            for found in (ticks.here, ticks.elsewhere)
        ]
        made, ended = each.began - stop, each.ended - stop
        print(
            f"  late by {1e3 * (each.ended - deadline):.0f} ms ({each.error or 'answered'}): made {made:.1f} s "
            f"and ended {ended:.1f} s after a stop; waiting threads {slow[0]:.0f} and {slow[1]:.0f} ms late"
        )


def rate_of(answered: Sequence[float], begin: float, end: float) -> float:
    """Return the replies a second from *begin* to *end*. *answered* has the sorted times of all replies."""
    return (bisect_left(answered, end) - bisect_left(answered, begin)) / (end - begin)


def back_after(answered: Sequence[float], stopped: float, went_on: float) -> float | None:
    """
    Return how long a service took to recover.

    Args:
        answered: Sorted times of all replies.
        stopped: When the first process froze.
        went_on: When the last process thawed.

    Returns:
        Seconds from *went_on* to the end of the first second with 95 % of the normal rate, which is the rate before
        *stopped*. None if it takes more than five seconds.
    """
    wanted = 0.95 * rate_of(answered, stopped - _BEFORE_S, stopped)
    for step in range(1 + round((_BACK_S - _WINDOW_S) / _STEP_S)):
        begin = went_on + step * _STEP_S
        if rate_of(answered, begin, begin + _WINDOW_S) >= wanted:
            return begin + _WINDOW_S - went_on
    return None


# -- nodes that die ----------------------------------------------------------------------------------------------------

_LONG_S = 10.0
_ENDS = frozenset({"replica_failed", "replica_unhealthy"})


def nodes(stack: ExitStack, folder: Path, asked: argparse.Namespace) -> None:
    """Kill a node and replace it, again and again. At the end, freeze some nodes instead."""
    from ray_cluster import RayCluster

    cluster = RayCluster(folder, {} if asked.defaults else _ADVISED)
    stack.callback(cluster.close)
    cluster.add("node-4")
    service = _Service(stack, folder, timeout=_LONG_S, **({"outlier": {}} if asked.defaults else {}))
    drawn = random.Random(asked.seed)  # noqa: S311 - not for secrets
    for what, times in (("kill", round(60 * asked.minutes / asked.every)), ("freeze", asked.freezes)):
        if not times:
            continue
        callers = service.callers(threads=8, every=0.04)
        _PAUSE.wait(2.0)
        noticed, whole, after_5 = [], [], []
        for number in range(times):
            began = time.perf_counter()
            places = service.places
            node = drawn.choice([cluster.nodes[name] for name in sorted(set(places.values()))])
            there = {id for id, name in places.items() if name == node.name}
            hit = time.perf_counter()
            if what == "kill":
                node.kill()
            else:
                _freeze(node)
            noticed.append(_when(lambda: _noticed(service, there, hit)) - hit)  # noqa: B023 - called here
            if what == "freeze":
                node.kill()
            cluster.add(f"node-{what}-{number}")
            _when(lambda: service.is_whole)
            whole.append(time.perf_counter() - hit)
            _PAUSE.wait(max(0.0, began + asked.every - time.perf_counter()))
            after_5.append((hit + _BACK_S, began + asked.every))
        callers.end()
        goal = {"kill": 2, "freeze": 5}[what]
        print(f"{what}: {times} nodes of {len(cluster.nodes)}, one every {asked.every:g} s")
        print(f"  noticed after {_spread(noticed)} s (goal <= {goal}); all replicas back after {_spread(whole)} s")
        service.report(callers.notes, _LONG_S)
        later = [each for each in callers.notes if any(begin <= each.began <= end for begin, end in after_5)]
        good = sum(not each.error for each in later if each.kind == "idempotent")
        of = sum(each.kind == "idempotent" for each in later)
        print(f"  idempotent calls made more than 5 s after a node's end: {100 * good / max(1, of):.3f} % answered")


def _freeze(node: Any) -> None:
    """Stop a node's raylet and workers with SIGSTOP."""
    import signal

    for pid in [node.raylet, *node.children]:
        os.kill(pid, signal.SIGSTOP)


def _noticed(service: _Service, there: set[str], hit: float) -> float | None:
    """Return when an event told of the end of one of the replicas *there*, or None."""
    return next(
        (at for at, kind, id in list(service.told) if at > hit and kind in _ENDS and id in there),
        None,
    )


def _when(is_so: Callable[[], Any], patience: float = 120.0) -> float:
    """Wait until *is_so* returns something true, and return it."""
    until = time.monotonic() + patience
    while not (found := is_so()):
        assert time.monotonic() < until, "it took too long"
        _PAUSE.wait(0.02)
    return float(found)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} [{min(values):.1f} .. {max(values):.1f}]"


# -- the head ----------------------------------------------------------------------------------------------------------

_WITHOUT_S = 40.0
_BACK_AGAIN_S = 90.0
#: Seconds that processes have to end, and maximum length of a shown error.
_ENDED_S, _SAID = 30.0, 600


def head(stack: ExitStack, folder: Path, asked: argparse.Namespace) -> None:
    """Let the head die, stay away for a while, and start again at the same address."""
    from driver import OPTIONS, Driver
    from own_head import OwnHead

    variables = {"RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
    if asked.memory:
        variables |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "head")}
    os.environ |= variables
    cluster = stack.enter_context(OwnHead(folder, **variables))
    driver = _start(Driver(cluster.address, folder / "calls", control_timeout=2), stack)
    assert "answer" in driver.do("call", "run", 0)
    numbers = count(1)

    cluster.lose()
    refused = driver.do("scale", OPTIONS["replicas"] + 1)
    print(f"  without a head, `scale` ended after {refused['seconds']:.1f} s (goal <= 5): {refused.get('error')}")
    told = []
    until = time.monotonic() + asked.without
    while time.monotonic() < until:
        told.append(driver.do("call", "run", next(numbers)))
        _PAUSE.wait(0.05)
    failed = Counter(each["error"] for each in told if "error" in each)
    slowest = max(each["seconds"] for each in told)
    print(f"  {len(told)} calls in {asked.without:g} s without a head: failed {dict(failed)}, slowest {slowest:.2f} s")

    again = time.monotonic()
    if asked.memory:
        cluster.start_again()
    else:  # as `ray start --head`: a new cluster at the same address
        cluster.__exit__(None, None, None)
        again = time.monotonic()
        cluster = stack.enter_context(OwnHead(folder, int(cluster.address.rpartition(":")[2]), **variables))
    wanted = OPTIONS["replicas"] + 1
    said = _bring_back(driver, wanted, again)
    print(f"  the head started again, {'with' if asked.memory else 'without'} what it knew: {said}")
    if driver.poll() is not None:
        # A supervisor would do this. The new program finds another cluster, or none.
        following = _start(Driver(cluster.address, folder / "calls", control_timeout=30), stack)
        print(f"  the program was started again: {_bring_back(following, wanted, again)}")
    _print_processes(folder, wanted)


def _start(driver: Any, stack: ExitStack) -> Any:
    """Make a driver end with the stack."""
    stack.callback(driver.communicate)
    stack.callback(driver.kill)
    return driver


def _bring_back(driver: Any, replicas: int, again: float) -> str:
    """Ask for another replica until it is there or the program has ended."""
    said = "nothing"
    while time.monotonic() < again + _BACK_AGAIN_S:
        try:
            answer = driver.do("scale", replicas)
            states = [each["state"] for each in driver.do("status")["answer"]]
        except AssertionError as error:
            return f"the program ended after {time.monotonic() - again:.1f} s: {str(error)[:_SAID]}"
        said = f"{answer.get('error')} {answer.get('text', '')[:_SAID]}, {states}"
        if "answer" in answer and states == ["ready"] * replicas:
            return f"all replicas and one more after {time.monotonic() - again:.1f} s (goal <= 30)"
        _PAUSE.wait(0.2)
    return f"not back within {_BACK_AGAIN_S:g} s: {said}"


def _print_processes(folder: Path, wanted: int) -> None:
    """Print the number of replica processes, and wait until the surplus ones have ended."""
    began = time.monotonic()
    first = found = _processes(folder)
    while found != wanted and time.monotonic() < began + _ENDED_S:
        _PAUSE.wait(0.2)
        found = _processes(folder)
    after = time.monotonic() - began
    print(f"  processes of replicas: {first} at once, {found} after {after:.1f} s (goal {wanted}: one set)")


def _processes(folder: Path) -> int:
    """Return how many replicas run in clusters of this folder."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        found += title.startswith(b"ray::ReplicaActor") and str(folder).encode() in variables
    return found


_PARTS: Final[Mapping[str, Callable[[ExitStack, Path, argparse.Namespace], None]]] = {
    each.__name__: each for each in (clog, nodes, head)
}


def main() -> None:
    """Run one kind of accident and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, part in _PARTS.items():
        sub = parts.add_parser(name, help=part.__doc__, description=part.__doc__)
        if name in {"clog", "nodes"}:
            sub.add_argument("--minutes", type=float, default=10.0, help="default: %(default)g")
            sub.add_argument("--seed", type=int, default=1, help="default: %(default)s")
        if name == "nodes":
            sub.add_argument(
                "--every", type=float, default=60.0, help="seconds from node to node; default: %(default)g"
            )
            sub.add_argument(
                "--freezes", type=int, default=3, help="nodes that stand still at the end; default: %(default)s"
            )
            sub.add_argument("--defaults", action="store_true", help="Ray's own health settings, and `outlier`")
        if name == "head":
            sub.add_argument(
                "--without", type=float, default=_WITHOUT_S, help="seconds without a head; default: %(default)g"
            )
            sub.add_argument("--memory", action="store_true", help="the head keeps what it knows in a file")
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))  # for its clusters
    # Ray reads these on import. With its own folder it finds no other cluster; the path is short because of sockets.
    folder = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}
    os.environ.pop("RAY_ADDRESS", None)
    logging.getLogger("sage_plugins.ray").setLevel(logging.ERROR)  # the private runtime needs no token
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _PARTS[asked.part](stack, folder, asked)
    print(f"  load average {load:.0f} at the start, {os.getloadavg()[0]:.0f} at the end")


if __name__ == "__main__":
    main()
