"""Runs the conformance suites of one plugin, which is installed or in a folder with its sources."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from sage_plugins.hookspecs import PROJECT
from sage_plugins.plugins.discovery import installed
from sage_plugins.plugins.registry import Registry
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sage_plugins.plugins.discovery import Plugin
    from sage_plugins.values import Registration

__all__ = ["as_if_installed", "find_plugins", "run_suites"]

#: The conformance suite in `sage_deploy_testing` for each kind of plugin that has one.
_SUITES: Final = {
    "target": "TargetConformance",
    "threading strategy": "StrategyConformance",
    "load balancer": "BalancerConformance",
    "monitor": "MonitorConformance",
    "autoscaler": "AutoscalerConformance",
}


def find_plugins(name: str) -> tuple[list[Plugin], str | None]:
    """
    Find installed plugins by *name*: of a distribution, else of an entry point, else of an ID that they offer.

    Returns:
        The plugins. If *name* is an ID, also the ID: only that one is meant.

    Raises:
        click.UsageError: Nothing has this name. The message names the nearest one.
    """
    plugins = installed()
    for found in (
        [plugin for plugin in plugins if plugin.distribution == name],
        [plugin for plugin in plugins if plugin.name == name],
    ):
        if found:
            return found, None
    offering = [plugin for plugin in plugins if any(id == name for _, id, _ in _registrations([plugin]))]
    if offering:
        return offering, name
    near = did_you_mean(name, [each for plugin in plugins for each in (plugin.distribution, plugin.name)])
    hint = f"did you mean {near!r}?" if near else "`sage-deploy plugins list` shows all"
    raise click.UsageError(f"no folder, distribution, plugin or ID is called {name!r} ({hint})")


@contextmanager
def as_if_installed(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """
    Yield the name of the distribution in *folder*, and environment variables that make it count as installed.

    Raises:
        click.UsageError: The folder holds no plugin of sage-deploy.
    """
    try:
        project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        name, points = project["name"], project["entry-points"][PROJECT]
    except (OSError, KeyError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        fix = f"it needs a pyproject.toml with [project.entry-points.{PROJECT}]"
        raise click.UsageError(f"{folder} holds no plugin of sage-deploy ({fix}; {what})") from error
    with tempfile.TemporaryDirectory(prefix="sage-deploy-") as site:
        version = project.get("version", "0")
        info = Path(site, f"{name.replace('-', '_')}-{version}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        lines = "".join(f"{point} = {module}\n" for point, module in points.items())
        (info / "entry_points.txt").write_text(f"[{PROJECT}]\n{lines}", encoding="utf-8")
        path = [site, str(folder / "src"), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        yield name, {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def run_suites(plugins: Sequence[Plugin], only: str | None = None) -> bool:
    """
    Run the suites for what *plugins* offer, or for the ID *only*. Pytest reports to this process's stdout.

    Returns:
        Whether all suites passed. Registrations without a suite, or with required options, are named and skipped.
    """
    tests: list[str] = []
    for kind, id, registration in _registrations(plugins):
        if only not in {None, id}:
            continue
        if kind not in _SUITES:
            click.echo(f"{kind} {id}: there is no suite for this kind")
        elif _asks_for_options(registration):
            click.echo(f"{kind} {id}: has options without defaults; set `options` in a class that inherits the suite")
        else:
            tests.append(f"class Test_{id}({_SUITES[kind]}):\n    plugin_id = {id!r}\n")
    if not tests:
        return True
    if find_spec("sage_deploy_testing") is None:
        raise click.UsageError("the suites are in sage-deploy-testing: pip install 'sage-deploy[testing]'")
    with tempfile.TemporaryDirectory(prefix="sage-deploy-") as folder:
        path = Path(folder, "test_conformance.py")
        suites = ", ".join(sorted(set(_SUITES.values())))
        path.write_text("\n\n".join([f"from sage_deploy_testing import {suites}", *tests]), encoding="utf-8")
        # With this root, pytest reads no configuration of a project above the working directory.
        options = ("-q", "--rootdir", folder, "-c", os.devnull, "-p", "no:cacheprovider", "-r", "fE")
        command = [sys.executable, "-m", "pytest", *options, str(path)]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - our own tests, with this Python


def _registrations(plugins: Sequence[Plugin]) -> Iterator[tuple[str, str, Registration]]:
    for plugin in plugins:
        try:
            registry = Registry([(plugin, plugin.load())])
        except Exception:  # noqa: BLE001, S112 - `check_plugins` reports why it does not load
            continue
        for (kind, id), entry in sorted(registry.entries().items()):
            yield kind, id, entry.registration


def _asks_for_options(registration: Registration) -> bool:
    cls = registration.options_class()
    return cls is not None and any(each.init and each.default is attrs.NOTHING for each in attrs.fields(cls))
