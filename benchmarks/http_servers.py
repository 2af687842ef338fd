"""
The servers that `server_calls.py` compares, each in its own process. `Serving` starts one.

All of them answer `{"value": 1}` with `1`. The process prints the port. Then it answers each line of its input with the
seconds of processor time that it has used so far. It ends when its input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from private_ray import private_ray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

__all__ = ["BENTOML", "TOKEN", "Echo", "Serving"]

TOKEN = "b" * 64
#: The Python of an environment of its own for BentoML, which wants other versions of OpenTelemetry than ours.
BENTOML = Path(__file__).parent.parent / ".venv-bentoml" / "bin" / "python"


class Echo:
    """A method that does as little as possible."""

    def echo(self, value: int) -> int:
        """Return *value*."""
        return value


class Arguments(msgspec.Struct):
    """The body that the bare application accepts."""

    value: int


def ours(stack: ExitStack, strategy: str, *, target: str = "local", http: bool = True) -> int:
    """Deploy an environment with one service. With *http*, serve it over HTTP with a token. Return the port."""
    from sage_deploy_server import serve
    from sage_plugins import Environment, ServiceDeploymentConfig

    env = stack.enter_context(Environment("bench"))
    config = ServiceDeploymentConfig(target=target, threading_strategy=strategy)
    env.register_service_with_config("bench", Echo, deployment_config=config)
    env.deploy()
    if not http:
        return 0
    server = stack.enter_context(serve(env, "127.0.0.1:0", token=TOKEN))
    assert server.address is not None
    return server.address[1]


def many(stack: ExitStack, *, http: bool = True, load: bool = False) -> int:
    """Deploy 50 services of 4 replicas, served as in `ours`. With *load*, call each four times a second."""
    from sage_deploy_server import serve
    from sage_plugins import Environment, ServiceDeploymentConfig

    env = stack.enter_context(Environment("bench"))
    names = [f"service-{number}" for number in range(50)]
    for name in names:
        env.register_service_with_config(name, Echo, deployment_config=ServiceDeploymentConfig(replicas=4))
    env.deploy()
    handles = [env.service(name) for name in names]
    over = threading.Event()

    def call() -> None:
        while not over.wait(0.05):  # ten at a time, so that waking up costs less than the calls
            for _ in range(10):
                handles.append(handles.pop(0))
                handles[-1].call("echo", 1)

    for handle in handles:
        handle.call("echo", 1)
    if load:
        thread = threading.Thread(target=call)
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
    if not http:
        return 0
    server = stack.enter_context(serve(env, "127.0.0.1:0", token=TOKEN))
    assert server.address is not None
    return server.address[1]


def commanded(stack: ExitStack) -> int:
    """Deploy an environment that only the commands can reach."""
    from sage_plugins import Environment

    env = stack.enter_context(Environment("bench", options={"server": {}}))
    env.register_service("bench", Echo)
    env.deploy()
    return 0


def bare(stack: ExitStack, *, in_thread: bool) -> int:
    """Start a Starlette application on uvicorn, with our settings. *in_thread* runs the method in a pool."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Route

    service = Echo()

    async def answer(request: Request) -> Response:
        arguments = msgspec.json.decode(await request.body(), type=Arguments)
        if in_thread:
            result = await run_in_threadpool(service.echo, arguments.value)
        else:
            result = service.echo(arguments.value)
        return Response(msgspec.json.encode(result), media_type="application/json")

    app = Starlette(routes=[Route("/services/{service}/{method}", answer, methods=["POST"])])
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def end() -> None:
        server.should_exit = True
        thread.join()

    stack.callback(end)
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


def ray_serve(stack: ExitStack) -> int:
    """Start one replica of Ray Serve on a private runtime."""
    stack.enter_context(private_ray(num_cpus=4))
    from ray import serve
    from starlette.responses import Response

    class OnServe:
        async def __call__(self, request: Request) -> Response:
            # No class of this script: Ray would pickle it by value, which classes of msgspec do not support.
            value = msgspec.convert(msgspec.json.decode(await request.body())["value"], int)
            return Response(msgspec.json.encode(value), media_type="application/json")

    port = _free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "WARNING"})
    stack.callback(serve.shutdown)
    deployed = serve.deployment(OnServe).options(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1})
    serve.run(deployed.bind(), name="bench", route_prefix="/services")
    return port


def lit_serve(stack: ExitStack) -> int:
    """Start one worker of LitServe, with its fast queue."""
    port = _free_port()
    _program(stack, sys.executable, "lit_server.py", str(port))
    return port


def mosec(stack: ExitStack) -> int:
    """Start one worker of mosec."""
    port = _free_port()
    arguments = ("--address", "127.0.0.1", "--port", str(port), "--log-level", "warning")
    _program(stack, sys.executable, "mosec_server.py", *arguments)
    return port


def bento_ml(stack: ExitStack) -> int:
    """Start one worker of BentoML."""
    port = _free_port()
    arguments = ("--host", "127.0.0.1", "--port", str(port), "--quiet")
    _program(stack, str(BENTOML), "-m", "bentoml", "serve", "bento_server:Bench", *arguments)
    return port


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _program(stack: ExitStack, *command: str) -> None:
    """Run *command* in the folder of this file."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())  # for files that a killed program leaves behind
    environment = os.environ | {"TMPDIR": folder, "BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "True"}
    program = subprocess.Popen(
        command, cwd=Path(__file__).parent, stdout=sys.stderr, start_new_session=True, env=environment
    )

    def end() -> None:
        program.terminate()  # BentoML then ends its workers, which have sessions of their own
        with suppress(subprocess.TimeoutExpired):
            program.wait(10)
        with suppress(ProcessLookupError):  # workers of LitServe outlive its main process
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()

    stack.callback(end)


_KINDS: Mapping[str, Any] = {
    "inline": lambda stack: ours(stack, "inline"),
    "pool": lambda stack: ours(stack, "pool"),
    "process": lambda stack: ours(stack, "single", target="process"),
    "unserved": lambda stack: ours(stack, "pool", http=False),
    "many": many,
    "many, called": lambda stack: many(stack, load=True),
    "many, unserved": lambda stack: many(stack, http=False),
    "commanded": commanded,
    "bare": lambda stack: bare(stack, in_thread=False),
    "bare, thread": lambda stack: bare(stack, in_thread=True),
    "Ray Serve": ray_serve,
    "LitServe": lit_serve,
    "mosec": mosec,
    "BentoML": bento_ml,
}


class Serving:
    """
    A server in its own process.

    Attributes:
        port: Its port on the loopback interface.
    """

    def __init__(self, kind: str, **environment: str) -> None:
        """Start the server, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.port = int(self._read())
        if self.port:
            self._wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("=> "):  # other lines are the server's own output
                return json.loads(line[3:])
        raise AssertionError(f"the server ended with {self._process.wait()}")

    def _wait(self) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
            else:
                return

    def cpu(self) -> float:
        """Return the seconds of processor time that the server has used."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.communicate()


def _main(kind: str) -> None:
    with ExitStack() as stack:
        print("=>", json.dumps(_KINDS[kind](stack)), flush=True)
        for _ in sys.stdin:
            print("=>", time.process_time(), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
