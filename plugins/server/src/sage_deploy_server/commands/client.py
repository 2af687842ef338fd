"""A client of one running environment, over its socket or over HTTP with a token."""

from __future__ import annotations

import http.client
import json
import os
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import click

from sage_deploy_cli.exit_codes import ExitCode
from sage_deploy_cli.output import progress
from sage_deploy_server.running.environment_files import connect, listening_sockets, watch_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Answer", "EnvironmentClient", "RefusedError", "find_environment", "path_of", "running_environments"]

#: Statuses of requests that must be changed before they can succeed.
_BAD_INPUT: Final = frozenset({400, 404, 413, 422})

#: Timeout without a byte from the environment, in seconds. A call may set a longer one.
_READ_TIMEOUT_S: Final = 60.0

#: Seconds for the description of an environment, which takes milliseconds.
_ABOUT_TIMEOUT_S: Final = 5.0


class RefusedError(click.ClickException):
    """
    The environment's answer is an error.

    Attributes:
        status: HTTP status.
        problem: Body of the answer.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem.get('code', status)}: {problem.get('detail', 'no reason given')}")
        self.status = status
        self.problem = problem

    @property
    def exit_code(self) -> int:  # type: ignore[override] # click only reads it
        """2 if the request is wrong, 1 if it failed."""
        return ExitCode.BAD_INPUT if self.status in _BAD_INPUT else ExitCode.FAILED


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path, self.timeout or _READ_TIMEOUT_S)


class Answer:
    """
    An answer of an environment. Its body is read on demand.

    Attributes:
        headers: Headers of the answer.
    """

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.headers = response.headers
        self._response = response

    def read(self) -> bytes:
        """
        Return the body.

        Raises:
            click.ClickException: The connection breaks.
        """
        with _connection_errors_told():
            return self._response.read()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the body as they come, without their ends. Raises as `read`."""
        begun: list[bytes] = []
        while True:
            with _connection_errors_told():
                part = self._response.read1()  # `readline` takes a broken connection for the end
            if not part:
                return
            first, *others = part.split(b"\n")
            begun.append(first)
            for each in others:
                yield b"".join(begun)
                begun = [each]

    def json(self) -> Any:
        """
        Return the content of the body, which is JSON.

        Raises:
            click.ClickException: The connection breaks, or no environment answered.
        """
        try:
            return json.loads(self.read())
        except ValueError:
            raise click.ClickException("the answer is not JSON: is this the address of an environment?") from None


@contextmanager
def _connection_errors_told() -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise click.ClickException(f"the environment does not answer: {_text_of(error)}") from error


class EnvironmentClient:
    """A client of one running environment."""

    def __init__(self, connection: Callable[[float], http.client.HTTPConnection], token: str | None = None) -> None:
        """
        Create the client.

        Args:
            connection: Creates a connection with the given timeout in seconds.
            token: Token for the environment; None for none.

        Raises:
            click.UsageError: *token* has a line break.
        """
        self._connection = connection
        self._token = None if token is None else token.strip()
        if self._token is not None and len(self._token.splitlines()) > 1:
            raise click.UsageError("--token: a token is one line")

    @classmethod
    def at_url(cls, url: str, token: str | None) -> EnvironmentClient:
        """
        Create a client of the environment at *url*.

        Raises:
            click.UsageError: *url* is not an HTTP address.
        """
        try:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:  # the brackets of IPv6 or the port
            host = None
        if not host or parts.scheme not in {"http", "https"}:
            raise click.UsageError(f"--url {url}: give http://HOST:PORT")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return cls(lambda timeout: kind(host, port, timeout=timeout), token)

    @classmethod
    def at_socket(cls, path: Path) -> EnvironmentClient:
        """Create a client of the environment that listens at *path*."""
        return cls(lambda timeout: _UnixConnection(path, timeout))

    @contextmanager
    def process(self) -> Iterator[int | None]:
        """
        Yield a descriptor that can be read once the environment's process has ended.

        None over HTTP, or if this system cannot watch the process. Raises as `ask`.
        """
        with _connection_errors_told():
            connection = self._connection(_READ_TIMEOUT_S)
            connection.connect()
        descriptor = watch_peer(connection.sock)
        connection.close()
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        read_timeout_s: float = _READ_TIMEOUT_S,
    ) -> Answer:
        """
        Send a request, and return the answer with its body unread. Headers are sent in UTF-8.

        Raises:
            RefusedError: The answer is an error.
            click.ClickException: There is no answer.
        """
        sent = {"Connection": "close", **(headers or {})}  # each request uses its own connection
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        with _connection_errors_told():
            connection = self._connection(read_timeout_s)
            connection.request(method, path, data, {name: value.encode() for name, value in sent.items()})
            answer = connection.getresponse()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                problem = _problem(answer.read())
                if answer.status == HTTPStatus.UNAUTHORIZED:
                    problem["detail"] = "give the token of this environment in SAGE_DEPLOY_TOKEN or with --token"
                raise RefusedError(answer.status, problem)
        return Answer(answer)

    def get(self, path: str, **query: Any) -> Any:
        """Return what *path* shows. Raises as `ask`."""
        asked = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", f"{path}?{urlencode(asked)}" if asked else path).json()

    def change(self, path: str, body: Any = None, *, dry_run: bool = False, generation: str | None = None) -> Any:
        """
        Request a change, and wait until it is done. Returns what was done, or what would be done with *dry_run*.

        Raises:
            RefusedError: The change failed. Otherwise as `ask`.
        """
        headers = {} if generation is None else {"If-Match": generation}
        done = self.ask("POST", f"{path}?dry_run=1" if dry_run else path, body or {}, headers=headers).json()
        while done.get("state") == "running":
            done = self.get(f"/api/v1/operations/{done['id']}", wait=30)
        if done.get("state") == "failed":
            raise RefusedError(done["error"]["status"], done["error"])
        return done


def _text_of(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _problem(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def path_of(service: str, *more: str) -> str:
    """Return the path of a service in the API."""
    return "/".join(["/api/v1/services", quote(service, safe=""), *more])


def find_environment(name: str | None) -> EnvironmentClient:
    """
    Find the only running environment, or the one with that name.

    Raises:
        click.ClickException: None runs, or several run and *name* does not select one.
    """
    found = list(running_environments())
    wanted = [client for each, client in found if name in {None, each["name"]}]
    if len(wanted) == 1:
        return wanted[0]
    names = ", ".join(f"{each['name']} (process {each['pid']})" for each, _ in found)
    if not found:
        raise click.ClickException("no environment of yours runs; start one with `sage-deploy up FILE`")
    if not wanted:
        raise click.ClickException(f"no environment {name!r} runs; running: {names}")
    raise click.ClickException(f"several environments run: {names}; name one with --environment")


def running_environments() -> Iterator[tuple[dict[str, Any], EnvironmentClient]]:
    """Yield each running environment of this user on this machine: its description, and a client."""
    for path in listening_sockets():
        client = EnvironmentClient.at_socket(path)
        try:
            about = client.ask("GET", "/api/v1/environment", read_timeout_s=_ABOUT_TIMEOUT_S).json()
        except click.ClickException as error:  # it has just ended, or is suspended
            if isinstance(error.__cause__, TimeoutError):
                pid = path.name.partition("-")[0]
                progress(
                    f"the environment of process {pid} does not answer; if it is suspended, `kill -CONT {pid}` lets it "
                    "go on"
                )
        else:
            yield about, client
