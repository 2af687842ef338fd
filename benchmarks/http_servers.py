"""
The servers that `server_calls.py` compares, each as a process of its own; `Serving` starts one.

All of them answer `{"value": 1}` with `1`. The process prints the port and then answers each line that it reads with
the seconds of processor time that it has used so far. It ends with its input.
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
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
from private_ray import private_ray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

__all__ = ["TOKEN", "Echo", "Serving"]

TOKEN = "b" * 64


class Echo:
    """As little work as a method can do."""

    def echo(self, value: int) -> int:
        """Give *value* back."""
        return value


class Arguments(msgspec.Struct):
    """What the bare application takes."""

    value: int


def ours(stack: ExitStack, strategy: str, *, target: str = "local", http: bool = True) -> int:
    """An environment with one service; with *http*, served over HTTP, with a token as always. Gives the port."""
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
    """50 services of 4 replicas, served as `ours`; with *load*, each is called four times a second."""
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
    """An environment that the commands reach, and nobody else."""
    from sage_plugins import Environment

    env = stack.enter_context(Environment("bench", options={"server": {}}))
    env.register_service("bench", Echo)
    env.deploy()
    return 0


def bare(stack: ExitStack, *, in_thread: bool) -> int:
    """A Starlette application on uvicorn, with the same settings as ours; *in_thread* runs the method in a pool."""
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
    """One replica of Ray Serve on a private runtime."""
    stack.enter_context(private_ray(num_cpus=4))
    from ray import serve
    from starlette.responses import Response

    class OnServe:
        async def __call__(self, request: Request) -> Response:
            # By no class of this script: that would be sent to the replica by value, which msgspec's are not made for.
            value = msgspec.convert(msgspec.json.decode(await request.body())["value"], int)
            return Response(msgspec.json.encode(value), media_type="application/json")

    port = _free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "WARNING"})
    stack.callback(serve.shutdown)
    deployed = serve.deployment(OnServe).options(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1})
    serve.run(deployed.bind(), name="bench", route_prefix="/services")
    return port


def lit_serve(stack: ExitStack) -> int:
    """One worker of LitServe, with its fast queue."""
    port = _free_port()
    _program(stack, "lit_server.py", str(port))
    return port


def mosec(stack: ExitStack) -> int:
    """One worker of mosec."""
    port = _free_port()
    _program(stack, "mosec_server.py", "--address", "127.0.0.1", "--port", str(port), "--log-level", "warning")
    return port


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _program(stack: ExitStack, name: str, *arguments: str) -> None:
    command = [sys.executable, str(Path(__file__).with_name(name)), *arguments]
    folder = stack.enter_context(tempfile.TemporaryDirectory())  # for what it leaves behind when it is killed
    environment = os.environ | {"TMPDIR": folder}
    program = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True, env=environment)
    stack.callback(program.wait)
    stack.callback(os.killpg, program.pid, signal.SIGKILL)  # workers of LitServe outlive its main process


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
}


class Serving:
    """
    A process that serves.

    Attributes:
        port: Where, at the loopback interface.
    """

    def __init__(self, kind: str, **environment: str) -> None:
        """Start it, and wait until it can be reached."""
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
            if line.startswith("=> "):  # others print things of their own
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
        """Seconds of processor time that it has used."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def __enter__(self) -> Self:
        """The server itself."""
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
