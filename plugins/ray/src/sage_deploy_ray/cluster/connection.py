"""
The connection of this process to a Ray cluster: there is one, which all services of all environments share.

Ray knows one cluster a process. Each user takes a `Connection`; the last one that lets go ends what the first began.
A Ray that was there before (the program's own `ray.init`, or this process is a worker of a cluster) is used as it is
and never ended here.

Nothing here waits without a limit. Ray's own calls do, above all those to a head that is gone: they block for a minute
or for ever, and would end this process after a minute if it did not say beforehand that the head may come back later.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from sage_deploy_ray.cluster import exposure, sigterm
from sage_deploy_ray.cluster.blocking_questions import BlockingQuestions, TooManyUnansweredError
from sage_deploy_ray.cluster.runtime_thread import RuntimeThread
from sage_deploy_remote.placement.nodes import Node, Resources
from sage_plugins.errors import ClusterUnavailableError, ForkedRuntimeError, line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_plugins.findings import Finding

__all__ = ["Auth", "Connection", "connect", "live_nodes", "would_be_private"]

Auth = Literal["inherit", "token", "disabled"]

_T = TypeVar("_T")

_LOG: Final = logging.getLogger("sage_plugins.ray")

#: Seconds for a runtime of our own to start; it takes 2 to 8.
_START_S: Final = 60.0
#: Seconds for Ray to end; it takes 1, and 8 if the head is gone.
_STOP_S: Final = 15.0

#: After so many seconds without the head Ray ends the process that is connected to it, with everything else that runs
#: there. Its default is 60.
_HEAD_MAY_BE_GONE: Final = ("RAY_gcs_rpc_server_reconnect_timeout_s", "86400")

_LET_IN: Final = (
    "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on the cluster"
)


class _Runtime:
    """Ray in this process; module state under `_lock`."""

    def __init__(self, asked: str, address: str, *, ours: bool) -> None:
        self.asked = asked
        self.address = address
        self.ours = ours
        self.users = 0
        self.questions = BlockingQuestions("sage-ray-control")


_lock = threading.RLock()
_runtime: _Runtime | None = None
_forked = False
#: Of the last Ray that was begun here.
_holder: RuntimeThread | None = None


class Connection:
    """
    One user's share in the connection of this process. From any thread.

    Attributes:
        address: Where the head listens, as `host:port`.
        namespace: Ray's namespace for the names of this user's actors. Give it with every name: the namespace of the
            connection itself is that of whoever connected first.
        control_timeout: Longest wait for an answer of the cluster, in seconds.
        owned: Whether Ray was started here, and ends with the last connection.
    """

    def __init__(self, runtime: _Runtime, namespace: str, control_timeout: float) -> None:
        """Made by `connect`."""
        self.address = runtime.address
        self.namespace = namespace
        self.control_timeout = control_timeout
        self.owned = runtime.ours
        self._runtime = runtime
        self._released = False

    def ask(self, what: str, question: Callable[[], _T], *, timeout: float | None = None) -> _T:
        """
        The answer of *question*, which asks Ray for something and may block.

        Args:
            what: What is asked for, for the error: `"its nodes"`.
            question: What to run, in a thread of its own.
            timeout: Longest wait in seconds; None for `control_timeout`.

        Raises:
            ClusterUnavailableError: The cluster did not answer in time, or the connection was released or lost.
            ForkedRuntimeError: This process was forked from the one that is connected.
            Exception: What else *question* raised.
        """
        from ray.exceptions import GetTimeoutError, RaySystemError, RpcError

        _refuse_forked()
        if self._released:
            raise ClusterUnavailableError(
                f"the connection to the Ray cluster at {self.address} was released: connect again to ask for {what}"
            )
        if not _initialized():  # Ray would start a runtime of its own to answer
            raise ClusterUnavailableError(
                f"Ray was shut down in this process, so the cluster at {self.address} cannot be asked for {what}: "
                "leave ray.shutdown() to the last service that is closed, or deploy again"
            )
        limit = self.control_timeout if timeout is None else timeout
        try:
            return self._runtime.questions.ask(question, limit)
        except TooManyUnansweredError as error:
            raise self._unavailable(f"was not asked for {what}, because {error}") from error
        except (TimeoutError, GetTimeoutError) as error:
            raise self._unavailable(f"did not say {what} within {limit:g} s") from error
        except (ConnectionError, RaySystemError, RpcError) as error:
            raise self._unavailable(f"could not be asked for {what}: {line_of(error)}") from error

    def nodes(self) -> list[Node]:
        """
        The live nodes, the head included, in the order of their names.

        What is free lags behind by about 0.1 s. Where this version of Ray does not say what is free on a node, it
        counts as all free.

        Raises:
            ClusterUnavailableError: The cluster did not answer within `control_timeout`.
            ForkedRuntimeError: This process was forked from the one that is connected.
        """
        return self.ask("which nodes it has", live_nodes)

    def release(self) -> None:
        """
        Let go. Idempotent, from any thread, and at the end of the interpreter.

        The last one to let go ends Ray if it was started here, with every actor that is not detached: within 1 s, or
        within 8 s if the head is gone.
        """
        global _runtime  # noqa: PLW0603 - Ray is one a process
        with _lock:
            if self._released:
                return
            self._released = True
            if _forked:
                return
            self._runtime.users -= 1
            if self._runtime.users > 0 or _runtime is not self._runtime:
                return
            _runtime = None
            _end(self._runtime)

    def _unavailable(self, what: str) -> ClusterUnavailableError:
        return ClusterUnavailableError(
            f"the Ray cluster at {self.address} {what}: its head is gone, overloaded or cut off. Replicas that run go "
            "on answering, nothing new can be started or looked up until it is back: see `ray status --address "
            f"{self.address}`"
        )


def connect(
    *,
    address: str | None = None,
    namespace: str = "sage-deploy",
    control_timeout: float = 5.0,
    auth: Auth = "inherit",
    warn: bool = True,
) -> Connection:
    """
    Take a share in this process's connection, which is made if there is none. From any thread.

    What happens at SIGTERM stays what it was before.

    Args:
        address: Address of the cluster as `host:port`, `auto` for the one that runs on this machine, `local` for one of
            its own. None for what is there already, else what the variable `RAY_ADDRESS` says, else one of its own.
        namespace: Ray's namespace for the names of actors.
        control_timeout: Longest wait for an answer of the cluster, connecting to it included, in seconds. Starting a
            runtime of its own may take 60 s.
        auth: `token` or `disabled` sets the variable `RAY_AUTH_MODE` of this process; `inherit` leaves it alone.
        warn: Whether to log what is doubtful about the cluster's safety; whoever deploys there has been told.

    Returns:
        A share that must be released.

    Raises:
        ClusterUnavailableError: There is no such cluster, it does not let this process in, its version is another one,
            or this process is connected to another cluster already. The message says what to do.
        ForkedRuntimeError: This process was forked from one that is connected.
    """
    global _runtime  # noqa: PLW0603 - Ray is one a process
    with _lock:
        _refuse_forked()
        if _runtime is not None and not _initialized():  # the program has shut it down itself
            _end(_runtime)
            _runtime = None
        if _runtime is None:
            runtime = _existing() or _begin(address, namespace, control_timeout, auth)
            _refuse_another(runtime, address)
            _runtime = runtime
            for finding in _exposed(runtime.address) if warn else ():
                _LOG.warning("%s: %s (%s)", finding.name, finding.found, finding.fix)
        else:
            _refuse_another(_runtime, address)
        _runtime.users += 1
        return Connection(_runtime, namespace, control_timeout)


def would_be_private(address: str | None) -> bool:
    """Whether `connect` with this *address* would start a runtime of its own."""
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    return where == "local" and _runtime is None and not _initialized()


def is_connected() -> bool:
    """Whether this process has a Ray, of its own or as a worker of a cluster."""
    return _initialized()


def check_not_shut_down() -> None:
    """
    Look before anything is asked of Ray: it would start a runtime of its own to answer.

    Raises:
        ClusterUnavailableError: The program has called `ray.shutdown()`.
    """
    if not _initialized():
        raise ClusterUnavailableError(
            "Ray was shut down in this process, and with it the way to every replica: leave ray.shutdown() to the last "
            "environment that is closed, or deploy again"
        )


def _refuse_forked() -> None:
    if _forked:
        raise ForkedRuntimeError(
            "the connection to Ray belongs to the process that forked this one, and does not survive a fork: fork "
            "before deploying, or start this process with multiprocessing's `spawn` and deploy in it"
        )


def _refuse_another(runtime: _Runtime, asked: str | None) -> None:
    if asked in (None, "auto", runtime.asked, runtime.address) or _resolved(asked) == runtime.address:
        return
    raise ClusterUnavailableError(
        f"this process is connected to the Ray cluster at {runtime.address}, so it cannot use {asked!r}: Ray knows one "
        "cluster a process. Give all environments the same options.ray.address, or none to use what is there, or run "
        "them in processes of their own"
    )


def _resolved(address: str) -> str | None:
    """The address with the host's number for its name, as Ray gives it."""
    host, _, port = address.rpartition(":")
    try:
        return f"{socket.gethostbyname(host)}:{port}"
    except OSError:
        return None


def _initialized() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _existing() -> _Runtime | None:
    """The Ray that this process has already."""
    if not _initialized():
        return None
    import ray

    address = ray.get_runtime_context().gcs_address
    return _Runtime(address, address, ours=False)


def _begin(asked: str | None, namespace: str, control_timeout: float, auth: Auth) -> _Runtime:
    global _holder  # noqa: PLW0603 - Ray is one a process
    where = asked or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in where:
        raise ClusterUnavailableError(
            f"{where} is an address of Ray Client, through which replicas cannot be reached: run this program on a "
            "node of the cluster and give `host:port` of its head, or `auto`"
        )
    if _holder is not None and _holder.alive:
        raise ClusterUnavailableError(
            f"an earlier connection to a Ray cluster has not come to its end, so {where} cannot be tried: Ray takes up "
            "to 20 s for that. Try again later"
        )
    _set_variables(where, auth)
    import ray

    version = exposure.check_version(ray.__version__)
    if version.status == "failure":
        raise ClusterUnavailableError(f"{version.found}: {version.fix}")
    limit = _START_S if where == "local" else control_timeout
    _holder = RuntimeThread("sage-ray-connection", partial(_init, where, namespace), _shutdown)
    try:
        _holder.begin(limit)
    except TimeoutError as error:
        raise ClusterUnavailableError(
            f"the Ray cluster at {where} did not let this process in within {limit:g} s: {_LET_IN} (here "
            f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')}); if it is slow, raise "
            "options.ray.control_timeout"
        ) from error
    except Exception as error:
        raise ClusterUnavailableError(_why_not(where, error)) from error
    return _Runtime(where, ray.get_runtime_context().gcs_address, ours=True)


def _set_variables(where: str, auth: Auth) -> None:
    """What Ray reads when it is imported, and again here if it has been."""
    variable, seconds = _HEAD_MAY_BE_GONE
    if where != "local":  # one of our own has no head that could come back
        os.environ.setdefault(variable, seconds)
    if auth != "inherit":
        os.environ["RAY_AUTH_MODE"] = auth
    if "ray" in sys.modules:
        try:
            from ray._raylet import Config  # type: ignore[attr-defined] # its stub does not have all
        except ImportError:
            return
        # Without this, Ray's own view of the cluster keeps the old values, and ends the process a minute after a
        # question to a head that is gone.
        Config.initialize("")


def _init(where: str, namespace: str) -> None:
    """Not in the main thread: there Ray would replace Python's signal handlers."""
    import ray

    options: dict[str, Any] = {"namespace": namespace, "logging_level": logging.ERROR}
    if where == "local":
        options["include_dashboard"] = False
    elif where != "auto":
        host, _, port = where.rpartition(":")
        # Ray takes 20 s to find out that nobody listens.
        socket.create_connection((host.strip("[]"), int(port)), timeout=_START_S).close()
    with sigterm.unchanged():
        ray.init(address=where, **options)


def _shutdown() -> None:
    import ray

    with sigterm.unchanged():
        ray.shutdown()


def _end(runtime: _Runtime) -> None:
    if runtime.ours and _holder is not None and not _holder.end(_STOP_S):
        _LOG.warning("Ray did not end within %g s; its processes end with this one", _STOP_S)


def _why_not(where: str, error: Exception) -> str:
    text = line_of(error)
    if "ersion mismatch" in text:
        return (
            f"the Ray cluster at {where} runs another version than this process: {text}. Install the cluster's Ray and "
            "Python here"
        )
    if where == "local":
        return f"Ray could not be started on this machine: {text}. See the logs in Ray's temporary folder"
    if where == "auto":
        return f"no Ray cluster runs on this machine: {text}. Start one with `ray start --head`, or give its address"
    if isinstance(error, ValueError):
        return f"{where!r} is no address of a Ray cluster ({text}): give `host:port` of its head, `auto` or `local`"
    return f"no Ray cluster can be reached at {where}: {text}. Check the address and that the head runs; {_LET_IN}"


def live_nodes() -> list[Node]:
    """As `Connection.nodes`, for a question of one's own to `Connection.ask`; it may block."""
    import ray

    free = _free_by_node()
    nodes = []
    for found in ray.nodes():
        if found["Alive"]:
            total = found["Resources"]
            nodes.append(
                Node(
                    id=found["NodeID"],
                    name=found["NodeName"],
                    hostname=found["NodeManagerHostname"],
                    address=found["NodeManagerAddress"],
                    labels=dict(found.get("Labels") or {}),
                    total=_resources(total),
                    free=_resources(free.get(found["NodeID"], total)),
                )
            )
    return sorted(nodes, key=lambda node: (node.name, node.id))


def _free_by_node() -> Mapping[str, Mapping[str, float]]:
    try:
        # There is no public way that does without the dashboard.
        from ray._private.state import available_resources_per_node
    except ImportError:
        return {}
    found: Mapping[str, Mapping[str, float]] = available_resources_per_node()
    return found


def _resources(found: Mapping[str, float]) -> Resources:
    return Resources(found.get("CPU", 0.0), int(found.get("memory", 0)), found.get("GPU", 0.0))


def _exposed(address: str) -> list[Finding]:
    token = _asks_for_token()
    found = list(exposure.check_cluster(address, token=token, dashboard=_dashboard()))
    return [*found, *exposure.check_token_file()] if token else found


def _asks_for_token() -> bool:
    try:
        from ray._private.authentication.authentication_utils import is_token_auth_enabled
    except ImportError:
        return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    return bool(is_token_auth_enabled())


def _dashboard() -> str | None:
    try:
        from ray._private.worker import global_worker
    except ImportError:
        return None
    return getattr(getattr(global_worker, "node", None), "webui_url", None)


def _after_fork() -> None:
    global _lock, _forked  # noqa: PLW0603 - Ray is one a process
    _lock = threading.RLock()
    _forked = _runtime is not None or _initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
