"""
A script run as `python script.py` deploys its own class and one from the file next to it; both sides use the same.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from textwrap import dedent

import pytest

from command_line import PATIENCE, surroundings
from killing import is_gone

pytestmark = pytest.mark.ray

SIBLING = """
from dataclasses import dataclass


@dataclass
class Point:
    x: int


class TooFar(Exception):
    def __init__(self, point, *, limit):
        super().__init__(f"{point.x} is beyond {limit}")
        self.point = point
        self.limit = limit


class Mover:
    def move(self, point, by):
        if not isinstance(point, Point):
            raise TypeError(f"{type(point)} is another Point")
        moved = Point(point.x + by)
        if moved.x > 10:
            raise TooFar(moved, limit=10)
        return moved
"""

SCRIPT = """
import json
import os
from dataclasses import dataclass

from sage_plugins import Environment, ServiceDeploymentConfig
from sibling import Mover, Point, TooFar

UNIT = "EUR"


@dataclass
class Price:
    cents: int
    unit: str = UNIT


class Unpaid(Exception):
    pass


class Till:
    def add(self, *prices):
        if not all(isinstance(price, Price) for price in prices):
            raise TypeError("another Price")
        if not prices:
            raise Unpaid("nothing to add", UNIT)
        return Price(sum(price.cents for price in prices))

    def pid(self):
        return os.getpid()


def caught(kind, call):
    try:
        call()
    except kind as error:
        return error


if __name__ == "__main__":
    config = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1)
    with Environment("script") as env:
        env.register_service_with_config("till", Till, deployment_config=config)
        env.register_service_with_config("mover", Mover, deployment_config=config)
        env.deploy()
        till, mover = env.service("till", Till), env.service("mover", Mover)
        total, moved = till.add(Price(1), Price(2)), mover.move(Point(1), 2)
        unpaid = caught(Unpaid, till.add)
        too_far = caught(TooFar, lambda: mover.move(Point(9), 2))
        print(json.dumps({
            "elsewhere": till.pid() != os.getpid(),
            "total": isinstance(total, Price) and total == Price(3),
            "moved": isinstance(moved, Point) and moved == Point(3),
            "unpaid": type(unpaid) is Unpaid and unpaid.args,
            "too far": type(too_far) is TooFar and isinstance(too_far.point, Point) and [str(too_far), too_far.limit],
            "traceback": "in move" in "".join(too_far.__notes__),
        }))
"""

FORGETFUL = """
import os
import sys
from pathlib import Path

from sage_plugins import Environment, ServiceDeploymentConfig


class Service:
    def __init__(self, path):
        self.path = path

    def pid(self):
        return os.getpid()

    def stop(self):
        self.note("stop")

    def close(self):
        self.note("close")

    def note(self, hook):
        with Path(self.path).open("a") as hooks:
            print(hook, file=hooks)


env = Environment("forgetful")
config = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1)
env.register_service_with_config("svc", Service, sys.argv[1], deployment_config=config)
print(env.service("svc").pid())
{end}
"""

ENDS_RAY = """
import sys

import ray

from sage_plugins import Environment, ServiceDeploymentConfig, errors


class Service:
    def method(self):
        return 1


ray.init(address=sys.argv[1])
with Environment("ends ray") as env:
    config = ServiceDeploymentConfig(target="remote_any", cpu_cores=0.1)
    env.register_service_with_config("svc", Service, deployment_config=config)
    assert env.service("svc").method() == 1
    ray.shutdown()
    try:
        env.service("svc").with_options(timeout=1).method()
    except (errors.ReplicaDiedError, errors.CallTimeoutError) as error:
        print(error)
print(ray.is_initialized())
"""


def test_program_that_shuts_ray_down_first_is_told_so_and_no_other_ray_is_started(cluster, tmp_path):
    """After `ray.shutdown()`, a call fails in time, no other Ray is started, and the environment closes silently."""
    script = tmp_path / "ends_ray.py"
    script.write_text(ENDS_RAY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, cluster.address],
        cwd=tmp_path,
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    call, initialized = done.stdout.splitlines()
    assert "Ray was shut down in this process" in call or "waited 1 s in the queue" in call
    assert initialized == "False"


@pytest.mark.parametrize(
    "ending",
    [
        ("", 0, ""),
        pytest.param(("raise SystemExit(7)", 7, ""), marks=pytest.mark.slow),
        ("raise ValueError('of the script')", 1, "ValueError: of the script"),
    ],
    ids=["falls off its end", "exits", "raises"],
)
def test_script_that_forgets_to_close_its_environment_ends_cleanly(cluster, tmp_path, ending, until):
    """If a script does not close its environment, stop hooks still run, nothing is left, and its exit code is kept."""
    end, code, error = ending
    script = tmp_path / "forgetful.py"
    script.write_text(FORGETFUL.format(end=end), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "hooks"],
        cwd=tmp_path,
        env=surroundings(RAY_ADDRESS=cluster.address),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == code
    assert done.stderr.count("Traceback") == bool(error)
    # The expected lines are this traceback's. Warnings about the cluster's safety are ignored, and so is what Ray's own
    # code logs when a replica ends at the same moment as the connection.
    said = [line for line in done.stderr.splitlines() if not line.startswith(("Ray: ", "Traceback", "  "))]
    said = [line for line in said if not re.match(r"\[.*\] \w+\.cc:\d+: ", line)]
    assert said == [error] * bool(error)
    assert (tmp_path / "hooks").read_text(encoding="utf-8").split() == ["stop", "close"]
    until(lambda: is_gone(int(done.stdout)))


def test_classes_of_a_script_and_of_the_file_beside_it_are_the_same_on_both_sides(cluster, tmp_path):
    """Classes of arguments, results and errors are the same on both sides, with the files on nobody's import path."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "sibling.py").write_text(dedent(SIBLING), encoding="utf-8")
    (project / "script.py").write_text(dedent(SCRIPT), encoding="utf-8")

    done = subprocess.run(
        [sys.executable, project / "script.py"],
        cwd=tmp_path,
        env=surroundings(RAY_ADDRESS=cluster.address),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout) == {
        "elsewhere": True,
        "total": True,
        "moved": True,
        "unpaid": ["nothing to add", "EUR"],
        "too far": ["11 is beyond 10", 10],
        "traceback": True,
    }
