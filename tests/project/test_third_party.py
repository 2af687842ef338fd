"""
Third-party plugins work with ours when all are installed as wheels.

The wheels are built and installed into separate environments, which small programs use. Nothing of the checkout is on
their path, so the programs see what a user gets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
STRANGERS = ROOT / "tests" / "third_party"
#: Third-party plugins that can be imported and collide with no other.
HEALTHY = ("acme-strategies", "acme-balancers", "acme-sockets")
OURS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]

pytestmark = [
    pytest.mark.built,
    pytest.mark.timeout(300),  # the first test builds the wheels and installs them
    pytest.mark.xdist_group("third_party"),  # one process builds and installs for all of them
]


def run(*command: str | Path, cwd: Path) -> str:
    """Run *command* without the caller's import settings and return its stdout. Fail with all its output."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


#: Our distributions that need Ray or SAGE. No test here needs them, and they take a minute to install.
LARGE = {"sage-deploy-ray", "sage-deploy-sage"}


class Installation:
    """A virtual environment with our wheels and some third-party ones."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        self._folder = folder
        venv.create(folder / "venv", with_pip=False)
        scripts = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder / "venv")}))
        self.python = scripts / "python"
        self.pip("install", *wheels)

    def pip(self, *arguments: str | Path) -> str:
        common = ("--quiet", "--disable-pip-version-check")
        return run(sys.executable, "-m", "pip", "--python", self.python, *common, *arguments, cwd=self._folder)

    def program(self, source: str) -> list[str]:
        """Run a program in the environment and return the lines that it printed."""
        # -I: only installed packages.
        return run(self.python, "-I", "-c", textwrap.dedent(source), cwd=self._folder).splitlines()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Callable[..., list[Path]]:
    """Build all wheels once. Returns a function that selects ours and the named third-party ones."""
    folder = tmp_path_factory.mktemp("dist")
    projects = [*OURS, *sorted(path.parent for path in STRANGERS.glob("*/pyproject.toml"))]
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, *projects, cwd=folder)
    built = {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}
    assert len(built) == len(projects)

    def select(*strangers: str) -> list[Path]:
        ours = (name for name in built if name.startswith("sage-deploy") and name not in LARGE)
        return [built[name] for name in (*ours, *strangers)]

    return select


@pytest.fixture(scope="module")
def beside_broken(tmp_path_factory, wheels) -> Installation:
    """Install our distributions, working third-party plugins, and one that cannot be imported."""
    return Installation(tmp_path_factory.mktemp("broken"), wheels(*HEALTHY, "acme-broken"))


@pytest.fixture(scope="module")
def beside_collider(tmp_path_factory, wheels) -> Installation:
    """Install our distributions and a third-party one that offers an ID of ours."""
    return Installation(tmp_path_factory.mktemp("collider"), wheels("acme-collider"))


SERVICE = """
import threading
from sage_plugins import Environment, ServiceDeploymentConfig, errors

class Where:
    def thread(self):
        return threading.current_thread().name

    def echo(self, value):
        return value

def deploy(**config):
    env = Environment("strangers")
    env.register_service_with_config("where", Where, deployment_config=ServiceDeploymentConfig(**config))
    return env
"""


def test_environment_holds_the_wheels_alone(beside_broken):
    """The programs below import from the environment only, and `pip check` finds no conflict."""
    beside_broken.pip("check")
    (origin,) = beside_broken.program("import sage_plugins; print(sage_plugins.__file__)")
    assert Path(origin).is_relative_to(beside_broken.python.parent.parent)


def test_strangers_strategy_runs_a_service(beside_broken):
    """A third-party strategy is selected by its ID and gets its own options."""
    lines = beside_broken.program(
        SERVICE
        + """
with deploy(threading_strategy="dedicated", options={"dedicated": {"thread_name": "mine"}}) as env:
    where = env.service("where")
    print(where.call("echo", 7))
    print(len({where.call("thread") for _ in range(5)}), where.call("thread"))
print(sum("mine" in thread.name for thread in threading.enumerate()))
"""
    )
    assert lines[0] == "7"
    count, name = lines[1].split(maxsplit=1)
    assert (count, "mine" in name, "where#0" in name) == ("1", True, True), name
    assert lines[2] == "0", "its thread ends with the environment"


#: The cases that run here, for pytest's `-k`. Each starts a process. tests/remote/test_acme_sockets.py runs the others.
SELECTED = {
    "acme-sockets": "own_process or status_file or declared or replica_that_dies or items_come or error_of_an_inner",
}


@pytest.mark.parametrize(
    ("stranger", "number", "own"),
    [
        ("acme-strategies", 150, "test_thread_has_the_name_of_the_users_choice"),
        ("acme-balancers", 25, "test_key_is_the_argument_of_the_users_choice"),
        ("acme-sockets", 8, "test_replica_has_its_own_process"),
    ],
)
def test_strangers_tests_inherit_the_conformance_suite(beside_broken, tmp_path, stranger, number, own):
    """A third-party project can run our conformance suite with pytest alone: every applicable case runs and passes."""
    beside_broken.pip("install", "pytest")
    shutil.copy(STRANGERS / stranger / f"test_{stranger.replace('-', '_')}.py", tmp_path)
    report = tmp_path / "report.xml"
    options = ("-W", "error", "--strict-markers", "-p", "no:cacheprovider", f"--junit-xml={report}")
    selection = ("-k", SELECTED.get(stranger, ""))
    run(beside_broken.python, "-I", "-m", "pytest", *options, *selection, cwd=tmp_path)
    cases = ET.parse(report).getroot().findall(".//testcase")  # noqa: S314 - pytest has just written it
    skipped = [case.find("skipped") for case in cases]
    reasons = {reason.get("message").partition(":")[0] for reason in skipped if reason is not None}
    assert reasons <= {"declared unsupported"}
    assert len(cases) > number
    assert own in {case.get("name").partition("[")[0] for case in cases}


def test_strangers_hooks_of_every_kind_are_found(beside_broken):
    """Third-party plugins can offer every kind of plugin: targets, extensions, autoscalers and commands too."""
    lines = beside_broken.program(
        """
from sage_plugins.plugins.registry import Registry
registry = Registry.discover()
for kind, id in [("target", "sockets"), ("extension", "status_file"), ("autoscaler", "steady")]:
    print(registry.find(kind, id).registration.summary)
print(*(command.name for plugin, command in registry.commands if plugin.distribution.startswith("acme")))
"""
    )
    assert lines == [
        "child processes of this machine",
        "writes the environment's status to a file",
        "keeps a share of the slots free",
        "rendezvous",
    ]


def test_strangers_strategy_is_deployed_from_yaml(beside_broken, tmp_path):
    """A YAML file can select a third-party strategy by its ID and set its options."""
    (tmp_path / "where.py").write_text(
        textwrap.dedent(
            """\
            import threading

            class Where:
                def process(self):
                    return threading.current_thread().name
            """
        )
    )
    (tmp_path / "service_deployment.yaml").write_text(
        textwrap.dedent(
            """\
            services:
              where:
                class: where:Where
                deployment:
                  threading_strategy: dedicated
                options:
                  dedicated: {thread_name: mine}
            """
        )
    )
    printed = run(
        beside_broken.python.with_name("sage-deploy"), "up", "service_deployment.yaml", "--once", cwd=tmp_path
    )
    assert "where#0-mine" in printed
    assert "where: local, dedicated, 1 replica" in printed


def test_strangers_options_are_checked_by_their_own_class(beside_broken):
    """A misspelled option of a third-party strategy is a problem that suggests the right name. Nothing starts."""
    (line,) = beside_broken.program(
        SERVICE
        + """
env = deploy(threading_strategy="dedicated", options={"dedicated": {"thread_nane": "mine"}})
try:
    with env:
        env.deploy()
except (errors.ConfigError, errors.PlanError) as error:
    print(str(error).replace("\\n", " "))
"""
    )
    assert "thread_nane" in line
    assert "thread_name" in line, "the nearest spelling"


def test_broken_plugin_hurts_only_who_needs_it(beside_broken):
    """A plugin that cannot be imported harms only services that need it. Their error says why it is missing."""
    ran, *refused = beside_broken.program(
        SERVICE
        + """
with deploy() as env:
    print(env.service("where").call("echo", "unharmed"))
env = deploy(threading_strategy="turbo")
try:
    with env:
        env.deploy()
except errors.SageDeployError as error:
    print(type(error).__name__, error)
"""
    )
    text = "\n".join(refused)
    assert ran == "unharmed"
    assert "turbo" in text
    assert "dedicated" in text, "what is installed"
    assert "acme-broken 1.2" in text
    assert "No module named 'acme_turbine_drivers'" in text


def test_one_id_from_two_distributions_is_a_conflict(beside_collider):
    """Two distributions with the same plugin ID are a conflict. The error names both, so the user can remove one."""
    lines = beside_collider.program(
        SERVICE
        + """
try:
    with deploy(threading_strategy="single") as env:
        env.deploy()
except errors.PluginConflictError as error:
    print(error)
"""
    )
    text = "\n".join(lines)
    assert "single" in text
    assert "acme-collider 1.2" in text
    assert "sage-deploy-threading" in text


def test_plugin_can_be_disabled_by_name(beside_collider):
    """Disabling one plugin by name solves a conflict without uninstalling anything."""
    lines = beside_collider.program(
        """
import os
os.environ["SAGE_DEPLOY_DISABLED_PLUGINS"] = "acme_collider"
"""
        + SERVICE
        + """
with deploy(threading_strategy="single") as env:
    print(env.service("where").call("echo", "unharmed"))
"""
    )
    assert lines == ["unharmed"]
