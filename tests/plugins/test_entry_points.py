"""Our search for entry points finds what `importlib.metadata` finds."""

from __future__ import annotations

import json
import sys
import zipfile
from importlib import metadata

import pytest

from sage_plugins.errors import PluginError
from sage_plugins.plugins.discovery import Plugin
from sage_plugins.plugins.entry_points import entry_points
from sage_plugins.plugins.registry import Registry

GROUP = "sage_deploy"
POINTS = f"[{GROUP}]\nacme = acme\n"


def ours():
    return {(name, value, dist().name, dist().version) for name, value, dist in entry_points(GROUP)}


def theirs():
    return {
        (point.name, point.value, point.dist.name, point.dist.version) for point in metadata.entry_points(group=GROUP)
    }


def write(folder, name="acme-1.0.dist-info", points=POINTS, distribution="acme", described="METADATA"):
    """Write the metadata files of an installed distribution."""
    info = folder / name
    info.mkdir(parents=True)
    (info / described).write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A folder. What the test adds to `sys.path` is removed at the end."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield tmp_path
    metadata.MetadataPathFinder().invalidate_caches()  # it keeps zip files open


def in_a_folder(path):
    write(path)
    sys.path.append(str(path))


def of_an_old_installer(path):
    write(path, "acme.egg-info", described="PKG-INFO")
    sys.path.append(str(path))


def in_capitals(path):
    write(path, "Acme-1.0.Dist-Info")
    sys.path.append(str(path))


def in_the_current_folder(path):
    write(path)
    sys.path.append("")


def twice_on_the_path(path):
    write(path)
    sys.path += [str(path), str(path)]


def hidden_by_another_spelling(path):
    write(path / "first", "acme_tools-1.0.dist-info", f"[{GROUP}]\nfirst = acme\n", "acme-tools")
    write(path / "second", "Acme.Tools-0.9.dist-info", f"[{GROUP}]\nsecond = acme\n", "Acme.Tools")
    sys.path += [str(path / "first"), str(path / "second")]


def among_other_groups(path):
    before, after = "[console_scripts]\nacme = acme:main\n\n", "[other]\ne = e\n"
    write(path, points=f"{before}# ours:\n[{GROUP}]\n# old = old\n\n  b=b:c.d [fast]\nc = c=d\n{after}")
    sys.path.append(str(path))


def in_a_zip_file(path):
    write(path / "source")
    with zipfile.ZipFile(path / "acme.zip", "w") as archive:
        for file in (path / "source").rglob("*"):
            archive.write(file, file.relative_to(path / "source"))
    sys.path.append(str(path / "acme.zip"))


def in_eggs(path):
    for name in ("acme", "other"):
        write(path / f"{name}-1.0.egg", "EGG-INFO", f"[{GROUP}]\n{name} = {name}\n", name, "PKG-INFO")
        sys.path.append(str(path / f"{name}-1.0.egg"))


def by_a_finder(path):
    class Finder:
        def find_spec(self, name, path=None, target=None):
            return None

        def find_distributions(self, context=None):
            return [metadata.Distribution.at(path / "acme-1.0.dist-info")]

    write(path)
    sys.meta_path.append(Finder())


def nowhere(path):
    (path / "file.dist-info").write_text("no folder")
    (path / "none-1.0.dist-info").mkdir()
    write(path, "dist-info")
    sys.path += [str(path), str(path / "missing")]


@pytest.mark.parametrize(
    ("layout", "found"),
    [
        (in_a_folder, {"acme"}),
        (of_an_old_installer, {"acme"}),
        (in_capitals, {"acme"}),
        (in_the_current_folder, {"acme"}),
        (twice_on_the_path, {"acme"}),
        (hidden_by_another_spelling, {"first"}),
        (among_other_groups, {"b", "c"}),
        (in_a_zip_file, {"acme"}),
        (in_eggs, {"acme", "other"}),
        (by_a_finder, {"acme"}),
        (nowhere, set()),
    ],
)
def test_finds_what_importlib_finds(layout, found, path, monkeypatch):
    """The search finds the same entry points and distributions as importlib, however Python finds them."""
    monkeypatch.chdir(path)
    before = {name for name, *_ in ours()}
    layout(path)
    assert ours() == theirs()
    assert {name for name, *_ in ours()} - before == found


@pytest.mark.parametrize(
    "value",
    ["json:JSONDecoder", " json : JSONDecoder ", "json:decoder.JSONDecoder [fast, safe]", "json.decoder:JSONDecoder"],
)
def test_plugin_may_be_an_object_in_a_module(value):
    """An entry point can name an object in a module, after a colon; extras in brackets are ignored."""
    assert Plugin("json", value).load() is json.JSONDecoder


@pytest.mark.parametrize("line", ["acme", "acme =", "acme = no.such", "acme = json:no_such"])
def test_entry_point_that_names_nothing_hurts_nobody_else(line, path):
    """An entry point that names nothing is a failed plugin with a reason, and other plugins work."""
    write(path, points=f"[{GROUP}]\n{line}\n")
    sys.path.append(str(path))
    registry = Registry.discover()
    (failure,) = registry.failures
    assert (failure.plugin.name, failure.plugin.source) == ("acme", "acme 1.0")
    assert not isinstance(failure.error, PluginError)
    assert "local" in registry.ids("target")
