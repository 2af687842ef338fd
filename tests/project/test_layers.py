"""The core's modules import only lower layers, and packages and files stay small. `import_layers` has the rules."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest

from import_layers import (
    CORE,
    LAYER,
    LIBRARIES,
    ROOT,
    UPWARD_TYPES,
    core_module,
    faults_of_core,
    faults_of_plugin,
    imports,
    modules_of,
    public_names,
)


@pytest.fixture(scope="module")
def offered() -> dict[str, str]:
    init = CORE / "__init__.py"
    return public_names(init.read_text(encoding="utf-8") if init.exists() else "")


def core_sources() -> list[tuple[str, str, str]]:
    """Return every module of the core except the package itself, which looks its names up lazily."""
    return [
        (name.split(".")[1], package, source)
        for name, package, source in modules_of(CORE, ROOT)
        if name != "sage_plugins"
    ]


def test_core_imports_point_down(offered):
    """No module of the core imports a higher layer at run time."""
    faults = [fault for name, pkg, source in core_sources() for fault in faults_of_core(name, source, offered, pkg)]
    assert not faults, "\n".join(faults)


def test_types_point_up_only_where_it_is_said(offered):
    """The upward imports for type checkers are exactly those in `UPWARD_TYPES`."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, package, source in core_sources():
        for each in imports(source, package):
            imported = core_module(each, offered)
            if imported in LAYER and each.typing_only and LAYER[imported] > LAYER[name]:
                found.setdefault((name, imported), set()).add(each.name)
    assert found == UPWARD_TYPES


SOURCES = sorted([*CORE.rglob("*.py"), *ROOT.glob("plugins/*/src/**/*.py")])


def test_no_file_is_long():
    """A source file has at most 500 lines. Only the testing kit's lists of cases may be longer."""
    long = [path for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > 500]
    assert [path.name for path in long if path.parent.name != "cases"] == []


def test_no_package_is_crowded():
    """A package has at most 12 files and a docstring. Only the packages of cases and templates may have more files."""
    packages = {path.parent for path in SOURCES}
    sizes = {package.name: len(list(package.glob("*.py"))) for package in packages}
    assert {
        name: files for name, files in sizes.items() if files > 12 and name not in {"cases", "starter", "plugin_kit"}
    } == {}
    silent = [
        str(package.relative_to(ROOT))
        for package in packages
        if (package / "__init__.py").exists()
        and not ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    ]
    assert silent == []


def test_core_imports_make_no_circle(offered):
    """Modules of the same layer import each other without cycles."""
    graph: dict[str, set[str]] = {}
    for name, package, source in core_sources():
        needed = graph.setdefault(name, set())
        for found in imports(source, package):
            imported = core_module(found, offered)
            if imported is not None and imported != name and not found.typing_only:
                needed.add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


PACKAGES = sorted(path.parent.name for path in CORE.glob("*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_of_a_package_import_each_other_in_one_direction(package):
    """The modules of a package import each other without cycles, and never the package itself."""
    check_one_direction(modules_of(CORE / package, ROOT))


@pytest.mark.parametrize("library", LIBRARIES)
def test_modules_of_a_library_import_each_other_in_one_direction(library):
    """The modules of a library import each other without cycles, across its packages and inside functions too."""
    (src,) = ROOT.glob(f"plugins/*/src/{library}")
    check_one_direction(modules_of(src, src.parent))


def check_one_direction(modules: list[tuple[str, str, str]]) -> None:
    """Fail if the modules import each other in a cycle."""
    sources = {name: (parent, source) for name, parent, source in modules}
    graph = {name: set[str]() for name in sources}
    for name, (parent, source) in sources.items():
        for found in imports(source, parent):
            if not found.typing_only:
                graph[name] |= {found.module, f"{found.module}.{found.name}"} & (sources.keys() - {name})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_package_offers_its_names_without_other_distributions():
    """`sage_plugins` itself imports no other distribution."""
    init = CORE / "__init__.py"
    for found in imports(init.read_text(encoding="utf-8"), "sage_plugins"):
        assert not found.module.startswith("sage_deploy"), f"line {found.line}"


def test_plugins_import_the_public_lower_layers(offered):
    """First-party plugins follow the rules for third-party plugins."""
    faults = [
        fault
        for src in sorted(ROOT.glob("plugins/*/src"))
        for name, package, source in modules_of(src, src)
        for fault in faults_of_plugin(package or name, source, offered, name.partition(".")[0])
    ]
    assert not faults, "\n".join(faults)


def test_architecture_shows_every_wing_in_its_layer():
    """The picture in docs/design/architecture.md shows exactly the core's modules and packages, in their layers."""
    text = (ROOT / "docs" / "design" / "architecture.md").read_text(encoding="utf-8")
    picture = text.partition("```text\n")[2].partition("```")[0]
    shown = {
        name: int(line.split()[-1])
        for line in picture.splitlines()[1:]
        for name in re.findall(r"(\w+)(?:/|\.py) ", line)
    }
    there = {path.parent.name for path in CORE.glob("*/__init__.py")}
    there |= {path.stem for path in CORE.glob("*.py")} - {"__init__"}
    assert shown == LAYER
    assert set(shown) == there
