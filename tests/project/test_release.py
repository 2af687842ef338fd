"""The release tools: `bump` sets the version of all distributions, `check_release` checks the files to upload."""

from __future__ import annotations

import importlib.util
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bump, check_release = tool("bump"), tool("check_release")


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_bump_changes_the_version_and_the_ranges_of_the_siblings_alone(folder):
    """`bump` changes only a distribution's version and the ranges of its sibling distributions."""
    before = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    after = tomllib.loads(bump.bumped((folder / "pyproject.toml").read_text(encoding="utf-8"), "3.7.1"))
    assert after["project"].pop("version") == "3.7.1"
    del before["project"]["version"]
    assert str(after) == str(before).replace(">=0.1,<0.2", ">=3.7,<3.8")


def test_bump_gives_unreleased_changes_their_version():
    """`bump` moves the unreleased changes under the new version and its date."""
    text = bump.dated("# Changelog\n\n## Unreleased\n\n- new\n\n## 0.1.0\n", "0.2.0", "2027-01-31")
    assert text == "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2027-01-31\n\n- new\n\n## 0.1.0\n"


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9", "1.0", "next", "1.0.0rc1"])
def test_bump_refuses_what_is_no_later_version_before_it_writes(version, monkeypatch, tmp_path):
    """`bump` refuses a version that is not a later release, and writes nothing."""
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\nname = "sage-deploy"\nversion = "0.1.0"\n')
    monkeypatch.setattr(bump, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as said:
        bump.main(version, "2027-01-31")
    assert version in str(said.value) or "already" in str(said.value)
    assert 'version = "0.1.0"' in pyproject.read_text()


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_each_distribution_has_the_licence(folder):
    """Each distribution contains a copy of the repository's licence."""
    assert (folder / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_what_an_archive_lacks_is_named(tmp_path):
    """`check_release` names the required files that a wheel or an sdist lacks."""
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a/py.typed", "")
    with tarfile.open(tmp_path / "a-1.tar.gz", "w:gz") as sdist:
        sdist.add(ROOT / "LICENSE", "a-1/LICENSE")
    assert check_release.missing_from(tmp_path / "a-1-py3-none-any.whl") == ["LICENSE"]
    assert check_release.missing_from(tmp_path / "a-1.tar.gz") == ["README.md", "pyproject.toml"]


def test_two_builds_that_differ_are_refused(tmp_path, monkeypatch):
    """Two builds of a release must give identical files."""
    count = iter(range(9))

    def build(folder):
        (folder / "a-1.tar.gz").write_text(f"build {next(count)}")
        return [folder / "a-1.tar.gz"]

    monkeypatch.setattr(check_release, "build", build)
    with pytest.raises(SystemExit, match=r"two builds differ: a-1\.tar\.gz"):
        check_release.main(tmp_path / "dist")
