"""
The rules of imports: the core's modules import only lower layers, and plugins only what is public.

For every import statement in the sources, also those inside functions:

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
from pathlib import Path
from typing import NamedTuple

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
