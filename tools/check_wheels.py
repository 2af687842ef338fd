"""
Build every wheel of the repository, install them in a new environment, and test that nothing is missing there.

The tests have the marker `wheels`: every module can be imported, the command runs and has its files, each strategy and
target runs a service, and a third-party plugin is found. Wheels and checkout behave the same in all other tests, so
those run only on a checkout.

Run it with `make wheels`, in an environment with the dependency group `test`. If something is wrong, it ends with exit
code 1 and one line. Arguments go to pytest: `python tools/check_wheels.py -k strategy`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = [ROOT, *sorted(pyproject.parent for pyproject in ROOT.glob("plugins/*/pyproject.toml"))]
#: A third-party plugin. It brings the threading strategy `dedicated`, on which a test runs a service.
STRANGER = ROOT / "tests" / "third_party" / "acme-strategies"

#: Packages that a plain `pip install sage-deploy` must not install: they belong to extras.
OPTIONAL = {
    "aiohttp",
    "daphne",
    "fastapi",
    "hypercorn",
    "isage",
    "opentelemetry-api",
    "ray",
    "sanic",
    "starlette",
    "tornado",
    "uvicorn",
}


def main(pytest_arguments: list[str]) -> None:
    """Run all checks in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="sage-wheels-") as name:
        folder = Path(name)
        wheels = build(folder / "dist", PROJECTS)
        for wheel in wheels:
            check_contents(wheel)
        python = install_bare(folder / "venv", wheels)
        pip(python, "install", *wheels, "--group", f"{ROOT / 'pyproject.toml'}:test")
        stranger = build(folder / "stranger", [STRANGER])
        pip(python, "install", "--no-deps", *stranger)
        pip(python, "check")
        run(python.with_name("sage-deploy"), "plugins", "show", "dedicated", cwd=folder)
        run_tests(folder, python, pytest_arguments)
    print(f"checked {len(wheels)} wheels: {', '.join(wheel.name for wheel in wheels)}")


def build(dist: Path, projects: list[Path]) -> list[Path]:
    """Build one wheel of each project, with this environment's hatchling to save a build environment for each wheel."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", dist, *projects)
    wheels = sorted(dist.glob("*.whl"))
    if len(wheels) != len(projects):
        sys.exit(f"{len(projects)} projects made {len(wheels)} wheels")
    return wheels


def check_contents(wheel: Path) -> None:
    """Check that *wheel* has only our import packages, and that each is typed and complete."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    for package in packages:
        if not re.fullmatch(r"sage_(plugins|deploy_\w+)", package):
            sys.exit(f"{wheel.name} ships {package}")
        if f"{package}/py.typed" not in names:
            sys.exit(f"{wheel.name} lacks {package}/py.typed")
        if missing := sorted(sources(package) - names):
            sys.exit(f"{wheel.name} lacks {', '.join(missing)}")


def sources(package: str) -> set[str]:
    """Return the files of an import package under their names in a wheel, including data files such as templates."""
    (folder,) = [*ROOT.glob(package), *ROOT.glob(f"plugins/*/src/{package}")]
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"{package}/{path.relative_to(folder).as_posix()}" for path in files}


def install_bare(folder: Path, wheels: list[Path]) -> Path:
    """
    Install the core with its requirements, check that nothing else was installed, and return the environment's Python.

    Our wheels are installed as files, so that no package of the same name can come from an index.
    """
    venv.create(folder, with_pip=False)
    python = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)})) / "python"
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {"sage-deploy", *(re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in required)}
    pip(python, "install", *(wheel for wheel in wheels if wheel.name.split("-")[0].replace("_", "-") in names))
    pip(python, "check")
    installed = {distribution["name"].lower() for distribution in json.loads(pip(python, "list", "--format", "json"))}
    if brought := sorted(installed & OPTIONAL):
        sys.exit(f"a bare install brings {', '.join(brought)}")
    return python


def run_tests(folder: Path, python: Path, arguments: list[str]) -> None:
    """Run the tests in an empty folder. Use the pytest script: `python -m` would add that folder to sys.path."""
    shutil.copy(ROOT / "tools" / "installed_only.py", next(python.parent.parent.glob("lib/python*/site-packages")))
    empty = folder / "empty"
    empty.mkdir()
    plugins = ("-p", "installed_only", "-p", "no:cacheprovider")
    settings: tuple[str | Path, ...] = ("-c", ROOT / "pyproject.toml", "--rootdir", ROOT)
    settings = (*settings, "-m", "wheels")
    # Collect only the files with such tests: collecting all others takes longer than running these.
    suite = (path for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.wheels" in path.read_text("utf-8"))
    run(python.with_name("pytest"), *plugins, *settings, *arguments, *suite, cwd=empty)


def pip(python: Path, *arguments: str | Path) -> str:
    """Run this environment's pip for another Python. Return its output."""
    common = ("-m", "pip", "--python", python, "--disable-pip-version-check")
    return run(sys.executable, *common, *arguments, capture=True)


def run(*command: str | Path, cwd: Path = ROOT, capture: bool = False) -> str:
    """Run *command* without the caller's import settings. End this program if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    print("+", *(str(part).replace(str(ROOT), "ROOT") for part in command), flush=True)
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if capture else None,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{done.stdout or ''}failed with exit code {done.returncode}: {' '.join(map(str, command))}")
    return done.stdout or ""


if __name__ == "__main__":
    main(sys.argv[1:])
