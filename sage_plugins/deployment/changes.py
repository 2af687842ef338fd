"""Changes one service while it runs: scales it, replaces replicas, sets the load balancer or the `user_config`."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import attrs

from sage_plugins.call.current import current_call
from sage_plugins.config.nested_keys import RecyclePolicy
from sage_plugins.config.service_config import plain
from sage_plugins.errors import ConfigError, DeployError, OverloadedError, text_of
from sage_plugins.interfaces import ControlOp
from sage_plugins.texts import counted
from sage_plugins.values import Refused, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sage_plugins.config.service_config import ServiceDeploymentConfig
    from sage_plugins.deployment.balancing import Balancing
    from sage_plugins.deployment.replicas.member import Member
    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.deployment.replicas.starting import Launcher
    from sage_plugins.deployment.replicas.stopper import ReplicaStopper
    from sage_plugins.deployment.replicas.supervision import ReplicaSupervisor
    from sage_plugins.deployment.replicas.waiting import Readiness
    from sage_plugins.deployment.updating.rolling import Rolling
    from sage_plugins.planning.composition import Composition
    from sage_plugins.resilience.rollout import RolloutSettings

__all__ = ["Changes"]

#: Seconds for the answer to arrive, on top of the time limit of the request.
_ON_THE_WAY_S: Final = 5.0


class Changes:
    """Makes one change at a time. All methods are safe from any thread; `ServiceTask` lists their errors."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the service
        self,
        replicas: ReplicaSet,
        launcher: Launcher,
        stopper: ReplicaStopper,
        supervisor: ReplicaSupervisor,
        balancing: Balancing,
        readiness: Readiness,
    ) -> None:
        """
        Prepare; changes nothing.

        Raises:
            PluginError: The service's autoscaler cannot be made.
        """
        self._replicas = replicas
        self._launcher = launcher
        self._stopper = stopper
        self._supervisor = supervisor
        self._balancing = balancing
        self._readiness = readiness
        self._service = replicas.name
        self._tell = replicas.monitors.tell
        self._changing = threading.Lock()  # held by the thread that makes a change
        if replicas.composition.autoscaler is not None:
            # few services scale
            from sage_plugins.deployment.scaling.service_scaler import ServiceScaler, create_scaler

            replicas.scaler = ServiceScaler(replicas, create_scaler(replicas), self.room, self.adjust)

        if self._config.recycle is not None:
            from sage_plugins.deployment.replicas.recycling import Recycler  # few services recycle

            policy = RecyclePolicy(**self._config.recycle)
            replicas.recycler = Recycler(policy, replicas, launcher, stopper, supervisor, self._changing)

    @property
    def _config(self) -> ServiceDeploymentConfig:
        return self._replicas.composition.config

    def scale(self, replicas: int) -> None:
        """As `ServiceTask.scale`."""
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
            msg = f"service '{self._service}': replicas must be an integer, 1 or more, got {replicas!r:.50}"
            raise ConfigError(msg)
        scaler = self._replicas.scaler
        if scaler is not None and not scaler.bounds[0] <= replicas <= scaler.bounds[1]:
            msg = (
                f"service '{self._service}' scales by itself between {scaler.bounds[0]} and {scaler.bounds[1]} "
                f"replicas, and cannot be given {replicas}: change autoscale.min or autoscale.max"
            )
            raise ConfigError(msg)
        self._begin("scaled")
        finish = self._scale(replicas)
        if scaler is not None:
            scaler.scaled(replicas)
        if current_call() is None:
            finish()
        else:  # a replica that leaves may be running this very call
            self._replicas.lifecycle.in_background(finish, "scale")

    def adjust(self, replicas: int, why: str) -> None:
        """
        As `scale`, for the autoscaler: waits for new replicas, but not for those that leave.

        It also scales a service that accepts only calls of other services' methods, because these may wait for a
        replica.

        Args:
            replicas: Number of replicas; 0 for none until a call comes.
            why: The reason, for the event.

        Raises:
            DeployError: A new replica did not become ready, or the service was stopped.
        """
        self._changing.acquire()
        try:
            with self._replicas.condition:
                self._replicas.check_wanted()
        except DeployError:
            self._changing.release()
            raise
        finish = self._scale(replicas, why)
        self._replicas.lifecycle.in_background(finish, "scale")

    def room(self, replicas: int) -> tuple[int, Refused | None]:
        """Return how many replicas the service can have now, up to *replicas*, and why no more."""
        with self._replicas.condition:
            present = len(self._replicas.places)
            specs = [self._launcher.next_spec(index) for index in self._free(replicas)]
        places = self._launcher.place_all(specs)
        refused = [place for place in places if isinstance(place, Refused)]
        return present + len(places) - len(refused), next(iter(refused), None)

    def _scale(self, replicas: int, why: str = "") -> Callable[[], None]:
        """Scale while holding `_changing`, then release it. Return a function that stops the replicas that leave."""
        try:
            before = len(self._replicas.places)
            reason = f"scaled from {before} to {counted(replicas, 'replica')}{why and f': {why}'}"
            if replicas > before:
                self._grow(replicas)
            finish = self._stopper.begin_drain(self._supervisor.stop_replacing_surplus(keep=replicas), reason)
            self._wait_seen()
        finally:
            self._changing.release()
        if replicas != before:
            self._tell("scaled", reason)
        return lambda: finish(self._config.drain_timeout)

    def _free(self, replicas: int) -> list[int]:
        """Return the positions of the replicas to add for a total of *replicas*."""
        taken = {member.spec.index for member in self._replicas.places}
        free = [index for index in range(replicas) if index not in taken]
        return free[: replicas - len(taken)]

    def _grow(self, replicas: int) -> None:
        balancing = self._balancing
        default = balancing.chosen(None, None) if balancing.choice is None and replicas > 1 else None
        added = self._launcher.start_and_wait(self._free(replicas))
        if default is not None:
            balancing.use(default)
            self._tell("balancing_enabled", f"'{default.choice.id}', because there is more than one replica now")
        self._supervisor.admit(added)

    def restart(self, replica: str | None = None) -> None:
        """As `ServiceTask.restart`."""
        self._begin("restarted")
        if current_call() is None:
            self._restart(replica, self._changing.release)
        else:
            self._replicas.lifecycle.in_background(lambda: self._restart_unattended(replica), "restart")

    def _restart_unattended(self, replica: str | None) -> None:
        try:
            self._restart(replica, self._changing.release)
        except Exception as error:
            self._tell("restart_failed", text_of(error))
            logging.getLogger("sage_plugins").exception("service '%s' was not restarted", self._service)

    def _restart(self, replica: str | None, on_done: Callable[[], None]) -> None:
        """Replace one replica, or all. Call *on_done* when nothing is left to do."""
        indexes = {member.id: member.spec.index for member in self._replicas.places}
        if replica is not None and replica not in indexes:
            msg = f"service '{self._service}' has no replica {replica!r}: it has {', '.join(indexes)}"
            on_done()
            raise DeployError(msg, service=self._service)
        chosen = list(indexes.values()) if replica is None else [indexes[replica]]
        from sage_plugins.resilience.rollout import RolloutSettings  # most services are never changed

        to = self._replicas.composition
        limit = to.config.startup_timeout
        same = RolloutSettings.of(to.config.update)._replace(progress_deadline=limit, auto_rollback=False)
        self._rolling(to, chosen, same, updates=False).run(on_done)
        self._tell("restarted", f"{'every replica' if replica is None else replica} was replaced")

    def _rolling(self, to: Composition, places: Sequence[int], settings: RolloutSettings, *, updates: bool) -> Rolling:
        from sage_plugins.deployment.updating.rolling import Rolling  # as above

        parts = self._replicas, self._launcher, self._stopper, self._supervisor, self._readiness
        return Rolling(*parts, to=to, places=places, settings=settings, updates=updates)

    def apply(self, new: Composition, timeout: float | None, *, rolls: bool) -> None:
        """
        Apply the composition *new* within this task.

        Args:
            new: The new composition.
            timeout: Seconds for a new replica to become ready; None for `update.progress_deadline`.
            rolls: Whether to replace replicas, a few at a time. If false, running replicas take the change.

        Raises:
            DeployError: A new replica did not become ready. The service goes on as before; if `auto_rollback` is false,
                the update stopped where it was. Or `reconfigure()` of a replica raised, or took longer than
                `startup_timeout`, and all replicas have the old configuration again. Or as for `ServiceTask.scale`.
        """
        old = self._replicas.composition
        if rolls:
            self._update(new, timeout)
        elif new.config.user_config != old.config.user_config:
            self._reconfigure(attrs.evolve(old.config, user_config=new.config.user_config))
        if new.balancer is not None:
            self._use_balancer_of(new, recreate=rolls and new.key_of is not None)
        if self._replicas.scaler is None:
            self.scale(new.config.replicas)
        if new.balancer is None and (new.config.replicas > 1 or self._replicas.scaler is not None):
            self._use_balancer_of(new)
        self._replicas.composition = new._replace(balancer=self._balancing.choice)

    def _update(self, new: Composition, timeout: float | None) -> None:
        self._begin("updated")
        from sage_plugins.resilience.rollout import RolloutSettings  # as above

        settings = RolloutSettings.of(new.config.update)
        if timeout is not None:
            settings = settings._replace(progress_deadline=timeout)
        places = [member.spec.index for member in self._replicas.places]
        rolling = self._rolling(new, places, settings, updates=True)
        waits = current_call() is None  # inside a call, a replica that leaves may be running that very call
        try:
            rolling.run(self._changing.release)
        except DeployError:
            if waits:
                rolling.wait_for_stopping()
            raise
        if waits:
            rolling.wait_for_stopping()

    def _use_balancer_of(self, new: Composition, *, recreate: bool = False) -> None:
        """Use the balancer of *new* if it differs. *recreate*: make it again even if it does not differ."""
        present = self._balancing.choice
        same = present is new.balancer or (present and new.balancer and present[:2] == new.balancer[:2])
        if same and not recreate:
            return
        self._begin("given another load balancer")
        try:
            self._balancing.use_balancer_of(new)
            self._wait_seen()
        finally:
            self._changing.release()

    def _reconfigure(self, config: ServiceDeploymentConfig) -> None:
        self._begin("reconfigured")
        replicas = self._replicas
        before = replicas.composition
        try:
            replicas.composition = before._replace(config=config)  # for replicas that start from now on
            old = [each for each in replicas.members if each.up and each.spec.config is not config]
            done: list[Member] = []
            try:
                for member in old:
                    done.append(member)
                    self._send_user_config(member, config)
            except BaseException as error:
                from sage_plugins.call.endings import raised_by_signal  # most services need no ending

                replicas.composition = before
                failed = done.pop() if isinstance(error, OverloadedError) else done[-1]  # it did not begin
                for member in done:
                    self._restore_user_config(member, before.config)
                if raised_by_signal(error):  # it is meant for this thread; `reconfigure` may raise the same
                    raise
                msg = (
                    f"service '{self._service}' goes on with its old user_config: reconfigure() of {failed.id} "
                    f"failed: {text_of(error)}"
                )
                raise DeployError(msg, service=self._service, replica=failed.id) from error
        finally:
            self._changing.release()
        self._tell("reconfigured", f"{counted(len(old), 'replica')} took the changed user_config")

    def _send_user_config(self, member: Member, config: ServiceDeploymentConfig) -> None:
        limit = self._config.startup_timeout
        if not member.has_been_ready:  # its instance may already be built with the old configuration
            self._readiness.wait([member], limit)
        member.control(ControlOp.RECONFIGURE, (plain(config.user_config), limit), timeout=limit + _ON_THE_WAY_S)

    def _restore_user_config(self, member: Member, config: ServiceDeploymentConfig) -> None:
        """Give a replica its old configuration again, or replace the replica if that fails."""
        if config.user_config is not None:
            try:
                self._send_user_config(member, config)
            except Exception:
                log = logging.getLogger("sage_plugins")
                log.exception("%s is replaced, as it cannot be given its old user_config", member.id)
            else:
                return
        self._restart(member.id, lambda: None)  # `_reconfigure` still holds `_changing` and releases it

    def set_load_balancer(self, id: str, options: Mapping[str, Any] | None) -> None:
        """As `ServiceTask.set_load_balancer`."""
        self._begin("given another load balancer")
        try:
            made = self._balancing.chosen(id, options)
            before = self._balancing.choice
            self._balancing.use(made)
            self._wait_seen()
        finally:
            self._changing.release()
        old = "none" if before is None else repr(before.id)
        self._tell("balancer_changed", f"from {old} to {made.choice.id!r}")

    def _begin(self, done: str) -> None:
        """Take `_changing`, if the service can be changed now; *done* completes the message "cannot be ..."."""
        if not self._changing.acquire(blocking=current_call() is None):
            # Waiting here could deadlock: the other thread may be waiting for the call that runs this.
            msg = (
                f"service '{self._service}' is being changed by another thread and cannot be {done} from within "
                "a service's call meanwhile: try again later"
            )
            raise DeployError(msg, service=self._service)
        state = self._replicas.state
        if state not in {ReplicaState.READY, ReplicaState.CRASH_LOOP}:
            self._changing.release()
            hint = "deploy it first" if state in {ReplicaState.PENDING, ReplicaState.STARTING} else "it is stopping"
            msg = f"service '{self._service}' is {state} and cannot be {done}: {hint}"
            raise DeployError(msg, service=self._service)

    def _wait_seen(self) -> None:
        """Wait until callers in other processes know of a change, before it is reported as complete."""
        reach = self._replicas.reach
        reach.changed()  # the wanted number of replicas changes without another report
        reach.wait_seen()

    def after_fork(self) -> None:
        """In a forked child: replace the lock, because its holder does not exist here."""
        self._changing = threading.Lock()
