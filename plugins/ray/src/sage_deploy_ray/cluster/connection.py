"""
The connection of this process to a Ray cluster, shared by all services of all environments.

Ray allows one cluster per process. Each user takes a `Connection`; the last release ends what the first began. A Ray
that was there before (the program called `ray.init`, or this process is a worker) is used and never ended here.

Every wait here has a limit: Ray's own calls may block for a minute or forever, above all when the head is gone. Ray
would also end this process after a minute without the head, unless a variable set beforehand allows more.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from contextlib import suppress
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

__all__ = ["Auth", "Connection", "connect", "live_nodes", "would_start_private_runtime"]

Auth = Literal["inherit", "token", "disabled"]

_T = TypeVar("_T")

_LOG: Final = logging.getLogger("sage_plugins.ray")

#: Timeout for starting a private runtime, in seconds. The start takes 2 to 8.
_START_TIMEOUT_S: Final = 60.0
#: Timeout for ending Ray, in seconds. The end takes 1, or 8 if the head is gone.
_STOP_TIMEOUT_S: Final = 15.0

#: Ray ends a process, with everything that runs in it, after this many seconds without the head. Ray's default is 60.
_RECONNECT_TIMEOUT: Final = ("RAY_gcs_rpc_server_reconnect_timeout_s", "86400")

_AUTH_HINT: Final = (
    "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on the cluster"
)


class _Runtime:
    """Ray in this process. Module state, guarded by `_lock`."""

    def __init__(self, requested: str, address: str, *, started_here: bool) -> None:
        self.requested_address = requested
        self.address = address
        self.started_here = started_here
        self.users = 0
        self.questions = BlockingQuestions("sage-ray-control")


_lock = threading.RLock()
_runtime: _Runtime | None = None
_forked = False
#: Runs the last Ray that was started here.
_runtime_thread: RuntimeThread | None = None


class Connection:
    """
    One user's share in the connection of this process. Thread-safe.

    Attributes:
        address: Where the head listens, as `host:port`.
        namespace: Ray's namespace for this user's actor names. Pass it with every name: the connection itself has the
            namespace of its first user.
        control_timeout: Timeout for answers of the cluster, in seconds.
        owned: Whether Ray was started here, and ends with the last connection.
    """

    def __init__(self, runtime: _Runtime, namespace: str, control_timeout: float) -> None:
        """Created by `connect`."""
        self.address = runtime.address
        self.namespace = namespace
        self.control_timeout = control_timeout
        self.owned = runtime.started_here
        self._runtime = runtime
        self._released = False

    def ask(self, what: str, question: Callable[[], _T], *, timeout: float | None = None) -> _T:
        """
        Run *question*, which asks Ray and may block, and return its result.

        Args:
            what: What is asked for, as in `"its nodes"`, for the error.
            question: What to run, in a thread of its own.
            timeout: Timeout in seconds; None for `control_timeout`.

        Raises:
            ClusterUnavailableError: The cluster did not answer in time, or the connection was released or lost.
            ForkedRuntimeError: This process was forked from the one that is connected.
            Exception: Any other error of *question*.
        """
        from ray.exceptions import GetTimeoutError, RaySystemError, RpcError

        _refuse_forked()
        if self._released:
            raise ClusterUnavailableError(
                f"the connection to the Ray cluster at {self.address} was released: connect again to ask for {what}"
            )
        if not _initialized():  # otherwise Ray would start a private runtime to answer
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
        Return the live nodes, including the head, sorted by name.

        Free resources are up to about 0.1 s old. If this version of Ray does not report them, the whole node counts as
        free.

        Raises:
            ClusterUnavailableError: The cluster did not answer within `control_timeout`.
            ForkedRuntimeError: This process was forked from the one that is connected.
        """
        return self.ask("which nodes it has", live_nodes)

    def release(self) -> None:
        """
        Release the share. Idempotent, thread-safe, and safe while the interpreter exits.

        The last release ends a Ray that was started here, with every actor that is not detached, in 1 s, or 8 s if the
        head is gone.
        """
        global _runtime  # noqa: PLW0603 - Ray has one connection per process
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
            _end_runtime(self._runtime)

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
    Take a share in this process's connection; connect if there is none. Thread-safe. Leaves SIGTERM's handling alone.

    Args:
        address: Address of the cluster: `host:port`, `auto` for the one on this machine, or `local` for a private
            runtime. None: an existing connection, else the variable `RAY_ADDRESS`, else a private runtime.
        namespace: Ray's namespace for the names of actors.
        control_timeout: Timeout for connecting and for answers, in seconds. Starting a private runtime may take up to
            60 s.
        auth: `token` or `disabled` sets the variable `RAY_AUTH_MODE` of this process; `inherit` leaves it alone.
        warn: Whether to log security warnings about the cluster. False for callers that do not deploy.

    Returns:
        A share that must be released.

    Raises:
        ClusterUnavailableError: There is no such cluster, it rejected this process, its version differs, or this
            process is connected to another cluster. The message says what to do.
        ForkedRuntimeError: This process was forked from one that is connected.
    """
    global _runtime  # noqa: PLW0603 - Ray has one connection per process
    with _lock:
        _refuse_forked()
        if _runtime is not None and not _initialized():  # the program has called ray.shutdown()
            _end_runtime(_runtime)
            _runtime = None
        if _runtime is None:
            runtime = _existing_runtime() or _start_runtime(address, namespace, control_timeout, auth)
            _refuse_another(runtime, address)
            _runtime = runtime
            for finding in _exposure_findings(runtime.address) if warn else ():
                _LOG.warning("%s: %s (%s)", finding.name, finding.found, finding.fix)
        else:
            _refuse_another(_runtime, address)
        _runtime.users += 1
        return Connection(_runtime, namespace, control_timeout)


def would_start_private_runtime(address: str | None) -> bool:
    """Whether `connect` with this *address* would start a private runtime."""
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    return where == "local" and _runtime is None and not _initialized()


def is_connected() -> bool:
    """Whether Ray runs in this process, started by it or as a worker of a cluster."""
    return _initialized()


def check_not_shut_down() -> None:
    """
    Check that Ray was not shut down. Call this before asking Ray, which would start a private runtime to answer.

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


def _refuse_another(runtime: _Runtime, requested: str | None) -> None:
    if (
        requested in (None, "auto", runtime.requested_address, runtime.address)
        or _resolved(requested) == runtime.address
    ):
        return
    raise ClusterUnavailableError(
        f"this process is connected to the Ray cluster at {runtime.address}, so it cannot use {requested!r}: Ray knows "
        "one cluster a process. Give all environments the same options.ray.address, or none to use what is there, or "
        "run them in processes of their own"
    )


def _resolved(address: str) -> str | None:
    """Return *address* with the host's IP address, as Ray reports it."""
    host, _, port = address.rpartition(":")
    try:
        return f"{socket.gethostbyname(host)}:{port}"
    except OSError:
        return None


def _initialized() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _existing_runtime() -> _Runtime | None:
    """Return the Ray that already runs in this process."""
    if not _initialized():
        return None
    import ray

    address = ray.get_runtime_context().gcs_address
    return _Runtime(address, address, started_here=False)


def _start_runtime(requested: str | None, namespace: str, control_timeout: float, auth: Auth) -> _Runtime:
    global _runtime_thread  # noqa: PLW0603 - Ray has one connection per process
    where = requested or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in where:
        raise ClusterUnavailableError(
            f"{where} is an address of Ray Client, through which replicas cannot be reached: run this program on a "
            "node of the cluster and give `host:port` of its head, or `auto`"
        )
    if _runtime_thread is not None and _runtime_thread.alive:
        raise ClusterUnavailableError(
            f"an earlier connection to a Ray cluster has not come to its end, so {where} cannot be tried: Ray takes up "
            "to 20 s for that. Try again later"
        )
    _set_variables(where, auth)
    import ray

    version = exposure.check_version(ray.__version__)
    if version.status == "failure":
        raise ClusterUnavailableError(f"{version.found}: {version.fix}")
    limit = _START_TIMEOUT_S if where == "local" else control_timeout
    _runtime_thread = RuntimeThread("sage-ray-connection", partial(_init, where, namespace), _shutdown)
    try:
        _runtime_thread.begin(limit)
    except TimeoutError as error:
        raise ClusterUnavailableError(
            f"the Ray cluster at {where} did not let this process in within {limit:g} s: {_AUTH_HINT} (here "
            f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')}); if it is slow, raise "
            "options.ray.control_timeout"
        ) from error
    except Exception as error:
        raise ClusterUnavailableError(_connect_problem(where, error)) from error
    return _Runtime(where, ray.get_runtime_context().gcs_address, started_here=True)


def _set_variables(where: str, auth: Auth) -> None:
    """Set the variables that Ray reads on import. If Ray is imported already, make it read them again."""
    variable, seconds = _RECONNECT_TIMEOUT
    if where != "local":  # a private runtime has no head that could come back
        os.environ.setdefault(variable, seconds)
    if auth != "inherit":
        os.environ["RAY_AUTH_MODE"] = auth
    if "ray" in sys.modules:
        try:
            from ray._raylet import Config  # type: ignore[attr-defined] # its stub does not have all
        except ImportError:
            return
        # Without this, Ray keeps its old settings. It would then end the process a minute after a question to a head
        # that is gone.
        Config.initialize("")


def _init(where: str, namespace: str) -> None:
    """Connect. Must not run in the main thread, where Ray would replace Python's signal handlers."""
    import ray

    options: dict[str, Any] = {"namespace": namespace, "logging_level": logging.ERROR}
    if where == "local":
        options["include_dashboard"] = False
    elif where != "auto":
        host, _, port = where.rpartition(":")
        # Fails at once if nobody listens. Ray would need 20 s to find out.
        socket.create_connection((host.strip("[]"), int(port)), timeout=_START_TIMEOUT_S).close()
    token = exposure.token_file()
    is_new = not token.exists()
    with sigterm.unchanged():
        ray.init(address=where, **options)
    if is_new:
        with suppress(OSError):  # Ray needed no token
            token.chmod(0o600)  # Ray lets every user read the token that it makes


def _shutdown() -> None:
    import ray

    with sigterm.unchanged():
        ray.shutdown()


def _end_runtime(runtime: _Runtime) -> None:
    if runtime.started_here and _runtime_thread is not None and not _runtime_thread.end(_STOP_TIMEOUT_S):
        _LOG.warning("Ray did not end within %g s; its processes end with this one", _STOP_TIMEOUT_S)


def _connect_problem(where: str, error: Exception) -> str:
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
    return f"no Ray cluster can be reached at {where}: {text}. Check the address and that the head runs; {_AUTH_HINT}"


def live_nodes() -> list[Node]:
    """As `Connection.nodes`, for use inside a question to `Connection.ask`. May block."""
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
        # The public API needs the dashboard.
        from ray._private.state import available_resources_per_node
    except ImportError:
        return {}
    found: Mapping[str, Mapping[str, float]] = available_resources_per_node()
    return found


def _resources(found: Mapping[str, float]) -> Resources:
    return Resources(found.get("CPU", 0.0), int(found.get("memory", 0)), found.get("GPU", 0.0))


def _exposure_findings(address: str) -> list[Finding]:
    token = _requires_token()
    found = list(exposure.check_cluster(address, token=token, dashboard=_dashboard()))
    return [*found, *exposure.check_token_file()] if token else found


def _requires_token() -> bool:
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
    global _lock, _forked  # noqa: PLW0603 - Ray has one connection per process
    _lock = threading.RLock()
    _forked = _runtime is not None or _initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
