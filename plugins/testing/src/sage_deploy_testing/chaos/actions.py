"""
The accidents that the nemesis can make: one function for each action, and the reasons why some cannot be done.

Signals go only to processes that the run log lists as replicas of the service on this machine, never to this process.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import attrs

from sage_deploy_testing.chaos.killed_caller import CALLS, call_and_die
from sage_deploy_testing.chaos.run_log import is_alive, machine
from sage_plugins.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from sage_deploy_testing.chaos.load import Load
    from sage_deploy_testing.chaos.run_log import RunLog, Up
    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.environment.environment import Environment

__all__ = ["ACTIONS", "Action", "World"]

#: The most seconds that a process stays stopped.
_STOPPED_S: Final = 3.0
#: Seconds that a slow method takes, that a hanging method takes, and that callers of a hanging method wait.
_SLOW_S: Final = 0.5
_HANGS_S: Final = 3.0
_PATIENCE_S: Final = 0.5
#: The number of calls in a storm, and of a caller that dies.
_STORM: Final = 40
_ORPHANS: Final = 10


class World(NamedTuple):
    """
    What actions work on.

    Attributes:
        env: The environment.
        configs: The configurations of its services.
        load: Makes calls that go to the history.
        run_log: Lists the replicas.
        redeploy: Registers a service with another configuration.
        over: Set when the run ends. It ends all waits.
        kill_node: Ends a node of a test's cluster, and returns which. None without a cluster.
    """

    env: Environment
    configs: Mapping[str, ServiceDeploymentConfig]
    load: Load
    run_log: RunLog
    redeploy: Callable[[str, ServiceDeploymentConfig], None]
    over: threading.Event
    kill_node: Callable[[Random], str] | None = None

    def ready(self, service: str) -> set[int]:
        """Return the positions of the replicas that get calls."""
        replicas = self.env.overview()[service]["replicas"]
        return {_position(each["id"]) for each in replicas if each["state"] == "ready"}

    def processes(self, service: str) -> list[Up]:
        """Return the processes of the replicas that get calls, without those that must not be signalled."""
        ready = self.ready(service)
        latest = {up.position: up for up in self.run_log.replicas() if up.service == service}
        return [up for position, up in latest.items() if position in ready and up.pid != os.getpid() and is_alive(up)]


def _position(id: str) -> int:
    return int(id.rpartition("#")[2].partition(".")[0])


class Action(NamedTuple):
    """
    Something that the nemesis does.

    Attributes:
        do: Does it, and returns what it did, or None if nothing was there to do it to.
        why_not: Returns why it cannot be done to a service, or an empty string if it can.
        kills: Whether it ends a replica.
        takes_long: Whether it may start processes.
    """

    do: Callable[[World, str, Random], str | None]
    why_not: Callable[[World, str], str] = lambda _world, _service: ""
    kills: bool = False
    takes_long: bool = False


def _needs_process(world: World, service: str) -> str:
    if not machine():
        return "this system does not say which process a replica is"
    if world.processes(service):
        return ""
    pids = {up.pid for up in world.run_log.replicas() if up.service == service}
    if os.getpid() in pids:
        return "its replicas are in this process"
    return "its replicas are on other machines"


def _needs_fixed_number(world: World, service: str) -> str:
    scale = world.configs[service].autoscale
    return "" if scale is None else "autoscale decides the number of replicas"


def _kill(world: World, service: str, random: Random) -> str | None:
    found = world.processes(service)
    if not found:
        return None
    up = random.choice(found)
    os.kill(up.pid, signal.SIGKILL)
    return f"process {up.pid}, replica {up.position}"


def _stop(world: World, service: str, random: Random) -> str | None:
    """Stop some processes in turn, and continue them in another order: FoundationDB's swizzle-clog."""
    found = world.processes(service)
    if not found:
        return None
    some = random.sample(found, random.randint(1, len(found)))
    stopped = []
    try:
        for up in some:
            if is_alive(up):
                os.kill(up.pid, signal.SIGSTOP)
                stopped.append(up)
            world.over.wait(random.uniform(0.0, _STOPPED_S / 2 / len(some)))
        world.over.wait(random.uniform(0.1, _STOPPED_S / 2))
    finally:
        random.shuffle(stopped)
        for up in stopped:
            if is_alive(up):
                os.kill(up.pid, signal.SIGCONT)
    return f"processes {', '.join(str(up.pid) for up in some)}"


def _crash(world: World, service: str, _random: Random) -> str | None:
    if not world.processes(service):
        return None
    number, _ = world.load.submit(service, "crash")
    return f"call {number}"


def _kill_node(world: World, _service: str, random: Random) -> str | None:
    return None if world.kill_node is None else world.kill_node(random)


def _calls(method: str, *arguments: Any, **options: Any) -> Callable[[World, str, Random], str]:
    def do(world: World, service: str, random: Random) -> str:
        numbers = [world.load.submit(service, method, *arguments, **options)[0] for _ in range(random.randint(1, 5))]
        return f"calls {numbers[0]} to {numbers[-1]}"

    return do


def _hang(world: World, service: str, _random: Random) -> str:
    """Make only one call: in this process a method cannot be stopped, and it keeps its slot."""
    number, _ = world.load.submit(service, "work", _HANGS_S, timeout=_PATIENCE_S)
    return f"call {number}"


def _cancel(world: World, service: str, random: Random) -> str:
    made = [world.load.submit(service, random.choice(("work", "awork")), 0.01) for _ in range(_STORM)]
    random.shuffle(made)
    for number, future in made:
        if future is not None:
            world.load.cancel(number, future)
    return f"{_STORM} calls"


def _abandon(world: World, service: str, random: Random) -> str:
    """End a thread that does not wait for its calls, and an event loop whose tasks wait for theirs."""

    def submit() -> None:
        for _ in range(_ORPHANS):
            world.load.submit(service, "work", 0.01)

    async def begin() -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(world.load.acall(service, "awork", 0.05)) for _ in range(_ORPHANS)]
        await asyncio.sleep(random.choice((0.0, 0.02)))
        return tasks

    for target in (submit, lambda: asyncio.run(begin()) and None):
        thread = threading.Thread(target=target, name="chaos-dying-caller", daemon=True)
        thread.start()
        thread.join()
    return f"{2 * _ORPHANS} calls"


def _needs_reach(world: World, service: str) -> str:
    try:
        pickle.dumps(world.env.service(service))
    except CallError:
        return "only this process can call it"
    return ""


def _kill_caller(world: World, service: str, random: Random) -> str | None:
    numbers = world.load.announce(service, "work", CALLS)
    try:
        called = call_and_die(world.env.service(service), numbers[0], random.uniform(0.0, 1.0), world.over)
    finally:
        world.load.forget(numbers)
    return f"calls {numbers[0]} to {numbers[-1]}" if called else None


def _scale(world: World, service: str, random: Random) -> str:
    usual = world.configs[service].replicas
    number = random.choice([each for each in range(1, usual + 2) if each != len(world.ready(service))])
    world.env.scale(service, number)
    return f"to {number}"


def _apply(world: World, service: str, random: Random) -> str:
    """Give running replicas another `user_config`, or replace the service by one with another queue size."""
    config, number = world.configs[service], random.randrange(1, 1000)
    if random.random() < 0.5:  # noqa: PLR2004 - one or the other
        changes: dict[str, Any] = {"user_config": {**(config.user_config or {}), "chaos": number}}
    else:
        changes = {"queue_size": config.queue_size + 1}
    world.redeploy(service, attrs.evolve(config, **changes))
    world.env.apply()
    return f"another {', '.join(changes)}"


def _restart(world: World, service: str, _random: Random) -> str:
    world.env.restart(service)
    return "every replica"


#: All actions, by the name that users give.
ACTIONS: Final[Mapping[str, Action]] = {
    "kill": Action(_kill, _needs_process, kills=True),
    "stop": Action(_stop, _needs_process),
    "crash": Action(_crash, _needs_process, kills=True),
    "node": Action(_kill_node, lambda world, _: "" if world.kill_node else "no test cluster was given", kills=True),
    "slow": Action(_calls("work", _SLOW_S)),
    "hang": Action(_hang),
    "raise": Action(_calls("fail")),
    "exit": Action(_calls("leave")),
    "cancel": Action(_cancel),
    "abandon": Action(_abandon),
    "caller": Action(_kill_caller, _needs_reach, takes_long=True),
    "scale": Action(_scale, _needs_fixed_number, takes_long=True),
    "apply": Action(_apply, takes_long=True),
    "restart": Action(_restart, takes_long=True),
}
