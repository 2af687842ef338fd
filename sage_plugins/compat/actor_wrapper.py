"""Wraps a service task with the interface of SAGE's wrapper of Ray actors."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import Any

from sage_plugins.deployment.task import ServiceTask

__all__ = ["ActorWrapper"]


class ActorWrapper:
    """
    A `ServiceTask`, or any other object, with the interface of SAGE's wrapper.

    Attributes are read from the object and set on it. Methods wait for their results. Names that begin with an
    underscore are not passed on.

    Two things differ from SAGE: plain attributes such as `is_running` also work for services in other processes, and
    `call_async` returns a `concurrent.futures.Future`.
    """

    _object: Any

    def __init__(self, obj: Any) -> None:
        """
        Wrap an object.

        Args:
            obj: The task. Any other object counts as local, not as an actor.
        """
        object.__setattr__(self, "_object", obj)

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the object."""
        if name.startswith("_"):
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(self._object, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the attribute on the object; names that begin with an underscore, on this wrapper."""
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._object, name, value)

    def call_async(self, method_name: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """
        Call a method of the object without waiting. `call_async("call_method", "get", "k")` calls the service.

        Raises:
            AttributeError: No such method.
        """
        method = getattr(self, method_name)
        if not callable(method):
            msg = f"{method_name!r} is not a callable method of {self._object!r}"
            raise AttributeError(msg)  # noqa: TRY004 - as in SAGE
        task = self._object
        if isinstance(task, ServiceTask) and method_name == "call_method":  # needs no thread that waits
            return task.handle.submit(*args, **kwargs)
        future: Future[Any] = Future()

        def run() -> None:
            future.set_running_or_notify_cancel()
            try:
                result = method(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - the future raises it
                future.set_exception(error)
            else:
                future.set_result(result)

        Thread(target=copy_context().run, args=(run,), name=f"{method_name}-async", daemon=True).start()
        return future

    def get_object(self) -> Any:
        """Return the wrapped object."""
        return self._object

    def is_ray_actor(self) -> bool:
        """Whether the object is a service whose replicas are in other processes."""
        task = self._object
        if not isinstance(task, ServiceTask):
            return False
        return "in_process" not in task.composition.target.registration.capabilities

    def is_local(self) -> bool:
        """Whether the object, or its replicas, are in this process."""
        return not self.is_ray_actor()

    def kill_actor(self, no_restart: bool = True) -> bool:  # noqa: FBT001, FBT002 - as in SAGE
        """
        End the service's replicas without waiting for their calls.

        Args:
            no_restart: True: stop the service. False: replace each replica by a new one, without losing a call.

        Returns:
            Whether that worked; if not, the log says why. False for replicas in this process: nothing is done.
        """
        if self.is_local():
            return False
        try:
            self._object.stop(0) if no_restart else self._object.restart()
        except Exception:
            logging.getLogger("sage_plugins").exception("%r was not ended", self)
            return False
        return True

    def cleanup_and_kill(self, cleanup_timeout: float = 5.0, no_restart: bool = True) -> tuple[bool, bool]:  # noqa: FBT001, FBT002 - as in SAGE
        """
        Let accepted calls finish, run the stop hooks, and end the replicas.

        Args:
            cleanup_timeout: Seconds for the calls.
            no_restart: As for `kill_actor`.

        Returns:
            Whether the calls and hooks finished, and whether the replicas ended. `(False, False)` for replicas in this
            process: nothing is done.
        """
        if self.is_local():
            return False, False
        if not no_restart:  # replacing a replica also cleans it up
            done = self.kill_actor(no_restart=False)
            return done, done
        try:
            self._object.stop(cleanup_timeout)
        except Exception:
            logging.getLogger("sage_plugins").exception("%r was not cleaned up", self)
            return False, self.kill_actor()
        return True, True

    def __repr__(self) -> str:
        return f"ActorWrapper[{'ray_actor' if self.is_ray_actor() else 'local'}]({self._object!r})"
