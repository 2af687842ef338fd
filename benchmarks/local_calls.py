"""
Calls on target `local` against a `ThreadPoolExecutor` and a bare thread hop, with metrics, bounds and timeouts on.
"""

from __future__ import annotations

import statistics
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

from rounds import interleave, per_call
from table import goal, rounds_asked, show
from workloads import from_threads, gather

from sage_plugins import Environment, ServiceDeploymentConfig


class Echo:
    """A method that does as little as possible."""

    def echo(self, value: int) -> int:
        """Return *value*."""
        return value


def echo(value: int) -> int:
    """Return *value*, as a plain function."""
    return value


class Hop:
    """The lower limit for a call on another thread: one item there and one back over `SimpleQueue`."""

    def __init__(self) -> None:
        self._there: SimpleQueue[Any] = SimpleQueue()
        self._back: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while (value := self._there.get()) is not None:
            self._back.put(value)

    def call(self) -> Any:
        """Send an item there and back."""
        self._there.put(1)
        return self._back.get()

    def close(self) -> None:
        """End the thread."""
        self._there.put(None)


def _service(env: Environment, name: str, **config: Any) -> Any:
    deployment = ServiceDeploymentConfig(queue_size=25_000, **config)
    env.register_service_with_config(name, Echo, deployment_config=deployment)
    return env.service(name)


def main() -> None:
    """Measure, and print a row for each goal."""
    rounds = rounds_asked(__doc__, 15)
    with ExitStack() as stack:
        env = stack.enter_context(Environment("bench"))
        inline = _service(env, "inline", threading_strategy="inline")
        plain = _service(env, "plain", threading_strategy="inline", enable_metrics=False)
        single = _service(env, "single")
        unmetered = _service(env, "unmetered", enable_metrics=False)
        pool = _service(env, "pool", threading_strategy="pool", thread_count=8)
        replicas = _service(env, "replicas", replicas=4, load_balancing=True)
        env.deploy()
        one = stack.enter_context(ThreadPoolExecutor(1))
        eight = stack.enter_context(ThreadPoolExecutor(8))
        hop = Hop()
        stack.callback(hop.close)
        sequential = interleave(
            {
                "inline": lambda: per_call(lambda: inline.call("echo", 1), 5_000),
                "inline, no metrics": lambda: per_call(lambda: plain.call("echo", 1), 5_000),
                "single": lambda: per_call(lambda: single.call("echo", 1), 600),
                "single, no metrics": lambda: per_call(lambda: unmetered.call("echo", 1), 600),
                "pool of 8": lambda: per_call(lambda: pool.call("echo", 1), 600),
                "4 replicas": lambda: per_call(lambda: replicas.call("echo", 1), 600),
                "executor of 1": lambda: per_call(lambda: one.submit(echo, 1).result(), 600),
                "executor of 8": lambda: per_call(lambda: eight.submit(echo, 1).result(), 600),
                "hop": lambda: per_call(hop.call, 600),
            },
            # Many short rounds: the cost of waking a thread jumps between a few values, and stays at each for a while.
            rounds * 3,
        )
        pipelined = interleave(
            {
                "single": lambda: gather(single.submit, "echo"),
                "pool of 8": lambda: gather(pool.submit, "echo"),
                "executor of 1": lambda: gather(one.submit, echo),
                "executor of 8": lambda: gather(eight.submit, echo),
            },
            rounds,
        )
        crowd = interleave(
            {
                "pool of 8": lambda: from_threads(lambda: pool.call("echo", 1)),
                "executor of 8": lambda: from_threads(lambda: eight.submit(echo, 1).result()),
            },
            rounds,
        )
    show("one caller, one call after the other (us)", sequential)
    goal(sequential, "executor of 1", "inline", ">= 15")
    goal(sequential, "single", "executor of 1", "<= 0.85")
    goal(sequential, "single", "hop", "<= 1.3")
    goal(sequential, "pool of 8", "executor of 8", "<= 0.85")
    goal(sequential, "pool of 8", "hop", "<= 1.3")
    goal(sequential, "4 replicas", "executor of 1")
    pairs = zip(sequential["inline"], sequential["inline, no metrics"], strict=True)
    print(f"  metrics on - off: {statistics.median(on - off for on, off in pairs) * 1e6:.2f} us (goal <= 0.6)")
    show("submit 20,000, then gather (us)", pipelined)
    goal(pipelined, "executor of 1", "single", ">= 6")
    goal(pipelined, "executor of 8", "pool of 8", ">= 6")
    show("8 threads, one call after the other each (us)", crowd)
    goal(crowd, "executor of 8", "pool of 8", ">= 1.35")


if __name__ == "__main__":
    main()
