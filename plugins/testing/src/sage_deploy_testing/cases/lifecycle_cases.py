"""The rules for the lifecycle of a service: start, warm-up, drain and stop."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sage_deploy_testing.suites.conformance import needs, needs_any, unless
from sage_deploy_testing.suites.probes import (
    AsyncLiving,
    Calling,
    Connected,
    Early,
    Failing,
    FailingOnce,
    Late,
    Living,
    Meeting,
    ProbeError,
    whereabouts,
)
from sage_deploy_testing.suites.service_conformance import INNER_CALLS, VERBS, Deployed, ServiceConformance
from sage_plugins import Environment, ServiceFactory, ServiceTaskFactory, errors

if TYPE_CHECKING:
    from sage_deploy_testing.tools.checkpoints import Watch

__all__ = ["CloseCases", "FailedStartCases", "HookCases", "LazyCases"]

_START = ["init", "setup", "start_running", "warmup"]
_STOP = ["stop", "cleanup"]


def _steps(diary: Watch) -> list[str]:
    """Return the steps reported since the last look, in order."""
    return [step for step, *_ in diary.seen()]


class HookCases(ServiceConformance):
    """Hooks of starts and stops that succeed."""

    def test_hooks_run_once_each_in_order(self) -> None:
        """
        Each hook runs once: init, setup, start_running, warmup, calls, stop, cleanup.

        A class with `start_running` and `cleanup` does not get `start` and `close`.
        """
        diary = self.watch(held=False)
        service = self.deploy(Living, diary.checkpoint)
        assert _steps(diary) == _START
        service.handle.method()
        service.env.close()
        service.env.close()
        assert _steps(diary) == ["method", *_STOP]
        assert service.status["state"] == "stopped"
        # The host catches what a stop hook raises, and only the event shows it.
        stopped = [each.event.reason for each in service.env.events() if each.event.kind == "replica_stopped"]
        assert stopped == [""]

    @unless("in_process")
    def test_canary_is_no_request(self) -> None:
        """A new replica answers a no-op before it gets calls: no method runs, no request counts, no slot is lost."""
        service = self.deploy()
        assert service.metrics.request_count == 0
        assert [replica["inflight"] for replica in service.status["replicas"]] == [0]
        gate = self.watch()
        calls = [self.begin(service.handle, "hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(len(calls))
        assert [replica["inflight"] for replica in service.status["replicas"]] == [service.slots]
        gate.open()
        assert {call.result(self.patience) for call in calls} == {0}
        assert service.metrics.request_count == service.slots

    @needs("in_process")
    @unless("in_callers_thread")
    def test_start_hook_may_submit_calls_for_later(self) -> None:
        """A start hook may `submit` a call to its own service. The call runs once the replica is ready."""
        service = self.deploy(Early, "submit", "svc")
        self.until(lambda: service.handle.done() == ["early"])

    def test_async_hooks_are_awaited(self) -> None:
        """Hooks may be coroutines. `start` replaces `start_running`, and `close` replaces `cleanup`."""
        diary = self.watch(held=False)
        service = self.deploy(AsyncLiving, diary.checkpoint)
        service.handle.call("method")
        service.env.close()
        assert _steps(diary) == ["setup", "start", "warmup", "method", "stop", "close"]

    def test_nothing_is_built_in_the_deploying_thread(self) -> None:
        """Constructor and start hooks run in another thread, so that a deployment can end while a constructor hangs."""
        diary = self.watch(held=False)
        self.deploy(Living, diary.checkpoint)
        assert whereabouts() not in {(process, thread) for _, _, process, thread in diary.seen()}

    @needs("one_at_a_time")
    @unless("in_callers_thread")
    @pytest.mark.parametrize("service_class", [Living, AsyncLiving])
    def test_hooks_run_where_calls_run(self, service_class: type) -> None:
        """Constructor, hooks and calls all run on the same thread."""
        diary = self.watch(held=False)
        service = self.deploy(service_class, diary.checkpoint)
        service.handle.call("method")
        service.env.close()
        assert len({(process, thread) for _, _, process, thread in diary.seen()}) == 1

    @needs("one_at_a_time")
    @unless("in_callers_thread")
    def test_hooks_and_methods_share_the_event_loop(self) -> None:
        """Async methods can use what an async hook created on the event loop, and the last hook can end it."""
        service = self.deploy(Connected)
        assert service.handle.call("method")
        service.env.close()

    @needs("event_loop")
    def test_coroutines_meet_on_the_event_loop(self) -> None:
        """Two coroutines of a replica run at once on the hooks' event loop, so one can wait for the other."""
        service = self.deploy(Meeting)
        waiting = service.handle.submit("wait")
        assert service.handle.call("meet")
        assert waiting.result(self.patience)

    @pytest.mark.parametrize("step", _STOP)
    def test_stop_hook_that_raises_keeps_nothing_from_ending(self, step: str) -> None:
        diary = self.watch(held=False)
        service = self.deploy(Failing, diary.checkpoint, step)
        service.env.close()
        assert _steps(diary) == _START + _STOP
        assert service.status["state"] == "stopped"

    def test_task_lives_outside_environments(self) -> None:
        """`start_running` builds a task, and `stop` ends it. `stop` before that does nothing."""
        diary = self.watch(held=False)
        factory = ServiceFactory("svc", Living, (diary.checkpoint,))
        task = ServiceTaskFactory(factory, self.configuration(), registry=self.registry()).create_service_task()
        task.stop()
        assert (task.state, diary.seen(), self.replica_threads()) == ("pending", [], [])
        task.start_running()
        task.start_running()
        assert task.state == "ready"
        task.handle.method()
        task.cleanup()
        task.cleanup()
        task.stop()
        assert task.state == "stopped"
        assert _steps(diary) == [*_START, "method", *_STOP]
        self.check_threads_ended()

    def test_async_with(self) -> None:
        """`async with` deploys without blocking the event loop, and closes at the end."""
        diary = self.watch(held=False)

        async def main() -> Environment:
            async with Environment("conformance", registry=self.registry()) as env:
                service = self.register(Living, diary.checkpoint, env=env)
                await env.adeploy()
                await service.handle.acall("method")
                return env

        env = asyncio.run(main())
        assert _steps(diary) == [*_START, "method", *_STOP]
        assert env.get_service_status("svc")["state"] == "stopped"
        self.check_threads_ended()

    def test_service_is_deployed_anew_after_close(self) -> None:
        """A closed environment leaves nothing behind for a new environment with the same services."""
        for _ in range(3):
            service = self.deploy()
            assert service.handle.done() == []
            service.handle.do("once")
            service.env.close()


class FailedStartCases(ServiceConformance):
    """Starts that fail."""

    @pytest.mark.parametrize("step", _START)
    def test_start_that_raises_fails_the_deployment(self, step: str) -> None:
        """DeployError names the replica and has the original exception as its cause. What was built is cleaned up."""
        diary = self.watch(held=False)
        service = self.register(Failing, diary.checkpoint, step)
        with pytest.raises(errors.DeployError, match="while constructing service 'svc' replica 0: ") as caught:
            service.env.deploy()
        assert "no database" in str(caught.value)
        assert isinstance(caught.value.__cause__, ProbeError)
        assert (caught.value.service, caught.value.replica) == ("svc", "svc#0")
        until = _START.index(step) + 1
        assert _steps(diary) == _START[:until] + (_STOP if step != "init" else [])
        self.check_threads_ended()

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
    def test_constructor_that_exits_fails_the_deployment(self, kind: type[BaseException]) -> None:
        """SystemExit, KeyboardInterrupt or CancelledError in a constructor fails the deployment with DeployError."""
        diary = self.watch(held=False)
        service = self.register(Failing, diary.checkpoint, "init", 0, kind)
        with pytest.raises(errors.DeployError, match=kind.__name__):
            service.env.deploy()

    def test_deployment_is_all_or_nothing(self) -> None:
        """If one service fails to start, the services that had started are stopped."""
        diary, failed = self.watch(held=False), self.watch(held=False)
        service = self.register(Living, diary.checkpoint, name="svc-first")
        self.register(Failing, failed.checkpoint, "warmup", name="svc-second", env=service.env)
        self.register(Living, diary.checkpoint, name="svc-third", env=service.env)
        with pytest.raises(errors.DeployError, match="svc-second"):
            service.env.deploy()
        steps = _steps(diary)
        assert steps.count("init") == steps.count("cleanup")
        self.check_threads_ended()

    @pytest.mark.parametrize("how", ["call", "deploy"])
    def test_failed_start_can_be_tried_again(self, how: str) -> None:
        """A first call or deployment whose service cannot start raises DeployError. A later one tries again."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "fails")
            path.touch()
            service = self.register(FailingOnce, str(path))
            start = service.env.deploy if how == "deploy" else service.handle.method
            with pytest.raises(errors.DeployError, match="first time"):
                start()
            self.check_threads_ended()
            start()
            assert service.handle.method() == "second time"

    def test_constructor_that_hangs_fails_the_deployment(self) -> None:
        """After `startup_timeout`, deploying ends with DeployError, even if the constructor hangs."""
        diary, gate = self.watch(held=False), self.watch()
        service = self.register(Late, diary.checkpoint, gate.checkpoint, startup_timeout=self.short)
        with pytest.raises(errors.DeployError, match=rf"svc#0 not ready after {self.short:g} s"):
            service.env.deploy()
        gate.open()

    @needs_any(*INNER_CALLS)
    def test_start_hook_that_waits_for_its_own_end_fails_the_deployment(self) -> None:
        """A start hook that calls its own service, without another replica, fails at once with ReentrantCallError."""
        service = self.register(Early, "call", "svc", startup_timeout=self.patience)
        with pytest.raises(errors.DeployError, match=r"ReentrantCallError: .*svc.* would never start") as caught:
            service.env.deploy()
        assert isinstance(caught.value.__cause__, errors.ReentrantCallError)

    @needs_any(*INNER_CALLS)
    def test_start_hooks_that_wait_for_each_other_fail_the_deployment(self) -> None:
        """If two services call each other before they are ready, deploying fails at once with ReentrantCallError."""
        service = self.register(Early, "call", "other", startup_timeout=self.patience)
        self.register(Early, "call", "svc", name="other", env=service.env, startup_timeout=self.patience)
        with pytest.raises(errors.DeployError, match=r"ReentrantCallError: .*(svc|other).* would never start"):
            service.env.deploy()

    @needs("in_process")
    def test_instance_that_is_ready_too_late_is_cleaned_up(self) -> None:
        """An instance whose constructor ends after its service was given up is stopped, once."""
        diary, gate = self.watch(held=False), self.watch()
        service = self.register(Late, diary.checkpoint, gate.checkpoint, startup_timeout=self.short)
        with pytest.raises(errors.DeployError):
            service.env.deploy()
        gate.open()
        self.until(lambda: not self.replica_threads())
        assert _steps(diary)[-2:] == _STOP


class LazyCases(ServiceConformance):
    """The first call starts a service that is not deployed."""

    @VERBS
    def test_first_call_deploys(self, verb: str) -> None:
        """A handle starts nothing. The first call with any verb deploys the service."""
        diary = self.watch(held=False)
        handle = self.register(Living, diary.checkpoint).handle
        assert (diary.seen(), self.replica_threads()) == ([], [])
        self.outcome(handle, verb, "method")
        assert _steps(diary) == [*_START, "method"]

    def test_first_calls_from_many_threads_build_once(self) -> None:
        diary = self.watch(held=False)
        service = self.register(Living, diary.checkpoint)
        self.together(lambda _: service.env.service("svc").method(), 8)
        steps = _steps(diary)
        assert (steps.count("init"), steps.count("method")) == (1, 8)

    def test_verbs_taken_before_the_first_call_keep_working(self) -> None:
        handle = self.register().handle
        call, submit, echo = handle.call, handle.submit, handle.echo
        assert [call("echo", 1), submit("echo", 2).result(self.patience), echo(3), call("echo", 4)] == [1, 2, 3, 4]

    def test_deploying_takes_none_of_the_calls_time(self) -> None:
        """The first call deploys the service under `startup_timeout`. The call's own timeout starts after that."""
        diary, gate = self.watch(held=False), self.watch()
        handle = self.register(Late, diary.checkpoint, gate.checkpoint).handle.with_options(timeout=self.patience)
        first = self.in_thread(handle.remaining)
        gate.wait()
        with pytest.raises(TimeoutError):
            first.result(self.while_running)
        gate.open()
        assert self.patience - self.while_running < first.result(self.patience) <= self.patience


class CloseCases(ServiceConformance):
    """Drain and close."""

    def test_close_finishes_accepted_calls(self) -> None:
        """`close` finishes running and queued calls. New calls fail with ServiceStoppedError."""
        service = self.deploy()
        occupied = self.occupy(service)
        waiting = [self.queued(service, "echo", number) for number in range(3)]
        closing = self.in_thread(service.env.close)
        self.until(lambda: self.is_refused(service))
        for verb in ("call", "submit", "acall"):
            with pytest.raises(errors.ServiceStoppedError, match="svc"):
                self.outcome(service.handle, verb, "echo")
        assert not closing.done()
        occupied.open()
        closing.result(self.patience)
        assert [each.result(self.patience) for each in waiting] == [0, 1, 2]
        self.check_threads_ended()

    def is_refused(self, service: Deployed) -> bool:
        """Return whether a new call is refused. The first moment of `close` cannot be seen from outside."""
        try:
            service.handle.with_options(timeout=0.005).submit("echo")
        except errors.CallTimeoutError:
            return False
        except errors.ServiceStoppedError:
            return True
        return False

    def test_closed_environment_refuses(self) -> None:
        """After `close`, every way to call and to register raises ServiceStoppedError."""
        service = self.deploy()
        service.env.close()
        for verb in ("call", "submit", "acall"):
            with pytest.raises(errors.ServiceStoppedError):
                self.outcome(service.handle, verb, "echo")
        for attempt in (
            lambda: service.handle.with_options(timeout=1).echo(),
            lambda: service.env.service("svc").echo(),
            lambda: service.env.call_service("svc"),
            lambda: service.env.register_service("other", object),
            lambda: service.env.task("svc").handle.echo(),  # noqa: PLW0108 - finding the task is part of it
        ):
            with pytest.raises(errors.ServiceStoppedError):
                attempt()

    @needs("in_process")
    def test_no_thread_is_left_after_close(self) -> None:
        """Every thread of a replica ends with it, also if all its slots were in use."""
        service = self.deploy()
        self.occupy(service).open()
        self.together(service.handle.echo, 4)
        if not self.declares("in_callers_thread"):
            assert self.replica_threads()
        service.env.close()
        self.check_threads_ended()
        assert service.metrics.active_threads == 0

    @unless("in_callers_thread")
    def test_drain_timeout_ends_the_rest(self) -> None:
        """Calls that have not finished within `drain_timeout` end with ServiceStoppedError, both running and queued."""
        service = self.deploy(drain_timeout=self.short, timeout=None)
        gate = self.watch()
        running = [service.handle.submit("hold", gate.checkpoint) for _ in range(service.slots)]
        gate.wait(service.slots)
        waiting = service.handle.submit("echo")
        service.env.close()
        with pytest.raises(errors.ServiceStoppedError, match="was not run"):
            waiting.result(0)
        for call in running:
            with pytest.raises(errors.ServiceStoppedError, match="still running") as caught:
                call.result(0)
            assert caught.value.replica == "svc#0"
        assert service.outcomes == {"stopped": 1 + len(running)}
        gate.open()

    @needs("releases_at_deadline")
    def test_close_does_not_wait_for_abandoned_calls(self) -> None:
        """An abandoned method delays `close` only for the stop hooks, and its thread ends with the method."""
        service = self.deploy(drain_timeout=1000, timeout=1000)
        gate = self.watch()
        with pytest.raises(errors.CallTimeoutError):
            service.handle.with_options(timeout=self.while_running).call("hold", gate.checkpoint)
        self.in_thread(service.env.close).result(self.patience)
        assert service.status["state"] == "stopped"
        gate.open()
        self.until(lambda: not self.replica_threads())

    def test_close_is_idempotent_from_many_threads(self) -> None:
        """`close` may be called often, from many threads: hooks run once, and each `close` returns after the stop."""
        diary = self.watch(held=False)
        service = self.deploy(Living, diary.checkpoint)

        def close(_: int) -> Any:
            service.env.close()
            return service.status["state"]

        assert self.together(close, 6) == ["stopped"] * 6
        assert _steps(diary) == _START + _STOP

    @VERBS
    @needs("in_process")
    def test_close_from_within_a_method(self, verb: str) -> None:
        """A method may close its own environment: its call finishes, then the service stops."""
        service = self.deploy()
        self.outcome(service.handle, verb, "run", service.env.close)
        service.env.close()
        assert service.status["state"] == "stopped"
        self.until(lambda: not self.replica_threads())

    @needs("in_process")
    def test_close_from_within_an_inner_call(self) -> None:
        """A method called by another service's method may close the environment. `close` waits for no drain timeout."""
        outer = self.register(Calling, name="outer", drain_timeout=1000, timeout=1000)
        self.register(name="inner", env=outer.env, drain_timeout=1000, timeout=1000)
        outer.env.deploy()
        outer.handle.call("ask", "inner", "run", outer.env.close)
        outer.env.close()
        self.until(lambda: not self.replica_threads())

    @needs_any(*INNER_CALLS)
    def test_inner_calls_are_served_while_draining(self) -> None:
        """An accepted call can still call other services while its environment closes."""
        env = self.environment()
        callers = [self.register(Calling, name=name, env=env) for name in ("svc-a", "svc-b")]
        self.register(name="svc-c", env=env)
        env.deploy()
        gate = self.watch()
        calls = [self.begin(each.handle, "ask_after", gate.checkpoint, "svc-c", "echo", each.name) for each in callers]
        gate.wait(2)
        closing = self.in_thread(env.close)
        self.until(lambda: all(self.is_refused(each) for each in callers))
        gate.open()
        assert [call.result(self.patience) for call in calls] == ["svc-a", "svc-b"]
        closing.result(self.patience)
