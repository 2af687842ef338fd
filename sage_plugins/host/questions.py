"""Answers control operations of a replica: health checks, statistics, errors, stacks, the instance's attributes."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.interfaces import CallCounter, ControlOp
from sage_plugins.interfaces.control import OWN_METRICS
from sage_plugins.service.factory import hook
from sage_plugins.service.own_metrics import Gauge
from sage_plugins.service.usage import used
from sage_plugins.threads import stacks

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Future

    from sage_plugins.clock import Clock
    from sage_plugins.host.execution import Execution
    from sage_plugins.interfaces import Recorder, Runner
    from sage_plugins.values import RunnerStats

__all__ = ["Questions"]


_CHECKS: Final = {ControlOp.CHECK: "check_health", ControlOp.READY: "check_ready"}

_LAG: Final = "How long the event loop took to run a callback that was scheduled at the previous look."


class _LoopLag:
    """Measures how long an event loop takes to run a callback; each `look` schedules one for the next `look`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked_at: float | None = None  # None if no callback is pending
        self._latest: float | None = None

    def look(self, loop: asyncio.AbstractEventLoop) -> float | None:
        """Return the seconds of the last callback, or of the pending one if it takes longer; None before the first."""
        now, asked_at = self._clock.monotonic(), self._asked_at
        if asked_at is not None:
            return max(now - asked_at, self._latest or 0.0)
        self._asked_at = now
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(self._came, now)
        return self._latest

    def _came(self, asked_at: float) -> None:
        self._latest = self._clock.monotonic() - asked_at
        self._asked_at = None


class Questions:
    """
    Answers control operations in the asking thread, even if all slots are taken.

    A coroutine check runs on the replica's event loop. All methods are safe from any thread but that loop's.
    """

    def __init__(
        self,
        execution: Execution,
        recorders: Mapping[str, Recorder],
        life: Callable[[], tuple[Any, Runner | None]],
    ) -> None:
        """
        Prepare.

        Args:
            execution: The replica's execution; knows the event loop, and when the last call ended.
            recorders: The recorders that count calls, by the ID of their monitor.
            life: Returns the instance (None before it is built and after its end) and the runner (None before the
                start).
        """
        self._execution = execution
        self._recorders = recorders
        self._life = life
        self._lag = _LoopLag(execution.clock)
        self._lock = threading.Lock()
        self._runner_failed = False
        self._closed = False  # guarded by _lock, as the next
        self._waiting: set[Future[Any]] = set()  # answers of the loop for which threads wait

    def answer(self, op: ControlOp, arg: Any = None) -> Any:
        """
        Return the answer to *op*; wait for it without a limit.

        Raises:
            CancelledError: The replica stopped while a check ran on its loop (`concurrent.futures.CancelledError`).
            RuntimeError: The check returned False, or there is no instance now.
            AttributeError: There is no such attribute, or it is private.
            ValueError: *op* is unknown.
            BaseException: What a check, `terminate()`, a property or a setter raises.
        """
        if op is ControlOp.COUNTS:  # asked most often
            return self._snapshots()
        looks = {
            ControlOp.STATS: self._stats,
            ControlOp.ERRORS: self._execution.errors.latest,
            ControlOp.STACKS: stacks,
        }
        if op in looks:
            return looks[op]()
        if op in _CHECKS:
            return self._check(_CHECKS[op])
        if op is ControlOp.LOGS:
            return ()
        if op in {ControlOp.GET, ControlOp.SET, ControlOp.TERMINATE}:
            return self._access(op, arg)
        msg = f"unknown control operation {op!r}"
        raise ValueError(msg)

    def _snapshots(self) -> dict[str, Any]:
        snapshots: dict[str, Any] = {}
        for id, recorder in self._recorders.items():
            try:
                snapshots[id] = recorder.snapshot()
            except Exception as error:  # noqa: BLE001 - a plugin's fault must not make the whole status fail
                self._execution.recorder_failed(error, id)
        return snapshots

    def _stats(self) -> Mapping[str, Any]:
        snapshots = self._snapshots()
        _, runner = self._life()
        loop = self._execution.event_loop
        lag = None if loop is None else self._lag.look(loop)
        if lag is not None:
            self._execution.metrics().add(Gauge("sage_event_loop_lag_seconds", _LAG, (), ())).set(lag)
        own = self._execution.own
        if own is not None:
            snapshots[OWN_METRICS] = own.families()
        recycle, latest = self._execution.spec.config.recycle, self._execution.latest()
        return {
            **({} if recycle is None else {"recycle": used(self._recorders, recycle)}),
            "runner": None if runner is None else self._runner_stats(runner),
            "recorders": snapshots,
            "pid": os.getpid(),
            "running": self._execution.at_work(),
            "idle": None if latest == -inf else self._execution.clock.monotonic() - latest,
        }

    def _runner_stats(self, runner: Runner) -> RunnerStats | None:
        try:
            return runner.stats()
        except Exception:
            if not self._runner_failed:
                self._runner_failed = True
                spec = self._execution.spec
                logging.getLogger("sage_plugins").exception(
                    "threading strategy '%s' from %s does not say what %s does; its further faults are not reported",
                    spec.strategy.id,
                    spec.strategy.source,
                    spec.id,
                )
            return None

    def counts(self) -> Mapping[str, int]:
        """Return the counts of the monitor `metrics` for this replica; empty without that monitor."""
        recorder = self._recorders.get("metrics")
        return recorder.counts() if isinstance(recorder, CallCounter) else {}

    def _access(self, op: ControlOp, arg: Any) -> Any:
        instance, _ = self._life()
        if instance is None:
            msg = f"{self._execution.spec.id} has no instance: it is being built, or has ended"
            raise RuntimeError(msg)
        if op is ControlOp.TERMINATE:
            for coroutine in hook(instance, "terminate"):
                import asyncio

                asyncio.run(coroutine)
            return None
        name, value = (arg, None) if op is ControlOp.GET else arg
        if not isinstance(name, str) or name.startswith("_"):
            replica = self._execution.spec.id
            msg = f"attribute {name!r} of {replica} is private: names with an underscore are not given out"
            raise AttributeError(msg)
        if op is ControlOp.SET:
            setattr(instance, name, value)
            return None
        return getattr(instance, name)

    def _check(self, hook: str) -> bool:
        check = getattr(self._life()[0], hook, None)
        loop = self._execution.event_loop
        if loop is not None and inspect.iscoroutinefunction(check):
            outcome = self._ask_on(loop, check)
        else:
            outcome = None if check is None else check()
        if inspect.iscoroutine(outcome):
            import asyncio

            outcome = asyncio.run(outcome)
        if outcome == False:  # noqa: E712 - also `numpy.False_`
            msg = f"{hook}() of {self._execution.spec.id} returned False"
            raise RuntimeError(msg)
        return True

    def _ask_on(self, loop: asyncio.AbstractEventLoop, check: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        import asyncio

        coroutine = _answer(check)
        with self._lock:
            if self._closed:
                coroutine.close()
                raise CancelledError
            try:
                answer = asyncio.run_coroutine_threadsafe(coroutine, loop)
            except RuntimeError:  # the loop was closed
                coroutine.close()
                raise
            self._waiting.add(answer)
        try:
            result, error = answer.result()
        finally:
            with self._lock:
                self._waiting.discard(answer)
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Ask the loop nothing more. Call it before the loop ends, so that the loop cancels all pending checks."""
        with self._lock:
            self._closed = True

    def end(self) -> None:
        """Release waiting threads, as the loop has ended or a method blocks it."""
        with self._lock:
            self._closed = True
            waiting = tuple(self._waiting)
        for answer in waiting:
            answer.cancel()


async def _answer(check: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, BaseException | None]:
    import asyncio

    try:
        return await check(), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - includes SystemExit, which would end the loop
        return None, error
