"""One deployed service: its replicas, its router, its monitors, from start to stop."""

from __future__ import annotations

import logging
import threading
from functools import partial
from time import time as wall_clock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sage_plugins.call.call import current_call
from sage_plugins.deployment.monitors import Watchers
from sage_plugins.deployment.replica_set import ReplicaSet
from sage_plugins.errors import ConfigError, DeployError, PluginError, text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.process_end import rest
from sage_plugins.routing.binding import Binding
from sage_plugins.routing.handle import ServiceHandle
from sage_plugins.routing.router_choice import router_class
from sage_plugins.service.methods import LIFECYCLE_HOOKS
from sage_plugins.values import Choice, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from sage_plugins.call.call import Call
    from sage_plugins.clock import Clock
    from sage_plugins.deployment.replica_set import Member, Report
    from sage_plugins.interfaces import Balancer, Directory, WatchedReplica
    from sage_plugins.metrics import ServiceMetrics
    from sage_plugins.planning.composition import Composition
    from sage_plugins.reach.kept import Kept
    from sage_plugins.reach.publication import Home, Publication
    from sage_plugins.values import Event

__all__ = ["ServiceTask"]

#: Seconds before a replica that is not well yet is asked again, while somebody waits for it.
_ASK_AGAIN_S: Final = 0.1


class _Watched(NamedTuple):
    """The service as its monitors see it: `interfaces.WatchedService`."""

    name: str
    config: Any
    clock: Clock
    hooks: frozenset[str]
    replicas: Callable[[], Sequence[WatchedReplica]]
    on_given_up: Callable[[Callable[[], None]], None]


class ServiceTask:
    """
    One service, deployed or about to be.

    All methods are safe from any thread.

    Attributes:
        service_name: Name of the service.
        composition: What was decided for it.
        clock: Its time.
        handle: Calls it; the first call starts the task if need be.
        adopt_if: Called when it starts with what an earlier process has left of the service, and refuses what is not to
            be taken over; None if nothing is.
    """

    def __init__(
        self,
        composition: Composition,
        find_service: Callable[[str], Any],
        clock: Clock,
        on_event: Callable[[Event], None] | None = None,
        *,
        home: Home | None = None,
    ) -> None:
        """
        Prepare the task; builds and starts nothing.

        Args:
            composition: What to run.
            find_service: Gives the instances handles to other services.
            clock: For deadlines.
            on_event: Told of every event, from any thread; must not wait.
            home: The environment in which other processes look the service up; None if they do not.
        """
        self.composition = composition
        self.service_name = composition.name
        self.find_service = find_service
        self._config = composition.config
        self.clock = clock
        self.adopt_if: Callable[[Kept], None] | None = None
        self._active_at = wall_clock()  # when a call ended last, as far as it was asked; before that, when it was made
        self._has_left = False  # whether replicas were there before
        self._state = ReplicaState.PENDING  # guarded by _condition
        self._closing = False  # whether outsiders' calls are refused
        self._stopped = threading.Event()
        self._changing = threading.Lock()  # held while replicas or balancer are being changed, by one thread at a time
        self._background: set[threading.Thread] = set()  # what goes on after a call from within a call; by _condition
        self._watchers = Watchers(
            composition.name, composition.monitors, tuple(method.name for method in composition.methods), on_event
        )
        self._balancer = composition.balancer
        self._key_of = composition.key_of
        self._router = router_class(composition.methods)(
            composition.name,
            clock,
            queue_size=self._config.queue_size,
            reject=self._config.overload == "reject",
            retry_lost=self._config.failover_enabled,
            count=self._watchers.count,
            refused=self._watchers.refused,
            given_up=self._watchers.given_up,
            balancer=None if composition.balancer is None else composition.balancer.create(),
            key_of=composition.key_of,
            on_balancer_error=self._balancer_failed,
        )
        self._publication = None if home is None else self._publish_in(home)
        self._replicas = ReplicaSet(
            composition,
            self._router,
            self._watchers,
            clock,
            find_service,
            wanted=self._is_wanted,
            on_open=self._opened,
            spawn=self._in_background,
            publication=self._publication,
        )
        self._condition = self._replicas.condition
        self._binding = Binding(
            self._router,
            composition.methods,
            queue_timeout=self._config.queue_timeout,
            runs_here="in_callers_thread" in composition.strategy.registration.capabilities,
            driven="in_process" not in composition.target.registration.capabilities,
        )
        self.handle = ServiceHandle(
            composition.name,
            self.bind,
            service_class=lambda: self.composition.factory.service_class,
            waits_to_bind=lambda: self._state in {ReplicaState.PENDING, ReplicaState.STARTING},
        )

    def _publish_in(self, home: Home) -> Publication:
        from sage_plugins.reach.publication import (  # services of this process need nothing of it
            Changeable,
            Publication,
        )

        publication = Publication(
            home,
            self.composition,
            self._router,
            lambda: Changeable(self._balancer, self._key_of, len(self._replicas.places)),
            lambda: self._replicas.directory(home.id),
        )
        self._router.on_change = publication.changed
        return publication

    @property
    def directory(self) -> Directory | None:
        """Where other processes look the service up; None if they cannot call it."""
        return None if self._publication is None else self._publication.directory

    def _balancer_failed(self, error: BaseException) -> None:
        balancer = self._balancer
        name = "" if balancer is None else f"'{balancer.id}' from {balancer.source} "
        reason = f"load balancer {name}failed and is replaced by turns: {text_of(error)}"
        logging.getLogger("sage_plugins").warning("service '%s': %s", self.service_name, reason)
        self._watchers.tell("balancer_fenced", reason)

    # -- starting ----------------------------------------------------------------------------------------------------

    def start_running(self, timeout: float | None = None) -> None:
        """
        Start the service and wait until every replica is ready; does nothing if it runs.

        Args:
            timeout: Seconds to wait; None for the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica did not become ready; what had started was stopped. Raised from the constructor's
                error.
        """
        self.begin()
        try:
            self.wait_ready(timeout)
        except DeployError:
            self.undo_start()
            raise

    def begin(self) -> None:
        """
        Have every replica start; returns at once. Does nothing if that has happened.

        Replicas that an earlier process has left are taken over, as many as there are.

        Raises:
            DeployError: The target can place a replica nowhere; nothing was started. Or another process has the
                service, or it runs otherwise.
            ClusterUnavailableError: It is not known whether the service runs.
        """
        with self._replicas.starting:  # whoever stops the task waits until all is started that must be stopped
            with self._condition:
                if self._state is not ReplicaState.PENDING:
                    return
                self._state = ReplicaState.STARTING
            cls = self.composition.factory.service_class
            hooks = frozenset(hook for hook in LIFECYCLE_HOOKS if callable(getattr(cls, hook, None)))
            self._watchers.attach(
                partial(_Watched, self.service_name, self._config, self.clock, hooks, lambda: self._replicas.members)
            )
            try:
                if not self._take_over():
                    self._replicas.start(range(self._config.replicas))
            except BaseException:
                self.undo_start()
                raise

    def _take_over(self) -> bool:
        """Take over what an earlier process has left, and start what is missing; False if there is nothing."""
        keeper = self._replicas.keeper
        if keeper is None:
            return False
        keeper.hold()
        kept = None if self.adopt_if is None else keeper.kept(self.service_name)
        if kept is None or self.adopt_if is None:
            return False
        self.adopt_if(kept)
        self._has_left = bool(kept.replicas)
        if kept.listing is not None and kept.listing.balancer is not None:
            balancer = self._balancer
            same = balancer is not None and balancer[:2] == kept.listing.balancer[:2]
            if not same:
                self._balancer, self._key_of = kept.listing.balancer, kept.listing.key_of
                self._router.set_balancer(_create(self._balancer), self._key_of)
        taken = {member.spec.index for member in self._replicas.take_over(kept)}
        free = [index for index in range(kept.places) if index not in taken]
        missing = free[: kept.places - len(taken)]
        if missing:
            self._replicas.start(missing)
        self._watchers.tell("adopted", f"{len(taken)} replicas of an earlier process go on, {len(missing)} are started")
        return True

    def undo_start(self) -> None:
        """Stop what was started, because of a failure; what was there before goes on."""
        self._end(0, background=False, leaves=self._has_left)

    def _is_wanted(self) -> bool:
        return self._state in {ReplicaState.STARTING, ReplicaState.READY}

    def _opened(self) -> list[Report]:
        members = self._replicas.members
        if self._state is not ReplicaState.STARTING or not all(each.in_service for each in members):
            return []
        self._state = ReplicaState.READY
        reports = self._replicas.supervise(members)
        if self._publication is not None:
            self._publication.ready()
        return reports

    def wait_ready(self, timeout: float | None = None) -> None:
        """
        Wait until every replica is ready; returns at once if that has been so.

        Args:
            timeout: Seconds; None for the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica failed, or was not ready in time.
        """
        with self._condition:
            if self._state is not ReplicaState.READY:
                self._replicas.wait(
                    self._replicas.members,
                    self._config.startup_timeout if timeout is None else timeout,
                    over=lambda: self._state is ReplicaState.READY,
                )
        if self._publication is not None:
            self._publication.wait_said()  # else another process that is told of it now might not find it

    def wait_healthy(self, timeout: float | None = None) -> None:
        """
        Wait until every replica says that it is well: passes `check_health()` and `check_ready()`, if it has them.

        Each is asked again and again, whether or not a monitor asks it as well.

        Args:
            timeout: Seconds; None for the configuration's `startup_timeout`.

        Raises:
            DeployError: A replica was not well in time, or left; raised from what it said last.
        """
        limit = self._config.startup_timeout if timeout is None else timeout
        until = self.clock.monotonic() + limit
        for member in self._serving():
            for op in (ControlOp.CHECK, ControlOp.READY):
                self._wait_passed(member, op, until)

    def _wait_passed(self, member: Member, op: ControlOp, until: float) -> None:
        while True:
            left = until - self.clock.monotonic()
            try:
                member.control(op, timeout=max(0.0, min(left, self._config.health_check_timeout)))
            except Exception as error:
                if left <= 0 or not member.up:
                    msg = (
                        f"service '{self.service_name}' replica {member.spec.index} did not pass check_"
                        f"{'health' if op is ControlOp.CHECK else 'ready'}() in time: {text_of(error)}"
                    )
                    raise DeployError(msg, service=self.service_name, replica=member.id) from error
                with self._condition:
                    self._condition.wait(min(_ASK_AGAIN_S, left))
            else:
                return

    def bind(self) -> Binding:
        """For the first call of a handle: the way to the replicas, once they are there."""
        if self._state is not ReplicaState.READY:
            self.begin()
            with self._condition:
                waits = self._state is ReplicaState.STARTING
            if waits:
                self.start_running()
        return self._binding

    # -- stopping ----------------------------------------------------------------------------------------------------

    def stop(self, drain_timeout: float | None = None) -> None:
        """
        Accept no more calls, let those accepted finish, run the stop hooks, end the workers.

        Idempotent; does nothing before `start_running`. Called from within a call of any service it returns at once,
        for that call may be one of those it would have to wait for; the service stops when its calls have ended.

        Args:
            drain_timeout: Seconds for the accepted calls; None for the configuration's. Calls that still wait then end
                with ServiceStoppedError, and so do those that still run: their methods go on.
        """
        limit = self._config.drain_timeout if drain_timeout is None else drain_timeout
        self._stop(limit, background=current_call() is not None)

    def _stop(self, limit: float, *, background: bool) -> None:
        self._end(limit, background=background, leaves=False)

    def _end(self, limit: float, *, background: bool, leaves: bool) -> None:
        """End the service, or with *leaves* what this process has of it."""
        with self._condition:
            if self._state in (ReplicaState.PENDING, ReplicaState.STOPPED):
                return
            first = self._state is not ReplicaState.DRAINING
            self._state = ReplicaState.DRAINING
            self._replicas.end_replacing()
            self._condition.notify_all()
        if not first:
            if not background:
                self._stopped.wait()
            return
        if background:
            name = f"{self.service_name}-stop"
            threading.Thread(
                target=self._drain, args=(limit,), kwargs={"leaves": leaves}, name=name, daemon=True
            ).start()
        else:
            self._drain(limit, leaves=leaves)

    def _drain(self, limit: float, *, leaves: bool) -> None:
        with self._replicas.starting:  # see `begin`
            until = self.clock.monotonic() + limit
        idle = threading.Event()
        publication = self._publication
        try:
            if publication is not None:
                publication.leave() if leaves else publication.stopping()
            self._router.drain("is stopping", idle.set)
            if not self._router.lanes:  # nobody is left to finish what waits, and nobody will come
                self._router.end()
            idle.wait(limit)
            self._router.end()
            if leaves:
                self._replicas.leave_all()
            else:
                if publication is not None:
                    self._replicas.vacate_all(until - self.clock.monotonic())
                    publication.stopped()
                self._replicas.stop_all(until - self.clock.monotonic())
        finally:
            self._watchers.close()
            with self._condition:
                self._state = ReplicaState.STOPPED
                self._condition.notify_all()
                background = tuple(self._background)
            for thread in background:
                if thread is not threading.current_thread():  # who is told of an event may stop the service
                    thread.join()
            self._stopped.set()

    def close(self, drain_timeout: float | None = None) -> None:
        """
        `stop`, also for a task that was never started: it will not start any more.

        A service whose replicas outlive this process is not stopped: calls that were accepted here finish, and then
        this process lets go of it.
        """
        with self._condition:
            never = self._state is ReplicaState.PENDING
            if never:
                self._state = ReplicaState.STOPPED
                self._stopped.set()
        if never:
            self._router.drain("was never started and is closed", lambda: None)
            return
        limit = self._config.drain_timeout if drain_timeout is None else drain_timeout
        self._end(limit, background=current_call() is not None, leaves=self._replicas.keeper is not None)

    def close_to_outsiders(self, watch: Callable[[], None]) -> None:
        """
        Accept only calls that come from within other services' calls; *watch* is told when `idle` may have changed.
        """
        if self._state in (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING):
            self._closing = True
            self._router.close_to_outsiders("is stopping", watch)

    @property
    def idle(self) -> bool:
        """Whether no call waits or runs, abandoned ones aside."""
        return self._router.idle

    @property
    def drain_timeout(self) -> float:
        """Seconds that accepted calls get when the service stops."""
        return self._config.drain_timeout

    def owns(self, call: Call | None) -> bool:
        """Whether *call* is one of this service's."""
        return call is not None and call.owner is self._router

    def cleanup(self) -> None:
        """Stop if need be; the instances' own cleanup hooks run as part of that. Idempotent."""
        self.stop()
        rest()

    def terminate(self) -> None:
        """
        Have every instance do its own `terminate()`, if it has one, then stop; what it raises is logged.

        It runs beside the calls, in this thread or in one of the replica's process, so that a method which hangs can be
        told to end.
        """
        for member in self._serving():
            try:
                self._ask(member, ControlOp.TERMINATE)
            except Exception:
                logging.getLogger("sage_plugins").exception("terminate() of %s failed", member.id)
        self.stop()

    def __enter__(self) -> Self:
        """The task itself; its first call starts it, as does `start_running`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clean up."""
        self.cleanup()

    def after_fork(self, error: Callable[[], Exception]) -> None:
        """In a forked child: refuse every call, and touch nothing else."""
        self._router.after_fork(error)
        self._condition = self._replicas.condition = threading.Condition()
        self._changing = threading.Lock()
        self._state = ReplicaState.STOPPED

    def drain(self, timeout: float | None = None) -> None:
        """
        Accept no more calls, let those accepted finish, then stop: `stop`, by the name that operators know.

        Args:
            timeout: Seconds for the accepted calls; None for the configuration's `drain_timeout`.
        """
        self.stop(timeout)

    # -- changing what runs ------------------------------------------------------------------------------------------

    def scale(self, replicas: int) -> None:
        """
        Run so many replicas from now on.

        More: new ones start, and get calls once all of them are ready. Without a load balancer the service gets the
        default one. Fewer: the last ones get no new calls, finish those that they have and stop; after the
        configuration's `drain_timeout` they stop anyway. A replica that has ended and is about to be replaced counts as
        one, and is the first to go. No call is refused or lost either way. The configuration stays as it is: deployed
        anew, the service has as many replicas as that says.

        Waits for a change that another thread is making, and until everything is done. From within a service's call
        it does not wait for replicas that leave, for they may be running that very call.

        Args:
            replicas: How many, 1 or more.

        Raises:
            ConfigError: *replicas* is not 1 or more.
            DeployError: A new replica did not become ready (raised from its constructor's error): none is added, and
                the service goes on as before. Or the service does not run; or it is being changed and this comes from
                within a service's call.
        """
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
            msg = f"service '{self.service_name}': replicas must be an integer, 1 or more, got {replicas!r:.50}"
            raise ConfigError(msg)
        self._begin_change("scaled")
        try:
            before = len(self._replicas.places)
            reason = f"scaled from {before} to {replicas} replicas"
            if replicas > before:
                self._grow(replicas)
            finish = self._replicas.leave(self._replicas.retire(keep=replicas), reason)
            self._wait_seen()
        finally:
            self._changing.release()
        if replicas != before:
            self._watchers.tell("scaled", reason)
        self._finish(lambda: finish(self._config.drain_timeout), "scale")

    def _grow(self, replicas: int) -> None:
        choice = balancer = key_of = None
        if self._balancer is None and replicas > 1:
            choice, key_of = self.composition.choose_balancer(None, None)
            balancer = _create(choice)
        taken = {member.spec.index for member in self._replicas.places}
        free = [index for index in range(replicas) if index not in taken]
        added = self._start_ready(free[: replicas - len(taken)])
        if choice is not None:
            self._balancer, self._key_of = choice, key_of
            self._router.set_balancer(balancer, key_of)
            self._watchers.tell("balancing_enabled", f"'{choice.id}', because there is more than one replica now")
        self._replicas.admit(added)

    def _start_ready(self, indices: Sequence[int]) -> tuple[Member, ...]:
        """Start replicas and wait until all are ready, all or none; they get no calls yet."""
        added = self._replicas.start(indices, held=True)
        try:
            self._replicas.wait(added, self._config.startup_timeout)
        except BaseException:
            self._replicas.discard(added)
            raise
        return added

    def restart(self) -> None:
        """
        Replace every replica by a new one, in turn.

        The new one starts first and gets calls once it is ready; then the old one gets no more, finishes those that it
        has, within the configuration's `drain_timeout`, and stops. No call is refused or lost. For as long as that
        takes there is one replica more. A replica that has ended gets its successor now, also if it was in a crash
        loop.

        Waits for a change that another thread is making, and until everything is done. From within a service's call it
        returns at once and goes on by itself; if it fails then, an event `restart_failed` and the log say so.

        Raises:
            DeployError: A new replica did not become ready (raised from its constructor's error): the old one goes on
                serving, as do those that were replaced before it. Or the service does not run; or it is being changed
                and this comes from within a service's call.
        """
        self._begin_change("restarted")
        if current_call() is None:
            try:
                self._restart()
            finally:
                self._changing.release()
            return

        def restart() -> None:
            try:
                self._restart()
            except Exception as error:
                self._watchers.tell("restart_failed", text_of(error))
                logging.getLogger("sage_plugins").exception("service '%s' was not restarted", self.service_name)
            finally:
                self._changing.release()

        self._finish(restart, "restart")

    def _restart(self) -> None:
        for index in sorted(member.spec.index for member in self._replicas.places):
            claim = self._replicas.claim(index)
            if claim is None:
                continue
            member, heir = claim
            try:
                added = self._start_ready([index])
            except BaseException:
                self._replicas.disinherit(member, heir)
                raise
            self._replicas.admit(added)
            self._replicas.leave([member], f"replaced by {added[0].id}")(self._config.drain_timeout)
        self._watchers.tell("restarted", "every replica was replaced")

    def set_load_balancer(self, id: str, options: Mapping[str, Any] | None = None) -> None:
        """
        Have another load balancer choose who gets the next call, from now on. Calls that wait are kept.

        Args:
            id: ID of the balancer.
            options: Its options; None for those that the configuration has for it.

        Raises:
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError: The options are wrong; the message says which.
            PluginError: The balancer cannot be made.
            DeployError: The service does not run; or it is being changed and this comes from within a service's call.
        """
        self._begin_change("given another load balancer")
        try:
            choice, key_of = self.composition.choose_balancer(id, options)
            balancer = _create(choice)
            before, self._balancer, self._key_of = self._balancer, choice, key_of
            self._router.set_balancer(balancer, key_of)
            self._wait_seen()
        finally:
            self._changing.release()
        self._watchers.tell("balancer_changed", f"from {'none' if before is None else before.id!r} to {choice.id!r}")

    def _wait_seen(self) -> None:
        """Have a change hold for those who call from other processes too, before it is reported as made."""
        if self._publication is not None:
            self._publication.changed()  # how many there should be, which no other change may have told
            self._publication.wait_seen()

    def _serving(self) -> list[Member]:
        return [member for member in self._replicas.members if member.up]

    def _begin_change(self, done: str) -> None:
        """Take `_changing`; *done* completes "cannot be ..."."""
        if not self._changing.acquire(blocking=current_call() is None):
            # Whoever makes the other change may be waiting for the call that this comes from.
            msg = (
                f"service '{self.service_name}' is being changed by another thread and cannot be {done} from within "
                "a service's call meanwhile: try again later"
            )
            raise DeployError(msg, service=self.service_name)
        state = self.state
        if state not in {ReplicaState.READY, ReplicaState.CRASH_LOOP}:
            self._changing.release()
            hint = (
                "deploy it first" if state in {ReplicaState.PENDING, ReplicaState.STARTING} else "it is on its way out"
            )
            msg = f"service '{self.service_name}' is {state} and cannot be {done}: {hint}"
            raise DeployError(msg, service=self.service_name)

    def _finish(self, rest: Callable[[], None], what: str) -> None:
        """Do *rest* here; from within a service's call in the background, because it may wait for that call."""
        if current_call() is None:
            rest()
        else:
            self._in_background(rest, what)

    def _in_background(self, rest: Callable[[], None], what: str) -> None:
        """Do *rest* in a thread that is waited for when the service stops."""

        def body() -> None:
            try:
                rest()
            finally:
                with self._condition:
                    self._background.discard(thread)

        thread = threading.Thread(target=body, name=f"{self.service_name}-{what}", daemon=True)
        with self._condition:
            self._background.add(thread)
        thread.start()

    # -- looking on --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.service_name

    @property
    def service_factory(self) -> Any:
        """What builds its instances."""
        return self.composition.factory

    @property
    def logger(self) -> logging.Logger:
        """The logger of the service, as its instances have it."""
        return logging.getLogger(f"sage.service.{self.service_name}")

    @property
    def is_running(self) -> bool:
        """Whether it has started and not stopped; what `state` says more exactly."""
        return self.state in {ReplicaState.READY, ReplicaState.CRASH_LOOP}

    @property
    def state(self) -> str:
        """
        `pending`, `starting`, `ready`, `crash_loop`, `draining` or `stopped`.

        In a crash loop is a service if one of its replicas is; the others may serve.
        """
        if self._closing and self._state in (ReplicaState.STARTING, ReplicaState.READY):
            return str(ReplicaState.DRAINING)
        if self._state is ReplicaState.READY and any(
            member.state is ReplicaState.CRASH_LOOP for member in self._replicas.members
        ):
            return str(ReplicaState.CRASH_LOOP)
        return str(self._state)

    @property
    def drift(self) -> dict[str, Any]:
        """The settings that were changed while it runs: its number of replicas, its load balancer."""
        changed: dict[str, Any] = {}
        replicas = len(self._replicas.places)
        if replicas and replicas != self._config.replicas:
            changed["replicas"] = replicas
        if self._balancer is not None and self._balancer is not self.composition.balancer:
            changed["load_balancer"] = self._balancer.id
        return changed

    def status(self) -> dict[str, Any]:
        """The service at a glance; see `Environment.get_service_status`."""
        with self._condition:  # at one moment: who is gone from the one is counted in the other
            members, kept = self._replicas.members, self._replicas.kept
        stats = self._replicas.stats(members)
        now = wall_clock()
        active = [now - said["idle"] - said["age"] for said in stats if said.get("idle") is not None]
        self._active_at = max(self._active_at, *active) if active else self._active_at
        with self._condition:  # who sees a state sees all that came with it
            states = [(str(member.state), member.error) for member in members]
            staying = [each for each in members if not each.is_leaving]
            missing = {each.id: each.missing for each in staying if each.ended}
            ready = sum(member.state is ReplicaState.READY for member in staying)
        threads = [0 if each["runner"] is None else each["runner"].threads for each in stats]
        snapshots = [kept, *(each["recorders"] for each in stats)]
        summaries = self._watchers.summaries(snapshots)
        return {
            "service_name": self.service_name,
            "state": self.state,
            "deployment_config": self._config,
            "metrics": self._metrics(summaries.pop("metrics", {}), sum(threads)),
            "health": {
                "healthy": bool(staying) and ready == len(staying),
                "ready": ready,
                "replicas": len(staying),
                **({"missing": missing} if missing else {}),
            },
            "replicas": [
                {
                    "id": member.id,
                    "state": state,
                    "node": member.lane.node,
                    "inflight": member.lane.inflight,
                    "slots": member.lane.slots,
                    "threads": number,
                    "pid": said["pid"],
                    "stats_age": said["age"],
                    "error": error,
                }
                for member, number, said, (state, error) in zip(members, threads, stats, states, strict=True)
            ],
            "monitors": summaries,
        }

    def get_statistics(self) -> dict[str, Any]:
        """
        The service by the keys that SAGE's tasks have; see `task_statistics`.

        Replicas in other processes are asked, as for `status`.
        """
        from sage_plugins.deployment.statistics import statistics

        status = self.status()
        is_remote = "in_process" not in self.composition.target.registration.capabilities
        return statistics(self, status, self._active_at, is_remote=is_remote)

    def _metrics(self, measured: Mapping[str, Any], threads: int) -> ServiceMetrics:
        from sage_plugins.metrics import ServiceMetrics

        return ServiceMetrics(
            service_name=self.service_name,
            active_threads=threads,
            queue_size=self._router.waiting,
            abandoned_count=sum(member.abandoned for member in self._replicas.members),
            **measured,
        )

    # -- calling -----------------------------------------------------------------------------------------------------

    def call_method(self, method_name: str, /, *args: Any, **kwargs: Any) -> Any:
        """`handle.call`, by the name that SAGE has for it; a MethodNotFoundError is an AttributeError."""
        return self.handle.call(method_name, *args, **kwargs)

    def get_attribute(self, attr_name: str) -> Any:
        """
        An attribute of the instance; of the first replica, if there are several.

        It is read beside the calls that run. One from another process is a copy.

        Raises:
            AttributeError: There is none, or its name has an underscore in front.
            DeployError: The service does not run.
            Exception: The replica did not answer, or the value cannot travel.
        """
        return self._ask(self._askable()[0], ControlOp.GET, attr_name)

    def set_attribute(self, attr_name: str, value: Any) -> None:
        """
        Set an attribute of the instance, of every replica; those that start later do not have it.

        It is written beside the calls that run. Raises what `get_attribute` raises.
        """
        for member in self._askable():
            self._ask(member, ControlOp.SET, (attr_name, value))

    def get_object(self) -> Self:
        """The task itself, as from SAGE's tasks and their wrappers."""
        return self

    def _askable(self) -> list[Member]:
        serving = self._serving()
        if not serving:
            msg = f"service '{self.service_name}' is {self.state} and has no instance to ask: start it first"
            raise DeployError(msg, service=self.service_name)
        return serving

    def _ask(self, member: Member, op: ControlOp, arg: Any = None) -> Any:
        return member.control(op, arg, timeout=self._config.health_check_timeout)

    def handle_request(self, request: Mapping[str, Any]) -> None:
        """
        Start the call that *request* describes and return at once; the response goes into its `response_queue`.

        Args:
            request: A dictionary with `method_name`, `response_queue` (anything with `put`) and, optionally,
                `request_id`, `args`, `kwargs` and `timeout`.

        The response is a dictionary with `request_id`, `result`, `error` (text or None), `success`, `execution_time`
        and `timestamp` (seconds, wall clock).

        A request without `request_id` is answered too, with None for it. Whatever is wrong with a request is in its
        response.

        Raises:
            ConfigError: *request* has no `response_queue` with `put`.
        """
        from sage_plugins.deployment.requests import start

        start(request, self.handle, self.clock, self.service_name)

    def __repr__(self) -> str:
        """Name and state."""
        return f"<ServiceTask {self.service_name!r} {self.state}>"


def _create(choice: Choice) -> Balancer:
    try:
        balancer: Balancer = choice.create()
    except Exception as error:
        msg = f"load balancer '{choice.id}' from {choice.source} cannot be made: {text_of(error)}"
        raise PluginError(msg) from error
    return balancer
