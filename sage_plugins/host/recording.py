"""Makes the recorders of monitors, and runs methods inside the `around` of a recorder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.call.current import current_call
from sage_plugins.errors import ConfigError, PluginError, text_of
from sage_plugins.host.thread_loop import UNRUN

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sage_plugins.call.call import Call
    from sage_plugins.host.execution import Execution
    from sage_plugins.interfaces import Recorder, RecorderFactory
    from sage_plugins.values import Choice, ReplicaInfo

__all__ = ["make_monitor", "make_recorder", "make_writer", "surrounded"]


def make_monitor(choice: Choice) -> Any:
    """
    Return the monitor, or its `RecorderFactory`, that *choice* creates.

    Raises:
        ConfigError: The monitor says so: its options are wrong.
        PluginError: It cannot be made; the message names the monitor.
    """
    try:
        return choice.create()
    except ConfigError:
        raise
    except Exception as error:
        msg = f"monitor '{choice.id}' from {choice.source} cannot be made: {text_of(error)}"
        raise PluginError(msg) from error


def make_recorder(
    choice: Choice, factory: RecorderFactory, who: ReplicaInfo, methods: tuple[str, ...]
) -> Recorder | None:
    """
    Return a recorder made by *factory*, which *choice* has created; None if the monitor counts no calls.

    Raises:
        PluginError: The recorder cannot be made; the message names the monitor.
    """
    try:
        return factory.recorder(who, methods)
    except Exception as error:
        whom = f"the calling side of service '{who.service}'" if who.replica is None else f"replica {who.replica}"
        msg = f"monitor '{choice.id}' from {choice.source} cannot make the recorder for {whom}: {text_of(error)}"
        raise PluginError(msg) from error


def make_writer(choice: Choice, recorder: Recorder) -> Callable[[int, int, float, float], None]:
    """
    Return a `record` function of *recorder*, for the calling side.

    Raises:
        PluginError: The recorder has none; the message names the monitor.
    """
    try:
        return recorder.writer()
    except Exception as error:
        msg = f"the recorder of monitor '{choice.id}' from {choice.source} has no writer: {text_of(error)}"
        raise PluginError(msg) from error


def surrounded(
    run: Callable[..., Any],
    around: Callable[[Call], AbstractContextManager[object]],
    execution: Execution,
    name: str,
    *,
    awaits: bool,
) -> Callable[..., Any]:
    """
    Return a function that runs *run* inside *around*.

    Args:
        run: A method as its worker calls it.
        around: Returns the context manager for a call.
        execution: Runs a coroutine that a plain method returns.
        name: The method's name.
        awaits: Whether the worker awaits the result of *run*.
    """

    def inside(*args: Any, **kwargs: Any) -> Any:
        with around(_running()):
            result = run(*args, **kwargs)
            return execution.finish(result, name) if type(result) in UNRUN else result

    async def inside_task(*args: Any, **kwargs: Any) -> Any:
        with around(_running()):
            result = await run(*args, **kwargs)
            return await execution.afinish(result, name) if type(result) in UNRUN else result

    return inside_task if awaits else inside


def _running() -> Call:
    call = current_call()
    assert call is not None  # noqa: S101 - for the type checker: a worker calls this for a call
    return call
