"""The time until a replica on target `process` is ready, against a bare process with the same imports, interleaved."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from rounds import interleave
from table import goal, rounds_asked, show

from sage_plugins import Environment


class Service:
    """Tells what is imported in its process."""

    def imported(self) -> list[str]:
        """Return the imported modules, in the order of import."""
        return [
            name for name, module in sys.modules.items() if getattr(module, "__spec__", None) and name != "__main__"
        ]


def _compiled() -> dict[str, str]:
    """Return the environment variables without the one that prevents compiled bytecode."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _bare(processes: int, code: str) -> float:
    """Return the seconds until *processes* processes have run *code*."""
    start = time.perf_counter()
    command = [sys.executable, "-P", "-c", f"{code}\nprint(flush=True)\ninput()"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_compiled())
        for _ in range(processes)
    ]
    for each in running:
        assert each.stdout is not None
        each.stdout.readline()
    elapsed = time.perf_counter() - start
    for each in running:
        each.kill()
        each.communicate()
    return elapsed


def main() -> None:
    """Measure, and print a row for each goal."""
    rounds = rounds_asked(__doc__, 15)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with Environment("benchmark") as env:
        env.register_service_with_config("svc", Service, deployment_config={"target": "process"})
        code = "import " + ", ".join(env.service("svc").imported())

        def scaled(replicas: int) -> float:
            start = time.perf_counter()
            env.scale("svc", 1 + replicas)
            elapsed = time.perf_counter() - start
            env.scale("svc", 1)
            return elapsed

        contenders = {
            "one bare process": lambda: _bare(1, code),
            "one replica": lambda: scaled(1),
            "four bare processes": lambda: _bare(4, code),
            "four replicas": lambda: scaled(4),
        }
        measured = interleave(contenders, rounds)
    show("ready (ms)", measured, 1e3)
    goal(measured, "one replica", "one bare process", "<= 1.3")
    goal(measured, "four replicas", "four bare processes", "<= 1.3")


if __name__ == "__main__":
    main()
