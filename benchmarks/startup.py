"""The time of a process until its first reply, measured with whole processes and compiled bytecode, interleaved."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from rounds import interleave
from table import goal, rounds_asked, show

_NOTHING = "pass"
_IMPORT = "import sage_plugins"
_PARTS = """
import attrs, pluggy, concurrent.futures
from importlib.metadata import entry_points
entry_points(group="sage_deploy")
"""
_ANSWER = """
from sage_plugins import Environment
class Echo:
    def echo(self, value):
        return value
with Environment() as env:
    env.register_service("echo", Echo)
    env.service("echo").echo(1)
"""
_CLICK = "import click"
_HELP = "from sage_deploy_cli.main import main; main(['--help'])"
_LATE = ("asyncio", "ray", "click", "psutil", "yaml", "numpy")


def _process(code: str) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure, and print a row for each goal."""
    rounds = rounds_asked(__doc__, 25)
    codes = {
        "bare Python": _NOTHING,
        "import sage_plugins": _IMPORT,
        "parts": _PARTS,
        "first answer": _ANSWER,
        "import click": _CLICK,
        "sage-deploy --help": _HELP,
    }
    measured = interleave({name: (lambda code=code: _process(code)) for name, code in codes.items()}, rounds)
    show("process start (ms)", measured, 1e3)
    pairs = zip(measured["import sage_plugins"], measured["bare Python"], strict=True)
    print(f"  import - bare Python: {statistics.median(ours - bare for ours, bare in pairs) * 1e3:.1f} ms (goal <= 10)")
    goal(measured, "first answer", "parts", "<= 1.3")
    goal(measured, "sage-deploy --help", "import click", "<= 1.5")
    check = f"{_ANSWER}\nimport sys\nprint(*[name for name in {_LATE!r} if name in sys.modules] or ['none'])"
    print("  imported before its first use: ", end="", flush=True)
    subprocess.run([sys.executable, "-c", check], check=True)


if __name__ == "__main__":
    main()
