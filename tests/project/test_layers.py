"""
The core's modules import only lower layers, and finding plugins imports little.

The rules, for every import statement in the sources, also those inside functions:

- A module of the core imports modules of lower layers, or of its own layer if this makes no import cycle.
- An import under `if TYPE_CHECKING:` does not run and may point up: an error may name the types of its values.
- The core imports no other distribution, not even for types.
- A plugin imports layers 0 to 3, public modules only, and no other plugin. A name that `sage_plugins` itself
  offers counts as the module that defines it.
- A library serves several plugins. Only the distributions in `LIBRARIES` import it. It follows the rules for plugins,
  and imports no runtime that these plugins adapt.
- `sage_deploy_remote` also imports `routing` and `process_end`. A client in another process is the calling side of a
  service: it needs the same router and handles. A handle that comes back to the process that deployed its service must
  find the environment there.
- Commands that a plugin adds read and write deployment files through the modules of `sage_deploy_cli` in `WRITING`.
- A plugin that adapts another framework stands above the core, as users do: it also imports all names that
  `sage_plugins` itself offers, whatever the layer.
- `sage_deploy_cli` and `sage_deploy_testing` stand above the core and import any of its public modules.
- Each new module of the core must be added to the table below, or the test fails. A package counts as one module. The
  modules of a package import each other in one direction.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

from sage_deploy_cli.machine.plugin_imports import HEAVY

ROOT = Path(__file__).parent.parent.parent
CORE = ROOT / "sage_plugins"

LAYERS = {
    8: {"compat"},
    7: {"environment"},
    6: {"planning"},
    5: {"deployment"},
    4: {"process_end", "resilience", "routing"},
    3: {"hookspecs", "host", "plugins"},
    2: {"interfaces", "service"},
    1: {"call", "config", "metrics", "values"},
    0: {"clock", "errors", "event_kinds", "findings", "problems", "texts", "threads"},
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}
#: The highest layer that a plugin may import.
PLUGINS_SEE = 3
#: Layers above 3 that a library may import too.
ALSO_SEEN = {"sage_deploy_remote": {"process_end", "routing"}}
#: Runtimes that a library must not import, not even for type checkers.
SUBSTRATES = {"ray"}
#: Plugins that adapt another framework.
ADAPTERS = {"sage_deploy_sage"}
#: Distributions that stand above the core, as users do.
ABOVE = {"sage_deploy_cli", "sage_deploy_testing"}
#: Libraries, and the distributions that may import them.
LIBRARIES = {
    "sage_deploy_files": {"sage_deploy_cli", "sage_deploy_server"},
    "sage_deploy_remote": {"sage_deploy_process", "sage_deploy_ray"},
}
#: What the packages `commands` of all distributions may import.
WRITING = {"sage_deploy_cli.environment_of", "sage_deploy_cli.exit_codes", "sage_deploy_cli.output"}

#: Imports for type checkers that point up: (importing module, imported module) and the names.
UPWARD_TYPES = {
    ("interfaces", "planning"): {"DeploymentPlan"},
    ("interfaces", "routing"): {"ServiceHandle"},
    ("service", "routing"): {"ServiceHandle"},
    ("deployment", "planning"): {"Composition"},
}


class Import(NamedTuple):
    """One imported module; *name* is what `from module import name` takes from it."""

    module: str
    name: str | None
    line: int
    typing_only: bool


def imports(source: str, package: str = "") -> list[Import]:
    """Return every import in *source*. Relative imports start at *package*."""
    found: list[Import] = []

    def visit(node: ast.AST, *, typing_only: bool) -> None:
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            for child in node.body:
                visit(child, typing_only=True)
            for child in node.orelse:
                visit(child, typing_only=typing_only)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, None, node.lineno, typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found.extend(Import(module, alias.name, node.lineno, typing_only) for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in {"import_module", "__import__"}:
            literals = [argument for argument in node.args[:1] if isinstance(argument, ast.Constant)]
            found.extend(Import(str(literal.value), None, node.lineno, typing_only) for literal in literals)
        for child in ast.iter_child_nodes(node):
            visit(child, typing_only=typing_only)

    visit(ast.parse(source), typing_only=False)
    return found


def _is_type_checking(test: ast.expr) -> bool:
    return _last_name(test) == "TYPE_CHECKING"


def _last_name(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def public_names(source: str) -> dict[str, str]:
    """Map each name that the package `sage_plugins` offers to its module, as its imports for type checkers say."""
    names = {"__version__": "errors"}  # layer 0: reads the installed metadata
    for found in imports(source, "sage_plugins"):
        head, _, module = found.module.partition(".")
        if head == "sage_plugins" and found.name:
            names[found.name] = module.partition(".")[0] or found.name
    return names


def core_module(found: Import, offered: dict[str, str]) -> str | None:
    """Return the module of the core that *found* imports, or None if it imports something else."""
    head, _, rest = found.module.partition(".")
    if head != "sage_plugins":
        return None
    if rest:
        return rest.partition(".")[0]
    if found.name is None:
        return "__init__"
    return offered.get(found.name, found.name)


def faults_of_core(module: str, source: str, offered: dict[str, str], package: str = "sage_plugins") -> list[str]:
    """Return the imports of the core's *module* that break the rules."""
    if module not in LAYER:
        return [f"{module} is in no layer: put it in the table of {Path(__file__).name}"]
    faults = []
    for found in imports(source, package):
        imported = core_module(found, offered)
        if imported is None:
            if found.module.startswith("sage_deploy"):
                faults.append(f"{module}:{found.line} imports the plugin {found.module}")
            continue
        if found.typing_only:
            continue
        if imported == "__init__":
            faults.append(f"{module}:{found.line} imports the package, whose names come from every layer")
        elif imported not in LAYER:
            faults.append(f"{module}:{found.line} imports {imported}, which is in no layer")
        elif LAYER[imported] > LAYER[module]:
            faults.append(f"{module}:{found.line} (layer {LAYER[module]}) imports {imported} ({LAYER[imported]})")
    return faults


def faults_of_plugin(package: str, source: str, offered: dict[str, str], own: str) -> list[str]:
    """Return the imports in the module *package* of the plugin *own* that break the rules."""
    faults = []
    for found in imports(source, package):
        where = f"{package}:{found.line}"
        top = found.module.partition(".")[0]
        writes = package.endswith(".commands") and found.module in WRITING
        if top.startswith("sage_deploy") and top != own and own not in LIBRARIES.get(top, ()) and not writes:
            faults.append(f"{where} imports another plugin: {found.module}")
        if own in LIBRARIES and top in SUBSTRATES:
            faults.append(f"{where} imports the runtime {top}")
        imported = core_module(found, offered)
        if imported is None:
            continue
        if imported.startswith("_") or (found.name or "").startswith("_"):
            faults.append(f"{where} imports the private {found.module}.{found.name}")
        elif own in ABOVE or (own in ADAPTERS and found.module == "sage_plugins" and found.name in offered):
            continue
        elif not found.typing_only and LAYER.get(imported, 99) > PLUGINS_SEE and imported not in ALSO_SEEN.get(own, ()):
            faults.append(f"{where} imports {imported}, above layer {PLUGINS_SEE}")
    return faults


def modules_of(folder: Path, base: Path) -> list[tuple[str, str, str]]:
    """Return the dotted name, the package and the source of each module in *folder*. Names are relative to *base*."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        if path.parent.name == "plugin_kit":  # copied into users' projects, never imported
            continue
        parts = path.relative_to(base).with_suffix("").parts
        package = ".".join(parts[:-1])
        found.append((".".join(parts).removesuffix(".__init__"), package, path.read_text(encoding="utf-8")))
    return found


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


OFFERED = {"Environment": "environment", "hookimpl": "hookspecs"}


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("call", "from sage_plugins.deployment.task import ServiceTask", "call:1 (layer 1) imports deployment (5)"),
        ("call", "def f():\n    from sage_plugins import routing", "call:2 (layer 1) imports routing (4)"),
        ("call", "from .planning import plan", "call:1 (layer 1) imports planning (6)"),
        ("call", "from sage_plugins import Environment", "call:1 (layer 1) imports environment (7)"),
        (
            "call",
            "import importlib\nimportlib.import_module('sage_plugins.compat')",
            "call:2 (layer 1) imports compat (8)",
        ),
        ("call", "import sage_plugins", "call:1 imports the package"),
        ("call", "from sage_deploy_testing import doubles", "call:1 imports the plugin sage_deploy_testing"),
        ("call", "if TYPE_CHECKING:\n    from sage_deploy_testing import doubles", "call:2 imports the plugin"),
        ("call", "if TYPE_CHECKING:\n    pass\nelse:\n    from sage_plugins.compat import tasks", "call:4 (layer 1)"),
        ("call", "import sage_deploy_local", "call:1 imports the plugin sage_deploy_local"),
        ("call", "from sage_plugins.novelty import x", "call:1 imports novelty, which is in no layer"),
        ("novelty", "", "novelty is in no layer"),
    ],
)
def test_checker_finds_faults_of_the_core(module, source, fault):
    """The checker reports each way in which the core can break the rules."""
    (found,) = faults_of_core(module, source, OFFERED)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "source",
    [
        "from sage_plugins.errors import CallError",
        "from sage_plugins.config.service_config import ServiceDeploymentConfig",
        "import typing\nif typing.TYPE_CHECKING:\n    from sage_plugins.environment.environment import Environment",
        "import asyncio.events, sage",
    ],
)
def test_checker_lets_good_imports_of_the_core_pass(source):
    """The core may import lower layers, its own layer, foreign packages, and anything for type checkers."""
    assert faults_of_core("call", source, OFFERED) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from sage_plugins.routing.router import Router", "imports routing, above layer 3"),
        ("from sage_plugins import Environment", "imports environment, above layer 3"),
        ("from sage_plugins import unheard_of", "imports unheard_of, above layer 3"),
        ("from sage_plugins.host.host import _private", "imports the private sage_plugins.host.host._private"),
        ("from sage_deploy_testing import doubles", "imports another plugin: sage_deploy_testing"),
        ("def create():\n    import sage_deploy_ray.target", "imports another plugin: sage_deploy_ray.target"),
    ],
)
def test_checker_finds_faults_of_plugins(source, fault):
    """The checker reports each way in which a plugin can break the rules."""
    (found,) = faults_of_plugin("sage_deploy_local", source, OFFERED, "sage_deploy_local")
    assert found.endswith(fault)


def test_checker_lets_good_imports_of_plugins_pass():
    """A plugin may import itself, public names, and layers 0 to 3."""
    source = (
        "from sage_plugins import hookimpl\nfrom sage_plugins.host.host import Host\nfrom . import target\nimport attrs"
    )
    assert faults_of_plugin("sage_deploy_local", source, OFFERED, "sage_deploy_local") == []


@pytest.mark.parametrize("importing", ["sage_deploy_ray", "sage_deploy_process"])
def test_checker_lets_target_plugins_import_the_library(importing):
    """A target with replicas in other processes may import `sage_deploy_remote`; other plugins may not."""
    source = "from sage_deploy_remote.link.transport import Transport"
    assert faults_of_plugin(importing, source, OFFERED, importing) == []
    assert len(faults_of_plugin("sage_deploy_local", source, OFFERED, "sage_deploy_local")) == 1


def test_checker_lets_the_library_be_a_calling_side():
    """`sage_deploy_remote` may import routers, as the calling side does; other plugins may not."""
    source = "from sage_plugins.routing.router import Router\nfrom sage_plugins.process_end import find"
    assert faults_of_plugin("sage_deploy_remote.reach", source, OFFERED, "sage_deploy_remote") == []
    assert len(faults_of_plugin("sage_deploy_ray", source, OFFERED, "sage_deploy_ray")) == 2


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("import ray", "imports the runtime ray"),
        ("if TYPE_CHECKING:\n    from ray import ObjectRef", "imports the runtime ray"),
        ("from sage_deploy_ray.options import RayOptions", "imports another plugin: sage_deploy_ray.options"),
        ("from sage_plugins.deployment.task import ServiceTask", "imports deployment, above layer 3"),
    ],
)
def test_checker_finds_faults_of_the_library(source, fault):
    """The library must not import a runtime, other plugins, or higher layers."""
    (found,) = faults_of_plugin("sage_deploy_remote.link", source, OFFERED, "sage_deploy_remote")
    assert found.endswith(fault)


def test_checker_sees_what_an_adapter_may_import():
    """An adapter may import the names that `sage_plugins` offers, but no module of a higher layer."""
    good = "from sage_plugins import Environment"
    bad = "from sage_plugins.environment.environment import Environment\nfrom sage_plugins import unheard_of"

    assert faults_of_plugin("sage_deploy_sage", good, OFFERED, "sage_deploy_sage") == []
    assert len(faults_of_plugin("sage_deploy_sage", bad, OFFERED, "sage_deploy_sage")) == 2


@pytest.mark.parametrize(
    "code",
    [
        "import sage_plugins",
        "from sage_plugins.plugins.registry import Registry; Registry.discover()",
    ],
)
def test_start_imports_nothing_heavy(code):
    """Importing the core and discovering all plugins imports no heavy module."""
    program = f"import sys\n{code}\nimport json; print(json.dumps(sorted(sys.modules)))"
    # -I: ignore the current folder and the caller's Python settings.
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert HEAVY.isdisjoint(json.loads(done.stdout)), sorted(HEAVY & set(json.loads(done.stdout)))


#: Modules for files, plans, options, errors and SAGE, which are imported on first use only.
LATE = {
    "call.batch",
    "call.endings",
    "call.stream",
    "call.stream_reader",
    "compat",
    "compat.task_factory",
    "config.origins",
    "config.secrets",
    "config.shorthand",
    "config.strict_types",
    "config.units",
    "deployment.requests",
    "deployment.scaling",
    "host.batches",
    "interfaces.autoscalers",
    "interfaces.balancers",
    "interfaces.reach",
    "interfaces.strategies",
    "interfaces.targets",
    "planning.plan",
    "planning.planner",
    "planning.settings",
    "resilience.autoscaling",
    "routing.method_limits",
    "service.call_key",
    "service.callers",
    "service.runtime_errors",
}


def test_first_answer_imports_no_more_than_it_takes():
    """A service registered in code with default settings answers without importing the modules in `LATE`."""
    program = """
import sys
from sage_plugins import Environment
with Environment() as env:
    env.register_service("echo", type("Echo", (), {"echo": lambda self, value: value}))
    assert env.service("echo").echo(1) == 1
import json; print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stdout))
    assert HEAVY.isdisjoint(modules)
    assert {name.partition(".")[0] for name in LATE} <= set(LAYER)
    assert {f"sage_plugins.{name}" for name in LATE}.isdisjoint(modules)
    others = {name for name in modules if name.startswith(("sage_deploy_files.", "sage_deploy_cli."))}
    assert others == {"sage_deploy_cli.plugin"}
    assert "importlib.metadata" not in modules, "the metadata of a distribution was read, which messages need"


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
