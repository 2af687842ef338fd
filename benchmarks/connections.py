"""
The cost of TLS between a caller and its replica: Unix socket, TCP, and TCP with TLS, interleaved.

First the bare connection, then calls of replicas on a private Ray runtime.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs
from private_ray import private_ray
from rounds import interleave, per_call
from table import goal, rounds_asked, show

from sage_deploy_remote.rpc.address import Address
from sage_deploy_remote.rpc.certificates import Certificates
from sage_deploy_remote.rpc.server import RpcServer, in_threads
from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from socket import socket

#: Bytes of a small message, of a large one, and of one read.
_SMALL, _LARGE, _CHUNK = 200, 2**24, 2**16

_WAYS = ("Unix socket", "TCP", "TLS")


def send_back(end: socket) -> None:
    """Send back each message. Its size, as four bytes, comes before it."""
    with end:
        while head := end.recv(4):
            end.sendall(_read(end, int.from_bytes(head, "big")))


def _read(end: socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        view = view[end.recv_into(view, min(_CHUNK, view.nbytes)) :]
    return data


def exchange(end: socket, message: bytes) -> None:
    """Send a message and read it back."""
    sending = threading.Thread(target=end.sendall, args=(message,)) if len(message) > _CHUNK else None
    head = len(message).to_bytes(4, "big")
    if sending is None:
        end.sendall(head + message)
    else:
        end.sendall(head)
        sending.start()
    _read(end, len(message))
    if sending is not None:
        sending.join()


def answer(certificates: Certificates) -> None:
    """Listen in each way, print the addresses, and send back what arrives. Runs in its own process until stdin ends."""
    host = "127.0.0.1"
    servers = [
        RpcServer(address, in_threads(None), send_back, tls)
        for address, tls in ((Address.new(), None), (Address.on(host), None), (Address.on(host), certificates))
    ]
    print(pickle.dumps([server.address for server in servers]).hex(), flush=True)
    sys.stdin.read()
    for server in servers:
        server.close()


@contextmanager
def other_process(certificates: Certificates) -> Iterator[Sequence[Address]]:
    """Start a process that runs `answer`, and yield its addresses."""
    paths = [certificates.certificate, certificates.key, certificates.authority]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, __file__, *paths], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield pickle.loads(bytes.fromhex(process.stdout.readline()))  # noqa: S301 - from our own process
        process.communicate()


def new_certificates(folder: Path) -> Certificates:
    """Create a certificate that is its own authority."""
    certificate, key = str(folder / "node.pem"), str(folder / "node.key")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=benchmark"]
    command = ["openssl", "req", "-x509", *kind, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return Certificates(certificate, key, certificate)


def main() -> None:
    """Measure and print the ratios."""
    if len(sys.argv) == 4:  # noqa: PLR2004 - the paths of the certificates
        answer(Certificates(*sys.argv[1:]))
        return
    rounds = rounds_asked(__doc__, 9)
    with ExitStack() as stack:
        certificates = new_certificates(Path(stack.enter_context(TemporaryDirectory())))
        addresses = dict(zip(_WAYS, stack.enter_context(other_process(certificates)), strict=True))
        given = {way: certificates if way == "TLS" else None for way in _WAYS}
        ends = {way: stack.enter_context(addresses[way].connect_socket(given[way])) for way in _WAYS}
        parts = {
            f"{_SMALL} bytes to and fro, microseconds": (bytes(_SMALL), 500, 1e6),
            "16 MiB to and fro, milliseconds": (bytes(_LARGE), 2, 1e3),
        }
        for title, (message, number, scale) in parts.items():
            runs = {way: partial(per_call, partial(exchange, end, message), number) for way, end in ends.items()}
            _report(title, interleave(runs, rounds), scale)

        def connect(way: str) -> None:
            addresses[way].connect_socket(given[way]).close()

        runs = {way: partial(per_call, partial(connect, way), 20) for way in _WAYS}
        _report("connecting, milliseconds", interleave(runs, rounds), 1e3)
        calls(certificates, rounds, stack)


class Echo:
    """A method that does as little as possible."""

    def echo(self, value: Any) -> Any:
        """Return *value*."""
        return value


def calls(certificates: Certificates, rounds: int, stack: ExitStack) -> None:
    """Measure calls of replicas on Ray: one over a Unix socket, and two as if on another machine."""
    stack.enter_context(private_ray(num_cpus=4))
    from sage_deploy_ray.actors import transport

    here = transport.this_machine
    services: dict[str, Any] = {}
    for way in _WAYS:
        transport.this_machine = here if way == "Unix socket" else lambda: "another"
        options = {"calls": "socket"} | ({"tls": attrs.asdict(certificates)} if way == "TLS" else {})
        env = stack.enter_context(Environment(f"bench-{way[:3]}", options={"ray": options}))
        config = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1)
        env.register_service_with_config("echo", Echo, deployment_config=config)
        env.deploy()
        services[way] = env.service("echo")
    runs = {way: partial(per_call, partial(service.call, "echo", 1), 300) for way, service in services.items()}
    _report("calls, one after the other, microseconds", interleave(runs, rounds), 1e6)
    data = bytes(2**20)
    runs = {way: partial(per_call, partial(service.call, "echo", data), 20) for way, service in services.items()}
    _report("calls with 1 MiB to and fro, milliseconds", interleave(runs, rounds), 1e3)


def _report(title: str, measured: dict[str, list[float]], scale: float) -> None:
    show(title, measured, scale)
    goal(measured, "TLS", "TCP")
    goal(measured, "TLS", "Unix socket")


if __name__ == "__main__":
    main()
