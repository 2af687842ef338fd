"""
The directory's actor as the process that deploys keeps it: it is started when first needed, and again if it dies.

It ends with Ray in this process, as the replicas do. That of detached services is one for all processes, and stays.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.exceptions import ActorDiedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sage_deploy_ray.cluster.connection import is_connected
from sage_deploy_ray.directory.directory_actor import DirectoryActor
from sage_deploy_ray.directory.registry_actor import REGISTRY, RegistryActor
from sage_plugins.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["DirectoryClient", "client_for"]

#: Those who may wait for a change at the same time, one for each service in each process.
_WAITING: Final = 10_000

#: Seconds until the actor is started again if that failed; twice as long each time, up to the second.
_START_AGAIN_S: Final = (0.25, 5.0)

_clients: dict[tuple[str, str], DirectoryClient] = {}  # guarded by _lock
_lock = threading.Lock()


def client_for(name: str, namespace: str) -> DirectoryClient:
    """The one for the actor of that name."""
    with _lock:
        return _clients.setdefault((name, namespace), DirectoryClient(name, namespace))


class DirectoryClient:
    """Says things to the actor, and once more to the next one if it dies. Safe from any thread."""

    def __init__(self, name: str, namespace: str) -> None:
        self._name = name
        self._namespace = namespace
        self._starting = threading.Lock()  # held by the one who starts it, which may take long
        self._lock = threading.RLock()  # re-entrant because a signal handler may stop a service in the middle of it
        # The next are guarded by _lock. The actor lives as long as the handle with which it was started.
        self._actor: Any = None
        self._said: dict[Hashable, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}

    def start(self) -> None:
        """See that the actor is there; takes some milliseconds, and may take longer if the cluster is slow."""
        with self._starting:
            if self._actor is None or self._actor != self._find():  # Ray may have ended and begun since
                self._begin()

    @property
    def is_there(self) -> bool:
        """Whether the actor was started in the Ray that runs now."""
        return self._actor is not None and is_connected()

    def say(self, about: Hashable, method: str, *args: Any, **kwargs: Any) -> None:
        """Call a method of the actor, in place of what was said of the same thing before; never blocks."""
        with self._lock:
            self._said[about] = method, args, kwargs
            self._call(method, *args, **kwargs)

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any | None:
        """The answer of a method of the actor, on its way; None if there is no actor."""
        with self._lock:
            return self._call(method, *args, **kwargs)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any | None:
        """What a method of the actor will answer; None if there is none, or it was of a Ray that was shut down."""
        if self._actor is None or not is_connected():
            return None
        try:
            return getattr(self._actor, method).remote(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever Ray says of an actor of the Ray before it
            return None

    def forget(self, about: Hashable) -> None:
        """This need not be said to another actor."""
        with self._lock:
            self._said.pop(about, None)

    def _find(self) -> Any | None:
        try:
            return ray.get_actor(self._name, self._namespace)
        except ValueError:  # there is none of that name
            return None

    def _begin(self) -> None:
        """Start the actor, and say to it what was said before; under `_starting`."""
        actor = self._start()
        with self._lock:
            self._actor = actor
            self.say_again()

    def say_again(self) -> None:
        """Say all that was said, in case the actor has forgotten it; never blocks."""
        with self._lock:
            for method, args, kwargs in self._said.values():
                self._call(method, *args, **kwargs)

    def _start(self) -> Any:
        return self._start_registry() if self._name == REGISTRY else self._start_directory()

    def _start_registry(self) -> Any:
        # Ray starts it again elsewhere if its node dies. What was asked of it then is asked again: all of it may be
        # said twice.
        return (
            ray.remote(RegistryActor)
            .options(
                name=self._name,
                namespace=self._namespace,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_concurrency=_WAITING,
                max_restarts=-1,
                max_task_retries=-1,
                enable_task_events=False,
            )
            .remote(self._namespace)
        )

    def _start_directory(self) -> Any:
        # Beside the process that deploys: no other node's end takes it away. Ray starts it again if it dies, and what
        # was asked of it is asked again: a dead actor's name is not free for another one.
        here = ray.get_runtime_context().get_node_id()
        actor: Any = (
            ray.remote(DirectoryActor)
            .options(
                name=self._name,
                namespace=self._namespace,
                num_cpus=0,
                max_concurrency=_WAITING,
                max_restarts=-1,
                max_task_retries=-1,
                enable_task_events=False,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
            )
            .remote()
        )
        self._watch(actor)
        return actor

    def _watch(self, actor: Any) -> None:
        ended = actor.wait_ended.remote().future()
        ended.add_done_callback(lambda done: self._ended(actor, done.exception()))

    def _ended(self, actor: Any, error: BaseException | None) -> None:
        """The actor's process has died; told in Ray's own thread, which must not wait."""
        with suppress(RuntimeError):  # the interpreter is shutting down
            start_thread(lambda: self._bring_back(actor, error), "sage-ray-directory")

    def _bring_back(self, actor: Any, error: BaseException | None) -> None:
        """Have the next process of *actor* know what was said; if it has none, start another actor in its place."""
        wait, longest = _START_AGAIN_S
        while True:
            with self._starting:
                if self._actor != actor or not is_connected():
                    return
                try:
                    if isinstance(error, ActorDiedError):
                        self._begin()
                    else:
                        self._watch(actor)
                        self.say_again()
                except Exception:
                    logging.getLogger("sage_plugins.ray").exception(
                        "the directory of services died and could not be started again, so other processes find no "
                        "services that they do not know; the next try is in %g s",
                        wait,
                    )
                else:
                    return
            time.sleep(wait)
            wait = min(2 * wait, longest)

    def start_again(self) -> None:
        """Have the actor started again if it was killed for good; never blocks."""

        def start() -> None:
            if is_connected():
                with suppress(Exception):  # whoever needs it asks again
                    self.start()

        with suppress(RuntimeError):  # the interpreter is shutting down
            start_thread(start, "sage-ray-directory")
