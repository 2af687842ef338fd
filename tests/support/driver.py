"""A process that deploys a service on a Ray cluster and obeys its parent. As a script, this module is that process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTIONS = {"target": "remote_any", "replicas": 2, "load_balancing": True, "cpu_cores": 0.1, "timeout": 5.0}


class Driver(subprocess.Popen[str]):
    """
    A driver process whose service is ready.

    Attributes:
        pids: The processes of its replicas.
    """

    def __init__(  # noqa: PLR0913 - what a test may choose
        self,
        address: str,
        witness: Path,
        *,
        within: Sequence[str] = (),
        lifetime: str = "driver",
        name: str = "driver",
        control_timeout: float = 60.0,
        calls: str = "auto",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """
        Start the process, and let it deploy a service `svc` with two replicas.

        Args:
            address: Address of the cluster.
            witness: File of the service, see `witness.Witness`.
            within: Words before the command, such as those that enter a network namespace.
            lifetime: The option of this name.
            name: Name of the environment.
            control_timeout: The option of this name. On a busy machine, a cluster may take long to answer.
            calls: The option of this name.
            variables: Additional environment variables.
        """
        witness.touch()
        self._complaints = witness.with_name(f"driver-{uuid4().hex}.txt")
        with self._complaints.open("w") as complaints:
            super().__init__(
                [*within, sys.executable, __file__, address, str(witness), name, lifetime, str(control_timeout), calls],
                env={**os.environ, **(variables or {}), "PYTHONPATH": str(Path(__file__).parent)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            )
        self.pids: list[int] = self._answer()

    def do(self, what: str, *args: Any) -> dict[str, Any]:
        """
        Let the process do something with the service.

        Returns:
            `seconds` that it took, and `answer`, or `error` with the name of the error's class.
        """
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the process has ended, which the missing answer will show
            self.stdin.write(json.dumps([what, *args]) + "\n")
            self.stdin.flush()
        answer: dict[str, Any] = self._answer()
        return answer

    def _answer(self) -> Any:
        assert self.stdout is not None
        for line in self.stdout:
            if line.startswith(("{", "[")):  # other lines are Ray's own output
                return json.loads(line)
        self.communicate()
        said = self._complaints.read_text(errors="replace")
        raise AssertionError(f"the driver ended with {self.returncode} instead of an answer: {said[-4000:]}")


def _main(address: str, witness: str, name: str, lifetime: str, *how: str) -> None:
    from sage_deploy_ray.cluster.connection import connect
    from sage_plugins import Environment, ServiceDeploymentConfig
    from witness import Witness

    # Joining a cluster may take long on a busy machine. A short `control_timeout` is not meant for that.
    connection = connect(address=address, control_timeout=60)
    control_timeout, calls = how
    options = {"address": address, "control_timeout": float(control_timeout), "lifetime": lifetime, "calls": calls}
    env = Environment(name, options={"ray": options})
    config = ServiceDeploymentConfig(**OPTIONS)
    env.register_service_with_config("svc", Witness, witness, deployment_config=config)
    env.deploy()
    connection.release()

    def status() -> Any:
        found = env.get_service_status("svc")
        return [{key: each[key] for key in ("id", "state", "node", "pid", "stats_age")} for each in found["replicas"]]

    def transports() -> Any:
        return {lane.node: lane.replica._transport for lane in env.task("svc")._router.lanes}

    def ways() -> Any:
        """Return how calls are sent, by the node of a replica, and the remarks."""
        kinds = {node: (each.pushes, each.exact) for node, each in transports().items()}
        return kinds, [each.event.reason for each in env.events() if each.event.kind == "replica_remark"]

    actions = {
        "call": lambda *args: env.service("svc").call(*args),
        "status": status,
        "ways": ways,
        "tls": lambda: {node: each._listener.takes_tls for node, each in transports().items()},
        "scale": lambda replicas: env.scale("svc", replicas),
        "drain": lambda: env.drain("svc"),
        "close": lambda: env.close(drain_timeout=1),
    }
    _say([each["pid"] for each in status()])
    for line in sys.stdin:
        what, *args = json.loads(line)
        began = time.monotonic()
        try:
            outcome = {"answer": actions[what](*args)}
        except Exception as error:  # noqa: BLE001 - the parent gets it
            outcome = {"error": type(error).__name__, "text": str(error)}
        _say({"seconds": time.monotonic() - began, **outcome})


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    _main(*sys.argv[1:])
