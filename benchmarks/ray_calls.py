"""
Replicas on Ray against plain Ray actors and against Ray Serve, on a private runtime of one node.

`--only sequential pipelined ...` measures some parts. Parts are the functions named in `_PARTS`.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from batching import Model
from private_ray import private_ray
from rounds import interleave, per_call
from table import goal, show
from workloads import Callers, from_threads, gather

from sage_plugins import Environment, ServiceDeploymentConfig, idempotent

if TYPE_CHECKING:
    import numpy as np

#: Calls in flight for each contender that gets all calls at once.
_AT_ONCE = 2_000
_CALLERS = 8
#: Questions in a batch, as in `batching.py`, and number of threads that ask.
_SIZE, _ASKING = 32, 256
#: Number of threads that call while a replica is killed, and seconds that they continue after it.
_CAUGHT, _AFTERWARDS_S = 16, 0.3


class Echo:
    """A method that does as little as possible, as a service and as an actor."""

    def echo(self, value: int) -> int:
        """Return *value*. A call may not run twice."""
        return value

    @idempotent
    def look(self, value: int) -> int:
        """Return *value*. A call may run twice."""
        return value

    def size(self, array: np.ndarray[Any, Any]) -> int:
        """Return the number of bytes of *array*."""
        return array.nbytes

    def pid(self) -> int:
        """Return the ID of this process."""
        return os.getpid()


class _Runtime:
    """A private Ray runtime, and what runs in it."""

    def __init__(self, stack: ExitStack, rounds: int) -> None:
        self.rounds = rounds
        self.stack = stack
        self.ray = stack.enter_context(private_ray())

    def actor(self, **options: Any) -> Any:
        """Start a plain actor, and wait for its first reply."""
        actor = self.ray.remote(Echo).options(num_cpus=0.1, **options).remote()
        self.ray.get(actor.echo.remote(1))
        return actor

    def service(self, name: str, cls: type = Echo, **config: Any) -> Any:
        """Deploy a service on Ray. Return a handle to it."""
        return self.environment(name, cls, **config).service(name)

    def environment(self, name: str, cls: type = Echo, **config: Any) -> Environment:
        """Deploy an environment with one service on Ray."""
        env = Environment("bench")
        env.register_service_with_config(name, cls, deployment_config=_remote(**config))
        self.stack.callback(env.close)
        env.deploy()
        return env


def _remote(**config: Any) -> ServiceDeploymentConfig:
    return ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1, queue_size=25_000, **config)


# -- one call after the other, and many at once ------------------------------------------------------------------------


def sequential(runtime: _Runtime) -> None:
    """One caller, one call after the other."""
    get, raw = runtime.ray.get, runtime.actor()
    single = runtime.service("single")
    pool = runtime.service("pool", threading_strategy="pool", thread_count=8)
    measured = interleave(
        {
            "raw actor": lambda: per_call(lambda: get(raw.echo.remote(1)), 100),
            "single": lambda: per_call(lambda: single.call("echo", 1), 100),
            "pool of 8": lambda: per_call(lambda: pool.call("echo", 1), 100),
        },
        # Many short rounds, as in `local_calls.py`.
        runtime.rounds * 4,
    )
    show("one caller, one call after the other (us)", measured)
    goal(measured, "single", "raw actor", "<= 0.25")
    goal(measured, "pool of 8", "raw actor", "<= 0.25")


def pipelined(runtime: _Runtime) -> None:
    """Thousands of calls submitted before the first result is read."""
    get, raw = runtime.ray.get, runtime.actor()
    single = runtime.service("single")
    pool = runtime.service("pool", threading_strategy="pool", thread_count=8)

    def raw_gather() -> float:
        return per_call(lambda: get([raw.echo.remote(value) for value in range(_AT_ONCE)]), 1) / _AT_ONCE

    measured = interleave(
        {
            "raw actor": raw_gather,
            "single, idempotent": lambda: gather(single.submit, "look", number=_AT_ONCE),
            "pool of 8, idempotent": lambda: gather(pool.submit, "look", number=_AT_ONCE),
            "single": lambda: gather(single.submit, "echo", number=_AT_ONCE),
            "pool of 8": lambda: gather(pool.submit, "echo", number=_AT_ONCE),
        },
        runtime.rounds,
    )
    show(f"submit {_AT_ONCE:,}, then gather (us)", measured)
    goal(measured, "raw actor", "single, idempotent", ">= 25")
    goal(measured, "raw actor", "pool of 8, idempotent", ">= 25")
    goal(measured, "raw actor", "single")
    goal(measured, "raw actor", "pool of 8", ">= 10")


def crowd(runtime: _Runtime) -> None:
    """Several threads, each with one call after the other."""
    get, raw = runtime.ray.get, runtime.actor()
    threaded = runtime.actor(max_concurrency=_CALLERS)
    single = runtime.service("single")
    pool = runtime.service("pool", threading_strategy="pool", thread_count=8)
    from_all = partial(from_threads, threads=_CALLERS, number=150)
    measured = interleave(
        {
            "raw actor": lambda: from_all(lambda: get(raw.echo.remote(1))),
            "raw actor of 8": lambda: from_all(lambda: get(threaded.echo.remote(1))),
            "single, idempotent": lambda: from_all(lambda: single.call("look", 1)),
            "pool of 8, idempotent": lambda: from_all(lambda: pool.call("look", 1)),
            "pool of 8": lambda: from_all(lambda: pool.call("echo", 1)),
        },
        runtime.rounds,
    )
    show(f"{_CALLERS} threads, one call after the other each (us)", measured)
    goal(measured, "raw actor", "pool of 8", ">= 6")
    goal(measured, "raw actor", "pool of 8, idempotent", ">= 6")
    goal(measured, "raw actor", "single, idempotent", ">= 6")
    goal(measured, "raw actor of 8", "pool of 8", ">= 6")


def batches(runtime: _Runtime) -> None:
    """Calls that are answered in batches."""
    bare = Model()
    full = list(range(_SIZE))
    model = runtime.service("model", Model, batch_size=_SIZE)
    two = runtime.service("two", Model, batch_size=_SIZE, threading_strategy="multi", thread_count=2)
    measured = interleave(
        {
            "bare batch method": lambda: per_call(lambda: bare.ask_many(full), 30),
            "single": lambda: from_threads(lambda: model.call("ask", 1), threads=_ASKING, number=16) * _SIZE,
            "multi of 2": lambda: from_threads(lambda: two.call("ask", 1), threads=_ASKING, number=16) * _SIZE,
        },
        runtime.rounds,
    )
    show(f"ms for as many answers as fit into a batch of {_SIZE}, {_ASKING} callers", measured, 1e3)
    goal(measured, "bare batch method", "single", ">= 0.85")
    goal(measured, "bare batch method", "multi of 2", "the limit is 2")


# -- large arguments ---------------------------------------------------------------------------------------------------


def arrays(runtime: _Runtime) -> None:
    """Large arguments with a small result: new ones every time, and one that is used again."""
    import numpy as np

    ray = runtime.ray
    get, raw, service = ray.get, runtime.actor(), runtime.service("single")
    for mib, number in ((1, 20), (64, 3)):
        array = np.ones(mib * 2**20, np.uint8)
        fixed = np.ones(mib * 2**20, np.uint8)
        fixed.flags.writeable = False
        put = ray.put(fixed)
        assert service.call("size", array) == service.call("size", put) == array.nbytes
        measured = interleave(
            {
                "raw, by value": lambda: per_call(lambda: get(raw.size.remote(array)), number),  # noqa: B023 - called here
                "ours": lambda: per_call(lambda: service.call("size", array), number),  # noqa: B023 - as above
                "raw, put once": lambda: per_call(lambda: get(raw.size.remote(put)), number),  # noqa: B023 - as above
                "ours, put once": lambda: per_call(lambda: service.call("size", put), number),  # noqa: B023 - as above
                "ours, read-only": lambda: per_call(lambda: service.call("size", fixed), number),  # noqa: B023 - as above
            },
            runtime.rounds,
        )
        show(f"an array of {mib} MiB (ms)", measured, 1e3)
        goal(measured, "ours", "raw, by value", "<= 1.0" if mib == 1 else "<= 1.05")
        goal(measured, "ours, put once", "raw, put once", "<= 1.05")
        goal(measured, "ours, read-only", "raw, put once")


# -- starting and dying ------------------------------------------------------------------------------------------------


def start(runtime: _Runtime) -> None:
    """From a connected process to the first reply."""
    ray = runtime.ray
    runtime.service("stays")  # keeps the connection open between the environments below

    def raw() -> float:
        begin = time.perf_counter()
        actor = runtime.actor()
        seconds = time.perf_counter() - begin
        ray.kill(actor)
        return seconds

    def ours() -> float:
        begin = time.perf_counter()
        with Environment("bench") as env:
            env.register_service_with_config("first", Echo, deployment_config=_remote())
            env.service("first").call("echo", 1)
            return time.perf_counter() - begin

    measured = interleave({"raw actor": raw, "one replica": ours}, runtime.rounds)
    show("to the first answer (ms)", measured, 1e3)
    goal(measured, "one replica", "raw actor", "<= 1.25")


def kill(runtime: _Runtime) -> None:
    """One of two replicas is killed while callers use them."""
    ray = runtime.ray
    failed: Counter[str] = Counter()
    kills = 0
    caught: list[float] = []

    def raw() -> float:
        begin = time.perf_counter()
        actor = runtime.actor()
        seconds = time.perf_counter() - begin
        ray.kill(actor)
        return seconds

    def ours() -> float:
        nonlocal kills
        ready: list[float] = []
        full = threading.Event()

        def on_event(event: Any) -> None:
            if event.kind == "replica_ready":
                ready.append(time.perf_counter())
                if len(ready) == 3:  # noqa: PLR2004 - the first two and the new one
                    full.set()

        with Environment("bench", on_event=on_event) as env:
            config = _remote(
                replicas=2, load_balancing=True, failover_enabled=True, threading_strategy="pool", thread_count=8
            )
            env.register_service_with_config("two", Echo, deployment_config=config)
            handle = env.service("two")
            pids = {handle.call("pid") for _ in range(50)}
            kinds = (("idempotent", "look"), ("other", "echo"))
            callers = Callers(
                (kind, partial(handle.call, method, n)) for n in range(_CAUGHT // 2) for kind, method in kinds
            )
            time.sleep(_AFTERWARDS_S)
            killed = time.perf_counter()
            os.kill(pids.pop(), signal.SIGKILL)
            time.sleep(_AFTERWARDS_S)
            assert full.wait(30)
            callers.end()
        failed.update(f"{each.kind}: {each.error}" for each in callers.notes if each.error)
        kills += 1
        caught.append(max(each.ended for each in callers.notes if each.began <= killed <= each.ended) - killed)
        return ready[-1] - killed

    measured = interleave({"raw actor": raw, "full strength": ours}, max(3, runtime.rounds // 3))
    show("until there are two again, and a raw actor's creation (ms)", measured, 1e3)
    goal(measured, "full strength", "raw actor", "<= 1.5")
    worst, middle = max(caught), statistics.median(caught)
    print(f"  calls caught by the kill are over after {middle * 1e3:.0f} ms, at most {worst * 1e3:.0f} (goal <= 100)")
    print(f"  failed in {kills} kills under {_CAUGHT} callers, half of them of an idempotent method: {dict(failed)}")


# -- Ray Serve ---------------------------------------------------------------------------------------------------------


def serve(runtime: _Runtime) -> None:
    """The same calls through a handle of Ray Serve. Last, because its controller stays busy."""
    from ray import serve

    get, raw, single = runtime.ray.get, runtime.actor(), runtime.service("single")
    options = {"num_cpus": 0.1}
    deployed = serve.deployment(Echo).options(max_ongoing_requests=1000, ray_actor_options=options)
    peer = serve.run(deployed.bind(), name="echo", route_prefix=None, logging_config={"log_level": "WARNING"})
    runtime.stack.callback(serve.shutdown)

    def serve_gather() -> float:
        number = _AT_ONCE // 10
        return per_call(lambda: [each.result() for each in [peer.echo.remote(1) for _ in range(number)]], 1) / number

    measured = interleave(
        {
            "raw actor": lambda: per_call(lambda: get(raw.echo.remote(1)), 100),
            "single": lambda: per_call(lambda: single.call("echo", 1), 100),
            "Serve": lambda: per_call(lambda: peer.echo.remote(1).result(), 100),
            "single, 2,000 at once": lambda: gather(single.submit, "look", number=_AT_ONCE),
            "Serve, 200 at once": serve_gather,
        },
        runtime.rounds,
    )
    show("one caller, one call after the other; and many at once (us)", measured)
    goal(measured, "Serve", "single", ">= 12")
    goal(measured, "Serve", "raw actor")
    goal(measured, "Serve, 200 at once", "single, 2,000 at once")


_PARTS = (sequential, pipelined, crowd, batches, arrays, start, kill, serve)


def main() -> None:
    """Measure, and print a row for each goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    names = [part.__name__ for part in _PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    asked = parser.parse_args()
    with ExitStack() as stack:
        runtime = _Runtime(stack, asked.rounds)
        for part in _PARTS:
            if part.__name__ in asked.only:
                with ExitStack() as runtime.stack:
                    part(runtime)


if __name__ == "__main__":
    main()
