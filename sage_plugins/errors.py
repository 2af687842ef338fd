"""
Every error that sage-deploy raises, and how an exception is put into words.

All of them pickle with their attributes, because a call may fail in another process than the one that waits for it.
Each message says what happened, to which service, method, replica and node as far as they are known, and what to do
about it. Where Python has a builtin for the cause (`TimeoutError`, `LookupError`, `AttributeError`, `ValueError`), the
error is one.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage_plugins.problems import Problem

__all__ = [
    "BlockingCallWarning",
    "CallCancelledError",
    "CallError",
    "CallTimeoutError",
    "CircuitOpenError",
    "ClusterUnavailableError",
    "ConfigError",
    "DeployError",
    "ForkedRuntimeError",
    "InvalidKeyError",
    "MethodNotFoundError",
    "NoReplicaError",
    "OverloadedError",
    "PlanError",
    "PluginConflictError",
    "PluginError",
    "ReentrantCallError",
    "RemoteError",
    "ReplicaDiedError",
    "ResultNotSerializableError",
    "SageDeployError",
    "ServiceNotFoundError",
    "ServiceStoppedError",
    "UnknownPluginError",
    "line_of",
    "rebuild",
    "text_of",
]


def text_of(error: BaseException | None) -> str:
    """`ValueError: bad input`, also for an exception that cannot be printed; `"None"` for None."""
    if error is None:
        return "None"
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        return f"{name}: <its text cannot be read>"
    return f"{name}: {text}" if text else name


def line_of(error: BaseException | None) -> str:
    """As `text_of`, on one line."""
    return " ".join(text_of(error).split())


def rebuild(cls: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    """
    An exception made of its parts, without its `__init__`, which may want other arguments than those that it kept.

    Args:
        cls: Class of the exception.
        args: Its `args`.
        attributes: Its `__dict__`.
    """
    # Of several bases one decides how instances lie in memory; it is in __base__, and only its __new__ will do.
    maker: type[Any] = cls
    while "__new__" not in vars(maker):
        maker = maker.__base__ or object
    error: BaseException = maker.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class SageDeployError(Exception):
    """
    Base of everything that sage-deploy raises on its own account; a service's own exceptions arrive as themselves.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own __reduce__ calls the class with args alone, which loses keyword-only attributes and fails for
        # required ones.
        return rebuild, (type(self), self.args, self.__dict__)


class ConfigError(SageDeployError, ValueError):
    """
    A configuration is not valid.

    Attributes:
        problems: Every problem found, errors first; the message lists them all. Empty if there is only the message.
    """

    def __init__(self, message: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[Problem, ...] = tuple(problems)


class PlanError(SageDeployError):
    """A deployment cannot be composed as configured; nothing was started."""

    def __init__(self, message: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[Problem, ...] = tuple(problems)


class DeployError(SageDeployError):
    """A service did not start; raised from the constructor's own exception, after whatever had started was stopped."""

    def __init__(self, message: str, *, service: str | None = None, replica: str | None = None) -> None:
        super().__init__(message)
        self.service = service
        self.replica = replica


class PluginError(SageDeployError):
    """A plugin broke its contract; the message names the plugin and the distribution that brings it."""


class UnknownPluginError(PluginError, LookupError):
    """
    No installed plugin has the ID that was asked for.

    Attributes:
        kind: What was looked up: `"target"`, `"threading strategy"`, `"load balancer"` or `"monitor"`.
        id: The ID asked for.
        problems: The same as a problem of a configuration, with whatever else is doubtful about that.
    """

    def __init__(self, message: str, *, kind: str = "", id: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.id = id
        self.problems: tuple[Problem, ...] = tuple(problems)


class PluginConflictError(PluginError):
    """
    Two installed plugins offer the ID that was asked for; the message names both and the way out.

    Attributes:
        kind: What was looked up, as in `UnknownPluginError`.
        id: The ID asked for.
        problems: The same as a problem of a configuration, with whatever else is doubtful about that.
    """

    def __init__(self, message: str, *, kind: str = "", id: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.id = id
        self.problems: tuple[Problem, ...] = tuple(problems)


class CallError(SageDeployError, RuntimeError):
    """
    Base of the errors with which a call can end, other than the method's own exception.

    Attributes:
        service: Name of the service called.
        method: Name of the method called, if known.
        replica: Replica that had the call, such as `"kv#1"`, if any had.
        node: Node of that replica, if known.
    """

    def __init__(
        self,
        message: str,
        *,
        service: str | None = None,
        method: str | None = None,
        replica: str | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(message)
        self.service = service
        self.method = method
        self.replica = replica
        self.node = node


class CallTimeoutError(CallError, TimeoutError):
    """
    The call's deadline passed.

    Attributes:
        stage: `"queue"`: the call never started and never will. `"run"`: it had started; a synchronous method cannot be
            stopped, so it may still be running and holds its slot until it ends.
    """

    def __init__(self, message: str, *, stage: Literal["queue", "run"] = "queue", **where: str | None) -> None:
        super().__init__(message, **where)
        self.stage: Literal["queue", "run"] = stage


class CallCancelledError(CallError, CancelledError):
    """The caller cancelled the call; it is also a `concurrent.futures.CancelledError`."""


class OverloadedError(CallError):
    """
    The queue is full, or the call could not be answered in time, and `overload` is not `block`; the call did not run.

    Attributes:
        retry_after: Seconds after which a call is likely to be accepted, or None if nothing is known yet.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **where: str | None) -> None:
        super().__init__(message, **where)
        self.retry_after = retry_after


class NoReplicaError(CallError):
    """No replica can take the call; it did not run."""


class CircuitOpenError(NoReplicaError):
    """
    The service failed too often of late and is left alone for a while; the call did not run.

    Attributes:
        retry_after: Seconds after which a call may be let through, or None if nothing is known.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **where: str | None) -> None:
        super().__init__(message, **where)
        self.retry_after = retry_after


class ReplicaDiedError(CallError):
    """
    The replica that had the call died, or gave it up, having heard nothing of the calling process for a minute.

    Attributes:
        maybe_executed: False only if the call provably never started.
    """

    def __init__(self, message: str, *, maybe_executed: bool = True, **where: str | None) -> None:
        super().__init__(message, **where)
        self.maybe_executed = maybe_executed


class ServiceStoppedError(CallError):
    """The service is draining or has stopped; the call did not run, unless the message says that it was running."""


class RemoteError(CallError):
    """
    The method raised something that cannot be raised in the caller as itself, such as `SystemExit`.

    Attributes:
        type_name: Qualified name of the original exception's class.
        original_message: `str()` of the original exception.
        traceback_text: The original traceback, formatted.
    """

    def __init__(
        self,
        message: str,
        *,
        type_name: str = "",
        original_message: str = "",
        traceback_text: str = "",
        **where: str | None,
    ) -> None:
        super().__init__(message, **where)
        self.type_name = type_name
        self.original_message = original_message
        self.traceback_text = traceback_text


class ResultNotSerializableError(CallError):
    """The method ran, but its result cannot travel between processes."""


class ReentrantCallError(CallError):
    """The service called itself, through any chain, with all its slots taken: waiting would never end."""


class InvalidKeyError(CallError, TypeError):
    """A call's key is of a type by which no replica can be chosen; the call was not accepted and did not run."""


class ServiceNotFoundError(CallError, LookupError):
    """No service of that name is registered."""


class MethodNotFoundError(CallError, AttributeError):
    """The service does not serve a method of that name; private names and life-cycle hooks are never served."""


class ClusterUnavailableError(SageDeployError):
    """The cluster did not answer in time."""


class ForkedRuntimeError(SageDeployError):
    """
    This process was forked from one that runs services; threads do not survive a fork, so the services are not here.
    """


class BlockingCallWarning(RuntimeWarning):
    """
    A call waits in a thread that runs an event loop, which stands still meanwhile; given once for each handle.

    Use `await handle.aio.<method>(...)` or `await handle.acall(<method>, ...)` in coroutines.
    """
