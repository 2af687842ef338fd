"""The distributions in the repository agree: versions, ranges, workspace, entry points, types and README."""

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
#: Dependencies of the core, so that a bare install can run a service.
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
    """The checks below find the plugins, including all default ones."""
    assert set(ALL) > DEFAULTS


def test_one_minor_version():
    """All distributions share one minor version; patch versions may differ."""
    assert len({Version(project["project"]["version"]).release[:2] for project in ALL.values()}) == 1, {
        name: project["project"]["version"] for name, project in ALL.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_ranges_contain_the_siblings(name):
    """A distribution's range for a sibling includes the sibling's current version and excludes the next minor."""
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
    """The default plugins are dependencies of the core. Every other plugin is in an extra with its own name."""
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
    """A plugin depends on the core, needs the same Python, and is named after its folder."""
    project = PLUGINS[name]["project"]

    assert project["name"] == f"sage-deploy-{name}"
    assert "sage-deploy" in {Requirement(text).name for text in project["dependencies"]}
    assert project["requires-python"] == CORE["project"]["requires-python"]


@pytest.mark.parametrize("name", ALL)
def test_uv_knows_every_member(name):
    """Every distribution is in uv's sources. If one is missing, `uv lock` fails as soon as another depends on it."""
    assert CORE["tool"]["uv"]["workspace"]["members"] == ["plugins/*"]
    assert CORE["tool"]["uv"]["sources"][name] == {"workspace": True}


def test_every_folder_is_a_project():
    """Every folder in plugins/ has a pyproject.toml. Without one, uv fails for everybody."""
    folders = {folder.name for folder in (ROOT / "plugins").iterdir() if folder.is_dir()}
    assert folders == set(PLUGINS)


@each_plugin
def test_entry_points_are_modules(name):
    """Each entry point names a module that exists in the folder's sources and that the wheel ships."""
    modules = PLUGINS[name]["project"]["entry-points"]["sage_deploy"]
    shipped = PLUGINS[name]["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert name in modules
    for module in modules.values():
        package, *rest = module.split(".")
        assert f"src/{package}" in shipped
        path = FOLDERS[name].joinpath("src", package, *rest)
        assert (path / "__init__.py").is_file() or path.with_suffix(".py").is_file(), f"no module {module}"


def test_every_package_is_typed():
    """Each import package has a `py.typed` file and is on mypy's path."""
    packages = [ROOT / "sage_plugins", *(path.parent for path in ROOT.glob("plugins/*/src/*/__init__.py"))]

    assert len(packages) == len(ALL)
    for package in packages:
        assert (package / "py.typed").is_file(), f"no py.typed in {package.relative_to(ROOT)}"
    for folder in FOLDERS:
        assert f"$MYPY_CONFIG_FILE_DIR/plugins/{folder}/src" in CORE["tool"]["mypy"]["mypy_path"]


@pytest.mark.parametrize("name", ALL)
def test_readme_names_every_distribution(name):
    """The README names every distribution, and each distribution has its own README."""
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
    """Plugins have no tool configuration except for hatch and uv: the root's configuration applies to all."""
    for name, plugin in PLUGINS.items():
        assert set(plugin["tool"]) == {"hatch", "uv"}, name
