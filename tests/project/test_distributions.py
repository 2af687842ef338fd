"""The distributions of the repository agree: versions, ranges, workspace, entry points, types, README."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from documentation_pages import FENCE

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {folder.parent.name: folder.parent for folder in sorted(ROOT.glob("plugins/*/pyproject.toml"))}
#: Brought by the core itself, so that a bare install runs a service.
DEFAULTS = {
    f"sage-deploy-{name}"
    for name in (
        "autoscalers",
        "balancers",
        "cli",
        "files",
        "local",
        "monitors",
        "process",
        "remote",
        "threading",
    )
}


def read(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


CORE = read(ROOT)
PLUGINS = {name: read(folder) for name, folder in FOLDERS.items()}
ALL = {project["project"]["name"]: project for project in (CORE, *PLUGINS.values())}

each_plugin = pytest.mark.parametrize("name", PLUGINS)


def requirements(project: dict[str, Any]) -> list[Requirement]:
    table = project["project"]
    extras = table.get("optional-dependencies", {})
    return [Requirement(text) for group in (table.get("dependencies", ()), *extras.values()) for text in group]


def test_plugins_are_found():
    """The checks below run on the plugins that exist, and the default ones are among them."""
    assert set(ALL) > DEFAULTS


def test_one_minor_version():
    """Minor versions move together; patches may differ."""
    assert len({Version(project["project"]["version"]).release[:2] for project in ALL.values()}) == 1, {
        name: project["project"]["version"] for name, project in ALL.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_ranges_contain_the_siblings(name):
    """What one distribution asks of another is what stands beside it, and ends at the next minor."""
    for requirement in requirements(ALL[name]):
        sibling = ALL.get(requirement.name)
        if sibling is None:
            assert not requirement.name.startswith("sage-deploy"), f"{requirement} is not in this repository"
            continue
        version = Version(sibling["project"]["version"])
        assert version in requirement.specifier, f"{requirement} excludes {version}"
        if not requirement.extras:
            following = Version(f"{version.major}.{version.minor + 1}")
            assert following not in requirement.specifier, f"{requirement} admits {following}"


def test_core_brings_the_default_plugins():
    """The defaults are dependencies; every other plugin stands in an extra of its own name."""
    brought = {Requirement(text).name for text in CORE["project"]["dependencies"]}
    extras = CORE["project"].get("optional-dependencies", {})

    assert brought >= DEFAULTS
    for name, plugin in PLUGINS.items():
        distribution = plugin["project"]["name"]
        if distribution not in DEFAULTS:
            assert distribution not in brought
            assert distribution in {Requirement(text).name for text in extras.get(name, ())}, f"no extra {name}"


@each_plugin
def test_plugin_asks_for_the_core(name):
    """A plugin installed alone brings the core, and is named after its folder."""
    project = PLUGINS[name]["project"]

    assert project["name"] == f"sage-deploy-{name}"
    assert "sage-deploy" in {Requirement(text).name for text in project["dependencies"]}
    assert project["requires-python"] == CORE["project"]["requires-python"]


@pytest.mark.parametrize("name", ALL)
def test_uv_knows_every_member(name):
    """A member that is missing from the sources stops `uv lock` as soon as anything depends on it."""
    assert CORE["tool"]["uv"]["workspace"]["members"] == ["plugins/*"]
    assert CORE["tool"]["uv"]["sources"][name] == {"workspace": True}


def test_every_folder_is_a_project():
    """A folder without a pyproject in plugins/ stops uv for everybody."""
    folders = {folder.name for folder in (ROOT / "plugins").iterdir() if folder.is_dir()}
    assert folders == set(PLUGINS)


@each_plugin
def test_entry_points_are_modules(name):
    """Each entry point's module is in the folder's own sources, which the wheel ships."""
    modules = PLUGINS[name]["project"]["entry-points"]["sage_deploy"]
    shipped = PLUGINS[name]["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert name in modules
    for module in modules.values():
        package, *rest = module.split(".")
        assert f"src/{package}" in shipped
        path = FOLDERS[name].joinpath("src", package, *rest)
        assert (path / "__init__.py").is_file() or path.with_suffix(".py").is_file(), f"no module {module}"


def test_every_package_is_typed():
    """Each import package has its py.typed, and the type checker reads it."""
    packages = [ROOT / "sage_plugins", *(path.parent for path in ROOT.glob("plugins/*/src/*/__init__.py"))]

    assert len(packages) == len(ALL)
    for package in packages:
        assert (package / "py.typed").is_file(), f"no py.typed in {package.relative_to(ROOT)}"
    for folder in FOLDERS:
        assert f"$MYPY_CONFIG_FILE_DIR/plugins/{folder}/src" in CORE["tool"]["mypy"]["mypy_path"]


@pytest.mark.parametrize("name", ALL)
def test_readme_names_every_distribution(name):
    """The reader of the README learns what there is to install; each distribution describes itself."""
    assert name in (ROOT / "README.md").read_text(encoding="utf-8")
    folder = ROOT if name == "sage-deploy" else FOLDERS[name.removeprefix("sage-deploy-")]
    assert (folder / ALL[name]["project"]["readme"]).read_text(encoding="utf-8").startswith(f"# {name}\n")


@each_plugin
def test_readme_has_no_relative_link(name):
    """A package index shows the README of a plugin alone: a link into the repository is dead there."""
    text = (FOLDERS[name] / PLUGINS[name]["project"]["readme"]).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(<?([^)\s>]*)|^ {0,3}\[[^\]]+\]:\s*(\S+)", FENCE.sub("", text), re.MULTILINE)

    assert [each for pair in targets for each in pair if each and not re.match(r"#|\w+:", each)] == []


def test_scripts_and_tools_are_declared_once():
    """Plugins have no tool configuration of their own: the root's holds for all."""
    for name, plugin in PLUGINS.items():
        assert set(plugin["tool"]) == {"hatch", "uv"}, name
