"""
The deploying process's client of the directory actor. It starts the actor when first needed, and again if it dies.

The actor ends with Ray in this process, as the replicas do. All processes share one actor for detached services, which
stays.
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

#: Number of clients that may wait for a change at the same time: one for each service in each process.
_MAX_WAITING: Final = 10_000

#: Seconds before the next attempt to start the actor. Doubles with each failure, up to the second value.
_RESTART_DELAY_S: Final = (0.25, 5.0)

_clients: dict[tuple[str, str], DirectoryClient] = {}  # guarded by _lock
_lock = threading.Lock()


def client_for(name: str, namespace: str) -> DirectoryClient:
    """Return this process's client of the actor with that name."""
    with _lock:
        return _clients.setdefault((name, namespace), DirectoryClient(name, namespace))


class DirectoryClient:
    """
    Makes statements to the actor with `send`, and repeats them to its successor if it dies. Thread-safe.

    A statement is a method call with a subject. Only the latest one about a subject is kept.
    """

    def __init__(self, name: str, namespace: str) -> None:
        self._name = name
        self._namespace = namespace
        self._starting = threading.Lock()  # held while the actor starts, which may take long
        self._lock = threading.RLock()  # re-entrant, because a signal handler may stop a service while it is held
        # The fields below are guarded by _lock. The actor lives as long as the handle that started it.
        self._actor: Any = None
        self._latest_statements: dict[Hashable, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}

    def start(self) -> None:
        """Ensure that the actor runs. Takes some milliseconds, or longer on a slow cluster."""
        with self._starting:
            if self._actor is None or self._actor != self._find():  # Ray may have ended and started again since
                self._begin()

    @property
    def is_there(self) -> bool:
        """Whether the actor was started in the Ray that runs now."""
        return self._actor is not None and is_connected()

    def send(self, about: Hashable, method: str, *args: Any, **kwargs: Any) -> None:
        """Make a statement: call a method of the actor, and keep the call in place of the last one about *about*."""
        with self._lock:
            self._latest_statements[about] = method, args, kwargs
            self._call(method, *args, **kwargs)

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any | None:
        """Call a method of the actor, and return its pending answer. None if there is no actor."""
        with self._lock:
            return self._call(method, *args, **kwargs)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any | None:
        """Start the call; None if there is no actor, or if its Ray was shut down."""
        if self._actor is None or not is_connected():
            return None
        try:
            return getattr(self._actor, method).remote(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the actor may belong to a Ray that was shut down
            return None

    def forget(self, about: Hashable) -> None:
        """Do not repeat the statement about *about* to another actor."""
        with self._lock:
            self._latest_statements.pop(about, None)

    def _find(self) -> Any | None:
        try:
            return ray.get_actor(self._name, self._namespace)
        except ValueError:  # no actor has that name
            return None

    def _begin(self) -> None:
        """Start the actor, and repeat all statements. The caller holds `_starting`."""
        actor = self._start()
        with self._lock:
            self._actor = actor
            self.resend()

    def resend(self) -> None:
        """Repeat all statements, in case the actor has lost them. Never blocks."""
        with self._lock:
            for method, args, kwargs in self._latest_statements.values():
                self._call(method, *args, **kwargs)

    def _start(self) -> Any:
        return self._start_registry() if self._name == REGISTRY else self._start_directory()

    def _start_registry(self) -> Any:
        # If its node dies, Ray restarts the actor elsewhere and repeats the requests. All of them may be repeated.
        return (
            ray.remote(RegistryActor)
            .options(
                name=self._name,
                namespace=self._namespace,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_concurrency=_MAX_WAITING,
                max_restarts=-1,
                max_task_retries=-1,
                enable_task_events=False,
            )
            .remote(self._namespace)
        )

    def _start_directory(self) -> Any:
        # The actor runs on the deploying process's node, so the end of another node cannot remove it. Ray restarts it
        # if it dies, and repeats the requests. A replacement could not take its name, because the name of a dead actor
        # is not free.
        here = ray.get_runtime_context().get_node_id()
        actor: Any = (
            ray.remote(DirectoryActor)
            .options(
                name=self._name,
                namespace=self._namespace,
                num_cpus=0,
                max_concurrency=_MAX_WAITING,
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
        ended.add_done_callback(lambda done: self._on_actor_ended(actor, done.exception()))

    def _on_actor_ended(self, actor: Any, error: BaseException | None) -> None:
        """Handle the death of the actor's process. Ray's own thread calls this, and must not wait."""
        with suppress(RuntimeError):  # the interpreter is shutting down
            start_thread(lambda: self._restore(actor, error), "sage-ray-directory")

    def _restore(self, actor: Any, error: BaseException | None) -> None:
        """Repeat all statements to the restarted *actor*. If it was not restarted, start another actor in its place."""
        wait, longest = _RESTART_DELAY_S
        while True:
            with self._starting:
                if self._actor != actor or not is_connected():
                    return
                try:
                    if isinstance(error, ActorDiedError):
                        self._begin()
                    else:
                        self._watch(actor)
                        self.resend()
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

    def start_in_background(self) -> None:
        """Start the actor again if it was killed for good. Never blocks."""

        def start() -> None:
            if is_connected():
                with suppress(Exception):  # the next request tries again
                    self.start()

        with suppress(RuntimeError):  # the interpreter is shutting down
            start_thread(start, "sage-ray-directory")
