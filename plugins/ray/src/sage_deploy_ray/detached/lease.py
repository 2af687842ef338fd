"""A lease on the detached services of an environment, which lets only one process manage them."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.clock import SYSTEM
from sage_plugins.errors import ClusterUnavailableError, DeployError, line_of

if TYPE_CHECKING:
    from sage_deploy_ray.directory.directory_client import DirectoryClient
    from sage_deploy_ray.directory.registry_actor import Held
    from sage_plugins.clock import Timer

__all__ = ["Lease"]

#: Seconds between two renewals. The registry considers this process dead after five missed renewals.
_RENEWAL_INTERVAL_S: Final = 2.0

#: Until this many seconds after a renewal, no other process can have taken over.
_VALID_FOR_S: Final = 9.0

#: Seconds to wait for a holder that may have died: slightly longer than the registry's lease.
_WAIT_S: Final = 12.0

#: Timeout, in seconds, for telling the registry about the release.
_RELEASE_TIMEOUT_S: Final = 1.0


class Lease:
    """
    The right to manage an environment, from `take` to `release`. The registry refuses other holders meanwhile.

    Several users may share a lease: it needs as many releases as takes. Thread-safe.
    """

    def __init__(self, client: DirectoryClient, environment: str, holder: str, control_timeout: float) -> None:
        """
        Create a lease that holds nothing yet.

        Args:
            client: Talks to the registry.
            environment: Its ID.
            holder: Unique ID of this holder.
            control_timeout: Longest wait for the registry's answer, in seconds.
        """
        self._client = client
        self._environment = environment
        self._holder = holder
        self._control_timeout = control_timeout
        self._lock = threading.RLock()  # re-entrant, because a signal handler may stop a service while it is held
        self._users = 0  # this and all below: guarded by _lock
        self._memory_id = ""
        self._valid_until = 0.0
        self._renewal_sent_at = 0.0
        self._pending_renewal: Any = None  # future of the pending answer
        self._timer: Timer | None = None
        self._lost_to = ""

    def take(self) -> None:
        """
        Take the environment. Waits if the current holder may have died without releasing it.

        Raises:
            DeployError: Another process holds it.
            ClusterUnavailableError: The registry does not answer.
        """
        with self._lock:
            if self._users and not self._lost_to:
                self._users += 1
                return
        held = self._ask(_WAIT_S)
        if held.other:
            raise DeployError(self._refusal(held.other))
        with self._lock:
            self._users += 1
            self._memory_id = held.memory_id
            self._lost_to = ""
            self._valid_until = SYSTEM.monotonic() + _VALID_FOR_S
            if self._timer is None:
                self._schedule_renewal()

    @property
    def lost(self) -> bool:
        """
        Whether another process has taken over, because this one was cut off or stopped for a while.

        Asks the registry if the last renewal is too old. While the registry does not answer, nobody can take over.
        """
        with suppress(ClusterUnavailableError):
            self._confirm()
        return bool(self._lost_to)

    def check(self) -> None:
        """
        Check that the lease is not lost.

        Raises:
            DeployError: It is lost.
            ClusterUnavailableError: The registry did not answer.
        """
        self._confirm()
        if self._lost_to:
            raise DeployError(self._refusal(self._lost_to))

    def _confirm(self) -> None:
        if not self._lost_to and SYSTEM.monotonic() >= self._valid_until:
            asked_at = SYSTEM.monotonic()
            held = self._ask(0.0)
            with self._lock:
                self._apply_answer(held, asked_at)

    def release(self) -> None:
        """Undo one `take`. After the last one, other processes may take the environment."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        if not self._lost_to:
            import ray

            answer: Any = self._client.ask("release", self._environment, self._holder)
            with suppress(Exception):  # the lease expires anyway
                ray.get(answer, timeout=_RELEASE_TIMEOUT_S)

    def _refusal(self, other: str) -> str:
        name = self._environment.partition("/")[2]
        return (
            f"the detached services of environment {name!r} are held by {other}: only one process at a time starts, "
            "scales and stops them. To call them, use `Environment.service` in an environment that does not register "
            "them. To hold them, end that process first; if it has died, this waits for its lease to expire"
        )

    def _ask(self, wait_s: float) -> Held:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        asked: Any = self._client.ask("hold", self._environment, self._holder, _describe_self(), wait_s)
        try:
            held: Any = ray.get(asked, timeout=wait_s + self._control_timeout)
        except (GetTimeoutError, RayError) as error:
            msg = f"the registry of detached services does not answer ({line_of(error)}): try again later"
            raise ClusterUnavailableError(msg) from error
        found: Held = held
        return found

    def _schedule_renewal(self) -> None:
        self._timer = SYSTEM.call_at(SYSTEM.monotonic() + _RENEWAL_INTERVAL_S, self._renew)

    def _renew(self) -> None:
        """Renew the lease, and read the registry's previous answer. Never waits."""
        with self._lock:
            if self._timer is None:
                return
            if self._pending_renewal is not None and self._pending_renewal.done():
                answer, self._pending_renewal = self._pending_renewal, None
                error = answer.exception()
                if error is None:
                    self._apply_answer(answer.result(), self._renewal_sent_at)
                else:  # starts the registry unless Ray has restarted it already
                    self._client.start_in_background()
            if self._pending_renewal is None and not self._lost_to:
                asking: Any = self._client
                self._renewal_sent_at = SYSTEM.monotonic()
                with suppress(Exception):  # Ray has ended, or is about to end
                    self._pending_renewal = asking.ask(
                        "hold", self._environment, self._holder, _describe_self()
                    ).future()
            self._schedule_renewal()

    def _apply_answer(self, held: Held, asked_at: float) -> None:
        self._lost_to = held.other
        self._valid_until = max(self._valid_until, asked_at + _VALID_FOR_S)
        if not held.other and held.memory_id != self._memory_id:
            self._memory_id = held.memory_id
            self._client.resend()


def _describe_self() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
