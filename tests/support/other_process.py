"""A process that runs a replica as a remote target does, without any folder of the caller on its path."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

    from sage_plugins.values import ReplicaSpec

AT = {"service": "svc", "replica": "svc#0", "node": "other"}


class OtherProcess:
    """Runs one service in another interpreter. It takes one message of bytes at a time."""

    def __init__(self, folder: Path | str, *path: Path | str) -> None:
        """Start the process in *folder*. Its path has only *path* and the installed packages."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def serve(self, spec: ReplicaSpec) -> None:
        """Build the service in the process."""
        from sage_deploy_remote.shipping.specs import pack_spec

        self._ask(("serve", pack_spec(spec)))

    def call(self, method: str, *args: Any) -> Any:
        """Return what the service's method returns, or raise its error."""
        from sage_deploy_remote.payloads.packing import pack_arguments
        from sage_deploy_remote.payloads.payload import unpack

        packed = pack_arguments(args, {}, service="svc", method=method)
        return unpack(self._ask(("call", method, packed)))

    def _ask(self, message: Any) -> Any:
        from sage_deploy_remote.payloads.errors import unpack_error

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump(message, self._process.stdin, 5)
        self._process.stdin.flush()
        went_well, answer = pickle.load(self._process.stdout)  # noqa: S301 - our own process
        if went_well:
            return answer
        raise unpack_error(answer)


class Service:
    """Has the same name as a class in the main module of a caller."""

    name = "that of the other process"


def _run() -> None:
    """Answer until the caller closes the pipe."""
    from sage_deploy_remote.payloads.errors import pack_error
    from sage_deploy_remote.payloads.packing import pack_result
    from sage_deploy_remote.payloads.payload import unpack
    from sage_deploy_remote.shipping.specs import unpack_spec

    service: Any = None
    while True:
        try:
            kind, *parts = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own process
        except EOFError:
            return
        method = parts[0] if kind == "call" else "__init__"
        try:
            if kind == "serve":
                spec = unpack_spec(parts[0])
                spec.strategy.create()
                service, answer = spec.factory.create_service(None), None
            else:
                args, kwargs = unpack(parts[1])
                answer = pack_result(getattr(service, method)(*args, **kwargs), method=method, **AT)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            reply = False, pack_error(error, method=method, **AT)
        else:
            reply = True, answer
        pickle.dump(reply, sys.stdout.buffer, 5)
        sys.stdout.flush()


if __name__ == "__main__":
    _run()
