"""`/api/v1`: shows and changes an environment, only through its `Operations`."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import attrs
import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from sage_deploy_server.management.actions import Actions
from sage_deploy_server.management.openapi_operations import describe_operation
from sage_deploy_server.management.rows import Rows
from sage_deploy_server.recording.history import LONGEST_S
from sage_deploy_server.web.access import LOGIN_LINK
from sage_deploy_server.web.bodies import read_as
from sage_deploy_server.web.logins import LINK_LIFE_S, Access
from sage_deploy_server.web.problems import Problem, json_response, problem_of, response_of
from sage_plugins.errors import ServiceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from sage_deploy_server.management.actions import Action
    from sage_deploy_server.recording.recorder import Recorder
    from sage_deploy_server.web.logins import Logins
    from sage_plugins.interfaces.operations import Operations, RecordedEvent

__all__ = ["Management"]

#: Longest time, in seconds, that one request may wait for the end of an action.
_LONGEST_WAIT_S: Final = 60.0


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A body without fields."""


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    replicas: Annotated[int, msgspec.Meta(ge=1)]


class _Restart(msgspec.Struct, forbid_unknown_fields=True):
    replica: str | None = None


class _Drain(msgspec.Struct, forbid_unknown_fields=True):
    timeout: float | None = None


class _Balancer(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    options: dict[str, Any] | None = None


class _LoginLink(msgspec.Struct, forbid_unknown_fields=True):
    read: bool | None = None


class Management:
    """The routes of the management API. Thread-safe."""

    def __init__(self, operations: Operations, *, max_body: int, logins: Logins, recorder: Recorder) -> None:
        self._operations = operations
        self._recorder = recorder
        self._rows = Rows(operations, recorder)
        self._logins = logins
        self._max_body = max_body
        self._actions = Actions()
        self._started_at = time.time()
        self.routes = [
            *(_read_route(path, read) for path, (_, read) in self._read_routes().items()),
            *(self._change_route(path, kind, change) for path, (_, kind, change) in self._change_routes().items()),
        ]

    def snapshot(self, after: int) -> tuple[dict[str, Any], int]:
        """Return a row for each service and the events with numbers above *after*, and the number of the last event."""
        events = [_event(each) for each in self._operations.events(after)]
        return {"services": self._rows.read(), "events": events}, events[-1]["seq"] if events else after

    def paths(self) -> dict[str, Any]:
        """Return the routes in the format of OpenAPI."""
        reads = {
            path: {"get": describe_operation(path, summary, None)} for path, (summary, _) in self._read_routes().items()
        }
        changes = {
            path: {"post": describe_operation(path, summary, kind)}
            for path, (summary, kind, _) in self._change_routes().items()
        }
        return {path: reads.get(path, {}) | changes.get(path, {}) for path in reads | changes}

    # -- read-only routes --------------------------------------------------------------------------------------------

    def _read_routes(self) -> dict[str, tuple[str, Callable[[Request], Any]]]:
        service = "/api/v1/services/{service}"
        return {
            "/api/v1/environment": ("The environment, and what the caller may do", self._environment),
            "/api/v1/plugins": ("The installed plugins", lambda _: self._operations.plugins()),
            "/api/v1/doctor": (
                "Whether this machine and this Python can run services",
                lambda _: self._doctor(),
            ),
            "/api/v1/nodes": ("The nodes on which replicas run or may run", lambda _: self._operations.nodes()),
            "/api/v1/plan": (
                "What apply would change, by the files as they were last read",
                lambda _: json.loads(self._operations.plan().to_json()),
            ),
            "/api/v1/services": ("A row a service", lambda _: self._rows.read_with_threads()),
            service: ("One service in full", self._service),
            f"{service}/replicas": ("Its replicas", lambda request: self._service(request).get("replicas", [])),
            f"{service}/errors": ("Exceptions of its methods, the latest of each type", self._errors),
            f"{service}/replicas/{{id}}/stacks": ("Stack traces of the replica's process", self._stacks),
            f"{service}/plan": ("What apply would change in it", self._service_plan),
            "/api/v1/operations/{id}": ("A change in progress; `wait` seconds for its end", self._action),
            "/api/v1/history": (
                "Measurements of the last `seconds`, of one `service` or of all together",
                self._history,
            ),
            "/api/v1/events": ("Events `after` a number, of a `service`", self._events),
            "/api/v1/logs": ("Log lines `after` a number, of a `service`", self._logs),
        }

    def _change_routes(self) -> dict[str, tuple[str, type[Any], Callable[[Request, Any], Any]]]:
        service = "/api/v1/services/{service}"
        return {
            f"{service}/scale": ("Change the number of replicas", _Scale, self._scale),
            f"{service}/restart": ("Replace a replica by a new one, or every one", _Restart, self._restart),
            f"{service}/drain": ("Answer all accepted calls, then stop", _Drain, self._drain),
            f"{service}/balancer": ("Change the load balancer", _Balancer, self._balancer),
            "/api/v1/plan": ("What apply would change", _Nothing, self._plan),
            "/api/v1/apply": ("Apply the files as they are now", _Nothing, self._apply),
            LOGIN_LINK: ("A link that logs a browser in, once", _LoginLink, self._login_link),
            "/api/v1/down": ("End the process, as SIGTERM would", _Nothing, self._down),
        }

    def _environment(self, request: Request) -> dict[str, Any]:
        operations = self._operations
        about = {"name": operations.name, "id": operations.id, "pid": os.getpid(), "serving_since": self._started_at}
        return {**about, "access": _access_of(request)}

    def _doctor(self) -> dict[str, Any]:
        return {"findings": [attrs.asdict(finding) for finding in self._operations.doctor()]}

    def _find_service(self, request: Request) -> tuple[str, dict[str, Any]]:
        name = request.path_params["service"]
        self._operations.service(name)  # its error suggests similar names
        status = self._operations.status(name)["services"].get(name)
        if status is None:
            raise ServiceNotFoundError(f"no service {name!r}", service=name)
        return name, status

    def _find_changeable_service(self, request: Request) -> tuple[str, dict[str, Any]]:
        """As `_find_service`, for a service that this process may change."""
        name, status = self._find_service(request)
        held_by = status.get("held_by")
        if held_by is None:
            return name, status
        if held_by:
            raise Problem(409, "held", f"{name} is held by {held_by}, and only that process changes it")
        raise Problem(409, "held", f"no process holds {name}; take it over with `adopt()` to change it")

    def _service(self, request: Request) -> dict[str, Any]:
        name, status = self._find_service(request)
        return {**status, "generation": self._rows.generation(name)}

    def _errors(self, request: Request) -> list[dict[str, Any]]:
        name, status = self._find_service(request)
        found = [] if "held_by" in status else self._operations.errors(name)
        return [
            {
                "type": each.type,
                "count": each.count,
                "time": each.time_s,
                "message": each.message,
                "method": each.method,
                "request_id": each.request_id,
                "traceback": each.traceback,
            }
            for each in found
        ]

    def _stacks(self, request: Request) -> dict[str, Any]:
        name, status = self._find_changeable_service(request)
        replica = request.path_params["id"]
        _check_replica(name, status, replica)
        return {"text": self._operations.stacks(name, replica)}

    def _service_plan(self, request: Request) -> Any:
        name, _ = self._find_service(request)
        plan = json.loads(self._operations.plan().to_json())
        return next((each for each in plan["services"] if each["name"] == name), None)

    async def _action(self, request: Request) -> dict[str, Any]:
        id = request.path_params["id"]
        action = self._actions.find(int(id)) if id.isdecimal() else None
        if action is None:
            raise Problem(404, "operation", f"there is no operation {id!r}; the last 100 are known")
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def wake(_: object) -> None:
            with suppress(RuntimeError):  # the server has closed meanwhile
                loop.call_soon_threadsafe(ended.set)

        action.done.add_done_callback(wake)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(_number(request, "wait", 0.0), _LONGEST_WAIT_S))
        return action.to_dict()

    def _events(self, request: Request) -> list[dict[str, Any]]:
        found = self._operations.events(int(_number(request, "after", 0)), request.query_params.get("service"))
        return [_event(each) for each in found]

    def _history(self, request: Request) -> dict[str, Any]:
        seconds = _number(request, "seconds", 900.0)
        if not 1 <= seconds <= LONGEST_S:
            raise Problem(400, "query", f"seconds must be from 1 to {LONGEST_S}, got {seconds:g}")
        name = request.query_params.get("service")
        if name is not None:
            self._operations.service(name)  # its error suggests similar names
        return self._recorder.history.read(seconds, name)

    def _logs(self, request: Request) -> list[dict[str, Any]]:
        found = self._operations.logs(int(_number(request, "after", 0)), request.query_params.get("service"))
        return [
            {
                "seq": each.seq,
                "time": each.time_s,
                "level": each.level,
                "service": each.service,
                "replica": each.replica,
                "request_id": each.request_id,
                "message": each.message,
            }
            for each in found
        ]

    # -- routes that change something --------------------------------------------------------------------------------

    def _change_route(self, path: str, kind: type[Any], change: Callable[[Request, Any], Any]) -> Route:
        async def answer(request: Request) -> Response:
            try:
                body = await read_as(kind, request, self._max_body)
                return await run_in_threadpool(lambda: self._answer(request, body, change))
            except Exception as error:  # noqa: BLE001 - the client gets any error
                return response_of(problem_of(error), {"Cache-Control": "no-store"})

        return Route(path, answer, methods=["POST"])

    def _answer(self, request: Request, body: Any, change: Callable[[Request, Any], Any]) -> Response:
        self._check_generation(request)
        done = change(request, body)
        if isinstance(done, dict):
            return json_response(done)
        action: Action = done
        where = f"/api/v1/operations/{action.id}"
        return json_response({"operation": where, **action.to_dict()}, 202, {"Location": where})

    def _check_generation(self, request: Request) -> None:
        wanted = request.headers.get("if-match")
        if wanted is None:
            return
        name = request.path_params.get("service")
        if name is None:
            raise Problem(400, "header", "If-Match is for changes of one service")
        self._find_service(request)
        now = self._rows.generation(name)
        if wanted != "*" and wanted.strip('"') != str(now):
            raise Problem(412, "generation", f"{name} has changed meanwhile: its generation is {now}, not {wanted}")

    def _start(self, request: Request, what: str, details: dict[str, Any], do: Callable[[], None]) -> Any:
        """Start an action. With `dry_run`, only say what it would do."""
        name = request.path_params.get("service")
        if _flag(request, "dry_run"):
            return {"dry_run": True, "what": what, "service": name, **details}

        def change_and_count() -> None:
            do()
            if name is not None:
                self._rows.count_change(name)

        by = _caller_of(request)
        self._operations.record_request(_describe_change(what, by, details), name)
        return self._actions.start(what, name, by, details, change_and_count)

    def _scale(self, request: Request, body: _Scale) -> Any:
        name, status = self._find_changeable_service(request)
        details = {"replicas": body.replicas, "before": status.get("health", {}).get("replicas")}
        return self._start(request, "scale", details, lambda: self._operations.scale(name, body.replicas))

    def _restart(self, request: Request, body: _Restart) -> Any:
        name, status = self._find_changeable_service(request)
        running = [each["id"] for each in status.get("replicas", [])]
        if body.replica is not None:
            _check_replica(name, status, body.replica)
        details = {"replicas": running if body.replica is None else [body.replica]}
        return self._start(request, "restart", details, lambda: self._operations.restart(name, body.replica))

    def _drain(self, request: Request, body: _Drain) -> Any:
        name, _ = self._find_changeable_service(request)
        details = {"timeout": body.timeout}
        return self._start(request, "drain", details, lambda: self._operations.drain(name, body.timeout))

    def _balancer(self, request: Request, body: _Balancer) -> Any:
        name, _ = self._find_changeable_service(request)
        details = {"balancer": body.id}
        return self._start(
            request,
            "balancer",
            details,
            lambda: self._operations.set_load_balancer(name, body.id, body.options),
        )

    def _plan(self, _request: Request, _: _Nothing) -> Any:
        return json.loads(self._operations.plan(reread=True).to_json())

    def _apply(self, request: Request, _: _Nothing) -> Any:
        plan = self._plan(request, _)
        if _flag(request, "dry_run"):
            return plan
        changes = {each["name"]: each["action"] for each in plan["services"] if each["action"] != "keep"}

        def apply() -> None:
            self._operations.reload()
            self._operations.apply()
            for name in changes:
                self._rows.count_change(name)

        return self._start(request, "apply", {"changes": changes}, apply)

    def _login_link(self, request: Request, body: _LoginLink) -> dict[str, Any]:
        own_access = _access_of(request)
        wanted = own_access if body.read is None else Access.READ if body.read else Access.FULL
        if wanted is Access.FULL and own_access is Access.READ:
            raise Problem(403, "token", "this token is read-only, and so are logins with its links")
        over_http = "sage_access" in request.scope
        base = f"{request.url.scheme}://{request.headers['host']}" if over_http else None
        link = self._logins.link(wanted, base)
        self._operations.record_request(f"login link by {_caller_of(request)}: {wanted} access")
        return {"link": link, "access": wanted, "expires_in": LINK_LIFE_S}

    def _down(self, request: Request, _: _Nothing) -> Any:
        """End the process with SIGTERM, as a supervisor would. Refuses if the program does not handle SIGTERM."""
        if not callable(signal.getsignal(signal.SIGTERM)):
            raise Problem(
                409,
                "down",
                f"process {os.getpid()} does not handle SIGTERM, so it would not close its environment; end it itself",
            )
        return self._start(request, "down", {"pid": os.getpid()}, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _access_of(request: Request) -> Access:
    """Return what the caller may do. Over the user's socket, everything is allowed."""
    access: Access = request.scope.get("sage_access", Access.FULL)
    return access


def _caller_of(request: Request) -> str:
    caller: str = request.scope.get("sage_caller", "socket")
    return caller


def _read_route(path: str, read: Callable[[Request], Any]) -> Route:
    """
    Create a read-only route. It runs in a thread, because it may ask remote replicas.

    If *read* is a coroutine function, it runs on the loop: one that waits would keep a thread from other requests.
    """

    async def answer(request: Request) -> Response:
        try:
            is_async = inspect.iscoroutinefunction(read)
            return json_response(await (read(request) if is_async else run_in_threadpool(lambda: read(request))))
        except Exception as error:  # noqa: BLE001 - the client gets any error
            return response_of(problem_of(error), {"Cache-Control": "no-store"})

    found: Callable[[Request], Awaitable[Response]] = answer
    return Route(path, found, methods=["GET"])


def _event(found: RecordedEvent) -> dict[str, Any]:
    event = found.event
    return {
        "seq": found.seq,
        "time": found.time_s,
        "kind": event.kind,
        "service": event.service,
        "replica": event.replica,
        "reason": event.reason,
    }


def _check_replica(service: str, status: dict[str, Any], replica: str) -> None:
    running = [each["id"] for each in status.get("replicas", [])]
    if replica not in running:
        raise Problem(404, "replica", f"{service} has no replica {replica!r}: it has {', '.join(running)}")


def _describe_change(what: str, by: str, details: dict[str, Any]) -> str:
    """Describe a change: what, by whom, how."""
    plain = {name: " ".join(value) if isinstance(value, list) else value for name, value in details.items()}
    how = ", ".join(f"{name} {value}" for name, value in plain.items() if value is not None)
    return f"{what} by {by}{f': {how}' if how else ''}"


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "0")
    if given not in {"0", "1"}:
        raise Problem(400, "query", f"{name} must be 0 or 1, got {given!r}")
    return given == "1"


def _number(request: Request, name: str, default: float) -> float:
    given = request.query_params.get(name)
    if given is None:
        return default
    try:
        number = float(given)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise Problem(400, "query", f"{name} must be a number that is not negative, got {given!r}")
    return number
