"""The rules for values that are pickled between processes: one that fails or hangs affects only its own call."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.suites.conformance import unless
from sage_deploy_testing.suites.service_conformance import VERBS, ServiceConformance
from sage_plugins import errors
from sage_plugins.call.current import CARRIED, INJECTORS, carry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sage_deploy_testing.suites.service_conformance import Deployed
    from sage_deploy_testing.tools.checkpoints import Checkpoint

__all__ = ["WireCases"]

#: Exceptions that end a thread, a process or a generator if nothing catches them, and one that nothing expects.
_ENDS = pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])


class Explosive(Exception):  # noqa: N818 - a value in most cases
    """Raises *kind* when its reader unpickles it. The replica's own threads read it without an error."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__(kind)
        self.kind = kind

    def __reduce__(self) -> Any:
        """Return what raises when it is read."""
        return _explode, (self.kind,)


def _explode(kind: type[BaseException]) -> Explosive:
    if "#" not in threading.current_thread().name:
        raise kind("while it was unpacked")
    return Explosive(kind)


class Alarm(Exception):  # noqa: N818 - what timeout decorators raise in a signal handler
    """Not an error of a call."""


class Slow:
    """Can be pickled only after its gate is opened."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __reduce__(self) -> Any:
        """Wait while it is pickled."""
        self._checkpoint.reach()
        return int, (1,)


class SlowToRead:
    """Is pickled at once, but can be read only after its gate is opened."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __reduce__(self) -> Any:
        """Return what waits when it is read."""
        return _read_slowly, (self._checkpoint,)


def _read_slowly(checkpoint: Checkpoint) -> int:
    checkpoint.reach()
    return 1


class Wire:
    """Answers with what its caller asks for."""

    def __init__(self) -> None:
        self._process = os.getpid(), id(self)

    def process(self) -> tuple[int, int]:
        """Return the process ID and the identity of the instance."""
        return self._process

    def echo(self, value: Any = None) -> Any:
        return value

    def explosive(self, kind: type[BaseException]) -> Explosive:
        return Explosive(kind)

    def fail(self, kind: type[BaseException]) -> None:
        raise Explosive(kind)

    def items(self, kind: type[BaseException]) -> Iterator[Any]:
        yield "first"
        yield Explosive(kind)

    def slow_to_read(self, checkpoint: Checkpoint) -> SlowToRead:
        return SlowToRead(checkpoint)

    def hold(self, checkpoint: Checkpoint) -> None:
        checkpoint.reach()

    def carried(self) -> dict[str, str]:
        return dict(CARRIED.get())

    def request(self) -> str | None:
        request_id: str | None = self.ctx.request_id  # type: ignore[attr-defined] # set before the constructor runs
        return request_id

    def log(self, text: str, level: int = logging.INFO) -> None:
        self.ctx.logger.log(level, text)  # type: ignore[attr-defined] # as above

    def held_by(self, value: Any, checkpoint: Checkpoint) -> Any:
        checkpoint.reach()
        return value


class WireCases(ServiceConformance):
    """A value, argument or exception that cannot be read, or only slowly, affects only its own call."""

    @VERBS
    def test_request_on_whose_behalf_a_call_is_made_goes_along(self, verb: str) -> None:
        """A method sees the request ID of its own caller. Without a request, it sees none."""
        service = self.deploy(Wire)

        def ask(request: str) -> Any:
            carry(request_id=request)
            return self.outcome(service.handle, verb, "request")

        assert copy_context().run(ask, "first") == "first"
        assert copy_context().run(ask, "second") == "second"
        assert self.outcome(service.handle, verb, "request") is None

    @VERBS
    def test_what_is_carried_goes_along_with_a_call(self, verb: str) -> None:
        """All carried values reach the method, by default none. Injectors add theirs to calls to another process."""
        service = self.deploy(Wire)

        def inject(carried: dict[str, str]) -> None:
            carried["added"] = carried.get("tenant", "nobody")

        def ask() -> Any:
            carry(tenant="acme")
            carry(trace="1")
            return self.outcome(service.handle, verb, "carried")

        assert self.outcome(service.handle, verb, "carried") == {}
        assert copy_context().run(ask) == {"tenant": "acme", "trace": "1"}
        INJECTORS.append(inject)
        try:
            found = copy_context().run(ask)
        finally:
            INJECTORS.remove(inject)
        assert found == {"tenant": "acme", "trace": "1"} | ({} if self.declares("in_process") else {"added": "acme"})

    @unless("in_callers_thread")
    def test_timing_of_a_call_has_its_wait_and_its_run(self) -> None:
        """Wait and run time are at least as long as the test observed, and together no longer than the call."""
        service = self.deploy(Wire)
        gate = self.watch()
        holding = [service.handle.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(service.slots)
        began = time.monotonic()
        waiting = service.handle.submit("echo")
        accepted = time.monotonic()
        assert waiting.timing is None
        self.until(lambda: service.waiting == 1)  # takes a while, because it asks for the status
        released = time.monotonic()
        gate.open()
        waiting.result(self.patience)
        holding[0].result(self.patience)
        over = time.monotonic()
        assert waiting.timing is not None
        assert waiting.timing.run_s is not None
        assert waiting.timing.queue_s > released - accepted
        assert waiting.timing.run_s >= 0
        assert waiting.timing.queue_s + waiting.timing.run_s < over - began
        assert holding[0].timing is not None
        assert holding[0].timing.run_s is not None
        assert holding[0].timing.run_s > released - began

    def test_what_a_replica_logs_is_in_the_logs_of_its_environment(self) -> None:
        """`env.logs()` has what a replica logs, with level, replica and request ID, wherever the replica runs."""
        log = logging.getLogger("sage.service")
        before = log.level
        log.setLevel(logging.INFO)
        try:
            service = self.deploy(Wire)
            service.env.logs()  # keeps lines from now on
            mine = copy_context()
            mine.run(carry, request_id="mine")
            mine.run(service.handle.log, "first")
            service.handle.log("second")
            found = [line for line in service.env.logs() if line.service == "svc"]
            said = [(line.message, line.level, line.request_id) for line in found]
            assert ("first", "INFO", "mine") in said
            assert ("second", "INFO", None) in said
            (replica,) = service.status["replicas"]
            if not self.declares("in_callers_thread"):
                assert {line.replica for line in found} == {replica["id"]}
            assert service.env.logs(after=found[-1].seq) == []
        finally:
            log.setLevel(before)

    def test_a_replica_logs_from_the_level_that_its_environment_takes(self) -> None:
        """A replica logs at the level of this process's logger. Messages below that level are not kept."""
        log = logging.getLogger("sage.service")
        before = log.level
        try:
            service = self.deploy(Wire)
            for level, kept in ((logging.INFO, set()), (logging.DEBUG, {"debugged"})):
                log.setLevel(level)
                seen = [line.seq for line in service.env.logs()]
                service.handle.log("debugged", logging.DEBUG)
                found = service.env.logs(after=seen[-1] if seen else 0, service="svc")
                assert {line.message for line in found if line.level == "DEBUG"} == kept
        finally:
            log.setLevel(before)

    def fails_alone(self, service: Deployed, call: Callable[[], Any]) -> None:
        """Check, more often than there are slots, that *call* raises a CallError and other calls are answered."""
        for _ in range(service.slots + 1):
            with pytest.raises(errors.CallError):
                call()
            assert service.handle.echo("alive") == "alive"
        self.until(lambda: not service.inflight)
        assert [replica["state"] for replica in service.status["replicas"]] == ["ready"]

    @unless("in_process")
    @_ENDS
    @pytest.mark.parametrize("verb", ["call", "submit", "acall"])
    def test_result_that_raises_while_it_is_read_fails_its_call_alone(
        self, verb: str, kind: type[BaseException]
    ) -> None:
        """The caller gets RemoteError, and the slot is free."""
        service = self.deploy(Wire)
        self.fails_alone(service, lambda: self.outcome(service.handle, verb, "explosive", kind))

    @unless("in_process")
    @_ENDS
    def test_exception_that_raises_while_it_is_read_fails_its_call_alone(self, kind: type[BaseException]) -> None:
        """The caller gets RemoteError, and the slot is free."""
        service = self.deploy(Wire)
        self.fails_alone(service, lambda: service.handle.fail(kind))

    @unless("in_process")
    @_ENDS
    def test_argument_that_raises_while_it_is_read_fails_its_call_alone(self, kind: type[BaseException]) -> None:
        """The caller gets RemoteError, and the slot is free."""
        service = self.deploy(Wire)
        self.fails_alone(service, lambda: service.handle.echo(Explosive(kind)))

    @unless("in_process")
    @_ENDS
    def test_item_that_raises_while_it_is_read_ends_its_stream_alone(self, kind: type[BaseException]) -> None:
        """The items before it arrive, and the slot is free."""
        service = self.deploy(Wire)

        def read() -> None:
            with service.handle.stream("items", kind) as stream:
                assert next(stream) == "first"
                next(stream)

        self.fails_alone(service, read)

    @unless("in_process")
    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
    def test_others_with_which_it_arrives_are_answered(self, kind: type[BaseException]) -> None:
        """One value in a response cannot be read. The other values in that response reach their callers."""
        service = self.deploy(Wire, at_once=4)
        calls = [service.handle.submit("explosive" if number % 2 else "echo", kind) for number in range(12)]
        assert [call.result(self.patience) for call in calls[::2]] == [kind] * 6
        assert all(isinstance(call.exception(self.patience), errors.RemoteError) for call in calls[1::2])

    @unless("in_process")
    def test_result_that_is_read_slowly_delays_no_other_call(self) -> None:
        """A result is read in a thread that no other caller needs."""
        service, gate = self.deploy(Wire), self.watch()
        slow = service.handle.submit("slow_to_read", gate.checkpoint)
        gate.wait(1)
        assert service.handle.echo("quick") == "quick"
        assert service.handle.submit("echo", "quick").result(self.patience) == "quick"
        assert not slow.done()
        gate.open()
        assert slow.result(self.patience) == 1

    @unless("in_process")
    def test_caller_is_released_at_its_deadline_while_its_result_is_read(self) -> None:
        """The slot is free while the result is read, and no call counts as running."""
        service, gate = self.deploy(Wire), self.watch()
        hasty = service.handle.with_options(timeout=5 * self.while_running)
        slow = [hasty.submit("slow_to_read", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(len(slow))
        for call in slow:
            with pytest.raises(errors.CallTimeoutError):
                call.result(self.patience)
        self.until(lambda: not service.inflight)
        assert service.handle.echo("alive") == "alive"
        assert [replica["state"] for replica in service.status["replicas"]] == ["ready"]

    @unless("in_process")
    @pytest.mark.parametrize("queued", [False, True])
    def test_argument_that_is_packed_slowly_delays_no_other_call(self, *, queued: bool) -> None:
        """An argument is pickled in a thread that no other caller needs, even if its call had to wait for a slot."""
        service, gate = self.deploy(Wire), self.watch()
        occupied = [self.watch() for _ in range(service.slots)] if queued else []
        for each in occupied:
            service.handle.submit("hold", each.checkpoint)
            each.wait(1)
        slow = self.in_thread(service.handle.call, "echo", Slow(gate.checkpoint))
        if queued:
            self.until(lambda: service.waiting or gate.seen())
            for each in occupied:
                each.open()
        gate.wait(1)
        if service.slots > 1:
            assert service.handle.echo("quick") == "quick"
            assert service.handle.submit("echo", "quick").result(self.patience) == "quick"
        assert not slow.done()
        gate.open()
        assert slow.result(self.patience) == 1

    @unless("in_process")
    def test_argument_read_slowly_delays_no_other_call(self) -> None:
        """An argument is read in a thread that no other call of the replica needs. Calls that arrive with it run."""
        service, gate = self.deploy(Wire, at_once=3), self.watch()
        slow = service.handle.submit("echo", SlowToRead(gate.checkpoint))
        gate.wait(1)
        others = [service.handle.submit("echo", number) for number in range(20)]
        if service.slots > 1:
            assert [call.result(self.patience) for call in others] == list(range(20))
        assert not slow.done()
        gate.open()
        assert slow.result(self.patience) == 1
        assert [call.result(self.patience) for call in others] == list(range(20))

    @unless("in_process")
    def test_caller_is_released_at_its_deadline_while_its_argument_is_read(self) -> None:
        """
        If the deadline passes while an argument is read, the method never starts. The slot is free once it was read.
        """
        service, gate, ran = self.deploy(Wire), self.watch(), self.watch()
        hasty = service.handle.with_options(timeout=5 * self.while_running)
        slow = [hasty.submit("held_by", SlowToRead(gate.checkpoint), ran.checkpoint) for _ in range(service.slots)]
        gate.wait(len(slow))
        for call in slow:
            with pytest.raises(errors.CallTimeoutError):
                call.result(self.patience)
        gate.open()
        self.until(lambda: not service.inflight)
        assert service.handle.echo("alive") == "alive"
        assert not ran.seen()

    @unless("in_process")
    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no signals for threads")
    @pytest.mark.parametrize("kind", [Alarm, KeyboardInterrupt])
    def test_signal_handler_that_raises_ends_the_callers_wait_and_nothing_else(self, kind: type[BaseException]) -> None:
        """The caller gets the handler's own exception. The same replica answers the other calls."""
        service, gate = self.deploy(Wire), self.watch()
        process = service.handle.process()
        others = [service.handle.submit("hold", gate.checkpoint) for _ in range(service.slots - 1)]
        main = threading.main_thread().ident
        assert main == threading.get_ident()

        def interrupt() -> None:
            gate.wait(service.slots)
            signal.pthread_kill(main, signal.SIGUSR1)

        def ring(*_: object) -> None:
            raise kind

        before = signal.signal(signal.SIGUSR1, ring)
        try:
            self.in_thread(interrupt)
            with pytest.raises(kind):
                service.handle.call("hold", gate.checkpoint)
        finally:
            signal.signal(signal.SIGUSR1, before)
        gate.open()
        assert [other.result(self.patience) for other in others] == [None] * len(others)
        self.until(lambda: not service.inflight)
        assert service.handle.echo("alive") == "alive"
        assert service.handle.process() == process
