"""A minute of calls while replicas are killed: nothing is lost, nothing runs twice, and the service comes back."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig
from witness import History, Witness

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

SECONDS = 60
CALLS_PER_S = 100
SECONDS_PER_KILL = 3
REPLICAS, SLOTS = 3, 2
#: Also the longest that all replicas may be waiting for their next start: each of them waits longer each time.
PATIENCE = 60.0


class Nemesis:
    """Kills a replica that is ready every few seconds, the last ready one too."""

    def __init__(self, env: Environment, seed: int) -> None:
        self.kills = 0
        self.recoveries: list[float] = []  # seconds until another one was there, for each kill
        self._env = env
        self._random = random.Random(seed)  # noqa: S311 - so that a run can be repeated
        self._killed_at: dict[str, float] = {}  # by position

    def look(self) -> None:
        """Note which of the dead have been replaced."""
        for replica in self._ready():
            killed = self._killed_at.pop(replica["id"].partition(".")[0], None)
            if killed is not None:
                self.recoveries.append(time.monotonic() - killed)

    def kill(self) -> None:
        """Kill one, if one is ready."""
        ready = self._ready()
        if ready:
            replica = self._random.choice(ready)
            os.kill(replica["pid"], signal.SIGKILL)
            self._killed_at[replica["id"].partition(".")[0]] = time.monotonic()
            self.kills += 1
            self._gone(replica["id"])

    def _ready(self) -> list[dict[str, object]]:
        found = self._env.get_service_status("svc")["replicas"]
        return [each for each in found if each["state"] == "ready"]

    def _gone(self, id: str) -> None:
        until, pause = time.monotonic() + 10, threading.Event()
        while any(each["id"] == id for each in self._ready()):
            assert time.monotonic() < until, f"nobody has noticed the death of {id}"
            pause.wait(0.01)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_calls_survive_a_minute_of_kills(tmp_path, record_property):
    seed = 1
    history = History(tmp_path / "witness")
    config = ServiceDeploymentConfig(
        target="remote_any",
        cpu_cores=0.1,
        threading_strategy="pool",
        thread_count=SLOTS,
        thread_pool_size=SLOTS,
        replicas=REPLICAS,
        load_balancing=True,
        failover_enabled=True,
        queue_size=10_000,
        timeout=PATIENCE,
    )
    with Environment("soak") as env:
        env.register_service_with_config("svc", Witness, history.file, deployment_config=config)
        env.deploy()
        nemesis, over, handle = Nemesis(env, seed), threading.Event(), env.service("svc")

        def call() -> None:
            began = time.monotonic()
            for number in range(SECONDS * CALLS_PER_S):
                over.wait(max(0.0, began + number / CALLS_PER_S - time.monotonic()))
                history.call(handle, "run", 0.005, idempotent=number % 2 == 0)

        caller = threading.Thread(target=call)
        caller.start()
        next_kill = time.monotonic() + SECONDS_PER_KILL
        while caller.is_alive():
            caller.join(0.1)
            nemesis.look()
            if time.monotonic() >= next_kill:
                nemesis.kill()
                next_kill += SECONDS_PER_KILL

        found = history.check(slots=SLOTS, deaths=nemesis.kills, patience=PATIENCE)
    figures = {
        "seed": seed,
        "calls": history.calls,
        "kills": nemesis.kills,
        "died": len(found.died),
        "died, idempotent": sum(number % 2 == 0 for number in found.died),
        "ran twice": len(found.twice),
        "failed": sorted({type(error).__name__ for error in found.failed.values()}),
        "recoveries": [round(each, 2) for each in nemesis.recoveries],
    }
    record_property("figures", figures)
    assert not found.failed
    assert nemesis.kills >= 10
    assert figures["died, idempotent"] == 0
