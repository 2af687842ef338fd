"""Creates spans around methods, and sends the trace context with calls."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from sage_plugins.call.current import CARRIED, INJECTORS, request_id
from sage_plugins.errors import text_of
from sage_plugins.interfaces import QuietMonitor
from sage_plugins.threads import future_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from sage_deploy_otel.options import OtelOptions
    from sage_plugins.call.call import Call
    from sage_plugins.values import ReplicaInfo

__all__ = ["Spans", "Tracing"]

#: Seconds that a stopping replica waits for the export of its spans.
_FLUSH_S: Final = 1.0

_LOCK: Final = threading.Lock()
_SET_UP: Final[set[str]] = set()


class Tracing(QuietMonitor):
    """Creates a span for each call, where its method runs; see `interfaces.Monitor`."""

    def __init__(self, options: OtelOptions) -> None:
        """
        Send the trace context with calls that leave this process, and call the function that sets up the SDK.

        Raises:
            ConfigError: `setup` names a module or a function that does not exist.
        """
        with _LOCK:
            if _inject not in INJECTORS:
                INJECTORS.append(_inject)
            if options.setup is not None and options.setup not in _SET_UP:
                _named(options.setup)()
                _SET_UP.add(options.setup)

    def recorder(self, who: ReplicaInfo, methods: tuple[str, ...], /) -> Spans:  # noqa: ARG002 - as in Monitor
        """Return a recorder. The calling side's one does nothing, so calls that never start have no span."""
        return Spans(who)


def _named(setup: str) -> Callable[[], object]:
    """Return the function that `MODULE:FUNCTION` names."""
    from sage_plugins.errors import ConfigError
    from sage_plugins.texts import did_you_mean

    module, _, function = setup.partition(":")
    try:
        found = import_module(module)
    except ImportError as error:
        raise ConfigError(f"options.otel.setup: cannot import {setup!r}: {error}") from error
    if not callable(getattr(found, function, None)):
        near = did_you_mean(function, [name for name, value in vars(found).items() if callable(value)])
        hint = f"did you mean {near!r}?" if near else "define it there, or name another one"
        raise ConfigError(f"options.otel.setup: {module} has no function {function!r} ({hint})")
    return getattr(found, function)  # type: ignore[no-any-return]


class Spans:
    """Traces one replica's calls, in its process; see `interfaces.CallSurrounder`."""

    def __init__(self, who: ReplicaInfo) -> None:
        self._tracer: Tracer = trace.get_tracer("sage_deploy")
        self._about: dict[str, str | float] = {
            "rpc.system": "sage_deploy",
            "rpc.service": who.service,
            "sage_deploy.replica": str(who.replica),
        }
        if who.node is not None:
            self._about["sage_deploy.node"] = who.node

    def writer(self) -> Callable[[int, int, float, float], None]:
        """Return a function that does nothing: spans are not counted."""
        return _count_nothing

    def snapshot(self) -> Mapping[str, Any]:
        """Return nothing: spans are not counted."""
        return {}

    def close(self) -> None:
        """Export the remaining spans, because the replica's process may end without doing so."""
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            with suppress(Exception):  # the SDK logs errors, if anybody does; a collector may take long to answer
                future_of(flush, "sage-deploy-otel-flush").result(_FLUSH_S)

    @contextmanager
    def around(self, call: Call, /) -> Iterator[None]:
        """Create a span from the acceptance of *call* to its method's end. The event `run` marks the method's start."""
        # Read both clocks now, to convert the call's times to the clock of spans.
        offset = time.time_ns() - int(call.owner.clock.monotonic() * 1e9)
        carried = CARRIED.get()
        parent = None if _is_in_span() else propagate.extract(carried)  # a caller in this process comes first
        about: dict[str, str | float] = {
            **self._about,
            "rpc.method": call.method.name,
            "sage_deploy.queue_s": call.began - call.since,
        }
        request = request_id()
        if request is not None:
            about["sage_deploy.request_id"] = request
        span = self._tracer.start_span(
            f"{call.owner.service}.{call.method.name}",
            parent,
            SpanKind.INTERNAL if parent is None or not carried else SpanKind.SERVER,
            about,
            start_time=offset + int(call.since * 1e9),
        )
        span.add_event("run", timestamp=offset + int(call.began * 1e9))
        token = context.attach(trace.set_span_in_context(span, parent))
        try:
            yield
            if call.settled():
                span.set_status(Status(StatusCode.ERROR, "given up by its caller before the method ended"))
        except BaseException as error:
            _note_failure(span, error)
            raise
        finally:
            context.detach(token)
            span.end()


def _inject(carried: dict[str, str]) -> None:
    """Add the current span to a call that leaves this process. Without one, the call keeps what it carried."""
    if _is_in_span():
        for field in propagate.get_global_textmap().fields:
            carried.pop(field, None)
        propagate.inject(carried)


def _is_in_span() -> bool:
    return trace.get_current_span().get_span_context().is_valid


def _note_failure(span: Span, error: BaseException) -> None:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.set_attribute("error.type", name)
    with suppress(Exception):  # the SDK formats the error, whose own code may raise
        span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, text_of(error)))


def _count_nothing(_method: int, _outcome: int, _wait_s: float, _run_s: float) -> None:
    pass
