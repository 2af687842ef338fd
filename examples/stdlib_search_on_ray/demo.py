"""
Runs the example `stdlib_search` on a Ray cluster of three nodes, and kills one of them under load.

`make demo-ray` runs it. The classes and the deployment file are those of `make demo`; only `--profile ray` is new. It
takes about half a minute. The exit status is 0 if all went as expected.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_cluster import local_cluster

from sage_plugins import Environment
from sage_plugins.errors import ReplicaDiedError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import FrameType

    from local_cluster import LocalCluster

    from sage_plugins.values import Event

NODES = ("node-a", "node-b", "node-c")
FILE = Path(__file__).resolve().parent.parent / "stdlib_search" / "service_deployment.yaml"
#: How often each module is read. The calls must last until the service is back at full strength.
ROUNDS = 2
PATIENCE_S = 60.0


def main() -> None:
    """Start the cluster, run both parts on it, and end it."""
    signal.signal(signal.SIGTERM, _interrupt)
    say(f"starting a Ray cluster on this machine: {', '.join(NODES)}, and a head ...")
    with local_cluster(NODES) as cluster:
        say(f"it listens at {cluster.address}, which RAY_ADDRESS says from now on")
        run_the_example()
        kill_a_node(cluster)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the cluster on SIGTERM, as on Ctrl-C."""
    raise KeyboardInterrupt


def run_the_example() -> None:
    """Run the example with `sage-deploy`. It shows the plan with the nodes, the answers, and the table of metrics."""
    command = [Path(sys.executable).with_name("sage-deploy"), "up", FILE, "--profile", "ray", "--once"]
    say(f"$ sage-deploy up {FILE.relative_to(FILE.parents[2])} --profile ray --once")
    subprocess.run(command, check=True)


def kill_a_node(cluster: LocalCluster) -> None:
    """Kill a node while the readers work, and show what happens to the calls and to the replica."""
    say("now a node is killed while the readers are at work")
    story = Story()
    sys.path.insert(0, str(FILE.parent))  # the folder of the example's classes
    with Environment("killed-node", on_event=story.note) as env:
        env.load_service_deployment_config(FILE, profile="ray")
        reader = env.service("reader")
        modules = reader.modules() * ROUNDS
        show_replicas(env)

        # The reader is idempotent; half of the calls here say that they are not.
        once = reader.with_options(idempotent=False)
        calls = {
            (once if number % 2 else reader).submit("read", module): bool(number % 2)
            for number, module in enumerate(modules)
        }
        doomed = env.get_service_status("reader")["replicas"][0]["node"]
        for answered, _ in enumerate(as_completed(calls, PATIENCE_S), 1):
            if answered == len(modules) // 4:
                story.begin()
                cluster.kill(doomed)
                print(f"killed {doomed} when {answered} of {len(modules)} calls were over")
        story.wait_recovered()
        show_calls(calls)
        show_replicas(env)


class Story:
    """Prints what happens to the replicas."""

    def __init__(self) -> None:
        self._killed_at = 0.0
        self._recovered = threading.Event()

    def begin(self) -> None:
        """Start the clock; print events from now on."""
        self._killed_at = time.monotonic()

    def note(self, event: Event) -> None:
        """Print one event. Any thread may call it."""
        if self._killed_at and not self._recovered.is_set() and event.replica is not None:
            what = event.kind.replace("_", " ")
            reason = f": {event.reason}" if event.reason else ""
            print(f"  {time.monotonic() - self._killed_at:5.2f} s later  {event.replica}  {what}{reason}")
            if event.kind == "replica_ready":
                self._recovered.set()

    def wait_recovered(self) -> None:
        """Wait until the new replica is ready."""
        if not self._recovered.wait(PATIENCE_S):
            sys.exit(f"no replica took the place of the one that died within {PATIENCE_S:g} s")


def show_calls(calls: dict[Future[Any], bool]) -> None:
    """Print how many calls of each kind were answered. An error that is not allowed for its kind ends the demo."""
    for only_once, what in ((False, "may run twice"), (True, "may run only once")):
        outcomes = [call.exception() for call, kind in calls.items() if kind is only_once]
        failed = [error for error in outcomes if error is not None]
        print(f"calls that {what}: {len(outcomes) - len(failed)} answered, {len(failed)} failed")
        for error in failed:
            if not (only_once and isinstance(error, ReplicaDiedError)):
                raise error
            print(f"  {type(error).__name__}: {error}")


def show_replicas(env: Environment) -> None:
    """Print the replicas and their nodes."""
    status = env.get_service_status("reader")
    for replica in status["replicas"]:
        print(f"  {replica['id']:<10} {replica['state']:<8} on {replica['node']}")
    health = status["health"]
    print(f"  {'reader':<10} {status['state']:<8} {health['ready']} of {health['replicas']} replicas are ready")


def say(what: str) -> None:
    """Print the heading of a new part."""
    print(f"\n== {what}", flush=True)


if __name__ == "__main__":
    main()
