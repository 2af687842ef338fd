"""
All errors that sage-deploy raises, and functions that turn exceptions into text.

All can be pickled with their attributes, because a call may fail in another process. Each message says what happened,
to which service, method, replica and node (as far as known), and what to do. An error is derived from Python's builtin
for the cause, if there is one (`TimeoutError`, `LookupError`, `AttributeError`, `ValueError`).
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
    """Return the exception as text: `ValueError: bad input`; `"None"` for None. Works even if its `str()` fails."""
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
    Make an exception from its parts without calling `__init__`, whose arguments may differ from `args`.

    Args:
        cls: Class of the exception.
        args: Its `args`.
        attributes: Its `__dict__`.
    """
    # Only the __new__ of the base that decides the memory layout works; __base__ leads to it.
    maker: type[Any] = cls
    while "__new__" not in vars(maker):
        maker = maker.__base__ or object
    error: BaseException = maker.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class SageDeployError(Exception):
    """
    Base of all errors of sage-deploy itself. Exceptions of a service's methods keep their own type.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ calls the class with `args` only, which loses or lacks keyword-only arguments.
        return rebuild, (type(self), self.args, self.__dict__)


class ConfigError(SageDeployError, ValueError):
    """
    A configuration is not valid.

    Attributes:
        problems: All errors and warnings found. Empty if there is only the message.
    """

    def __init__(self, message: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[Problem, ...] = tuple(problems)


class PlanError(SageDeployError):
    """
    A deployment cannot be composed as configured; nothing was started.

    Attributes:
        problems: All errors and warnings found.
    """

    def __init__(self, message: str, *, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[Problem, ...] = tuple(problems)


class DeployError(SageDeployError):
    """
    A service could not be started or changed. `__cause__` is the exception of the constructor or hook, if any.

    Attributes:
        service: The service's name, if known.
        replica: ID of the replica concerned, if any.
    """

    def __init__(self, message: str, *, service: str | None = None, replica: str | None = None) -> None:
        super().__init__(message)
        self.service = service
        self.replica = replica


class PluginError(SageDeployError):
    """A plugin broke its contract. The message names the plugin and its distribution."""


class UnknownPluginError(PluginError, LookupError):
    """
    No installed plugin has the requested ID.

    Attributes:
        kind: Kind of plugin, such as `"target"`, `"threading strategy"`, `"load balancer"` or `"monitor"`.
        id: The requested ID.
        problems: This error and all others of the configuration, as problems.
    """

    def __init__(self, message: str, *, kind: str = "", id: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.id = id
        self.problems: tuple[Problem, ...] = tuple(problems)


class PluginConflictError(PluginError):
    """
    Two installed plugins offer the requested ID. The message names both and says what to do.

    Attributes:
        kind, id, problems: As in `UnknownPluginError`.
    """

    def __init__(self, message: str, *, kind: str = "", id: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.id = id
        self.problems: tuple[Problem, ...] = tuple(problems)


class CallError(SageDeployError, RuntimeError):
    """
    Base of the errors with which a call can end, except the method's own exceptions.

    Attributes:
        service: Name of the called service.
        method: Name of the called method, if known.
        replica: ID of the replica that had the call, such as `"kv#1"`; None if no replica had it.
        node: Name of that replica's node, if known.
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
        stage: `"queue"`: the call has not started and never will. `"run"`: it had started. A synchronous method cannot
            be stopped, so it may still run, and holds its slot until it ends.
    """

    def __init__(self, message: str, *, stage: Literal["queue", "run"] = "queue", **where: str | None) -> None:
        super().__init__(message, **where)
        self.stage: Literal["queue", "run"] = stage


class CallCancelledError(CallError, CancelledError):
    """The caller cancelled the call. The error is also a `concurrent.futures.CancelledError`."""


class OverloadedError(CallError):
    """
    The queue is full, or the call could not be answered in time, and `overload` is not `block`. The call did not run.

    Attributes:
        retry_after: Seconds after which a call is likely to be accepted; None if unknown.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **where: str | None) -> None:
        super().__init__(message, **where)
        self.retry_after = retry_after


class NoReplicaError(CallError):
    """No replica can take the call; it did not run."""


class CircuitOpenError(NoReplicaError):
    """
    The service failed too often, and its circuit breaker refuses calls for a while. The call did not run.

    Attributes:
        retry_after: Seconds after which a call may be let through; None if unknown.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **where: str | None) -> None:
        super().__init__(message, **where)
        self.retry_after = retry_after


class ReplicaDiedError(CallError):
    """
    The replica that had the call died, or gave it up after hearing nothing from the calling process for 1 min.

    Attributes:
        maybe_executed: False only if the call surely never started.
    """

    def __init__(self, message: str, *, maybe_executed: bool = True, **where: str | None) -> None:
        super().__init__(message, **where)
        self.maybe_executed = maybe_executed


class ServiceStoppedError(CallError):
    """The service is draining or has stopped. The call did not run, unless the message says that it was running."""


class RemoteError(CallError):
    """
    The method raised an exception that the caller cannot get with its own type, such as `SystemExit`.

    Attributes:
        type_name: Qualified name of the original class.
        original_message: `str()` of the original.
        traceback_text: The original traceback.
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
    """The method ran, but its result cannot be sent to the caller's process."""


class ReentrantCallError(CallError):
    """The service called itself, directly or through other services, with all its slots taken: a deadlock."""


class InvalidKeyError(CallError, TypeError):
    """The type of the call's key cannot choose a replica. The call did not run."""


class ServiceNotFoundError(CallError, LookupError):
    """No such service."""


class MethodNotFoundError(CallError, AttributeError):
    """The service does not serve a method of that name. Private names and life-cycle hooks are never served."""

    # The message has the nearest name. Python would set `name` and append its own guess to the traceback.
    name = property(lambda _: None, lambda _, __: None)


class ClusterUnavailableError(SageDeployError):
    """The cluster did not answer in time."""


class ForkedRuntimeError(SageDeployError):
    """
    This process was forked from one that runs services. Threads do not survive a fork, so the services are not here.
    """


class BlockingCallWarning(RuntimeWarning):
    """
    A call waits in the thread of an event loop and blocks the loop. Given once for each handle.

    Use `await handle.aio.<method>(...)` or `await handle.acall(<method>, ...)` in coroutines.
    """
