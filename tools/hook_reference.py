"""
Write the reference in docs/hooks.md: the hooks, their interfaces and values, and what plugins can declare.

    python tools/hook_reference.py

The text comes from the docstrings. A test compares the page with the output of this program. It reads the sources
instead of importing them, so that the page shows signatures as the code has them.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "hooks.md"
HOOKS = ROOT / "sage_plugins" / "hookspecs.py"
INTERFACES = tuple(
    ROOT / "sage_plugins" / "interfaces" / f"{name}.py"
    for name in (
        "strategies",
        "targets",
        "reach",
        "balancers",
        "monitors",
        "sources",
        "autoscalers",
        "extensions",
        "operations",
    )
)
VALUES = tuple(ROOT / "sage_plugins" / name for name in ("problems.py", "values.py", "event_kinds.py"))
#: For each kind of plugin, the mapping from capability to promise, and its module.
CAPABILITIES = {
    "a target": ("TARGET_CAPABILITIES", "service_conformance.py"),
    "a threading strategy": ("STRATEGY_CAPABILITIES", "service_conformance.py"),
    "a load balancer": ("BALANCER_CAPABILITIES", "balancer_conformance.py"),
    "a monitor": ("MONITOR_CAPABILITIES", "monitor_suite.py"),
}
START, END = "<!-- reference:start -->", "<!-- reference:end -->"

_NOTE = "<!-- Written by tools/hook_reference.py; edit the docstrings in sage_plugins instead. -->"
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Example):$", re.MULTILINE)
_ENTRY = re.compile(r"^(?P<name>\w+(?:, \w+)*): ", re.MULTILINE)
#: The docstring of a method whose default does nothing.
_NOTHING = "Do nothing."


class Member(NamedTuple):
    """
    A hook, a member of an interface, or a field of a value.

    Attributes:
        name: As in the code.
        signature: As the page shows it, with everything that a caller or implementer must know.
        doc: Its docstring, or "".
        constant: Whether it is a constant of an enumeration or of a class of constants.
    """

    name: str
    signature: str
    doc: str
    constant: bool = False


class Described(NamedTuple):
    """
    A public class or alias.

    Attributes:
        name: As in the code.
        doc: Its docstring, or for an alias the comment before it. May be "".
        members: Its members, in the order of the source.
    """

    name: str
    doc: str
    members: tuple[Member, ...]


def hooks() -> list[Member]:
    """Return the hooks."""
    return [
        _function(node)
        for node in ast.parse(HOOKS.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("sage_")
    ]


def described(path: Path) -> list[Described]:
    """Return what the module *path* exports and defines itself, in the order of the source."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    public = next(
        ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and _named(node, "__all__")
    )
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in public:
            found.append(Described(node.name, ast.get_docstring(node) or "", tuple(_members(node))))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in public:
            found.append(Described(node.target.id, _comment_before(source, node.lineno), ()))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    missing = set(public) - imported - {each.name for each in found}
    assert not missing, f"{path} exports {missing}, which this tool does not find"
    return found


def capabilities(name: str, file: str) -> dict[str, str]:
    """Return the mapping *name* from a module of `sage_deploy_testing`."""
    source = (ROOT / "plugins" / "testing" / "src" / "sage_deploy_testing" / "suites" / file).read_text(
        encoding="utf-8"
    )
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            assert node.value is not None
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    msg = f"{file} has no {name}"
    raise LookupError(msg)


def _named(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _comment_before(source: str, line: int) -> str:
    """Return the `#:` comment that ends right before *line*."""
    lines: list[str] = []
    for text in reversed(source.splitlines()[: line - 1]):
        if not text.startswith("#: "):
            break
        lines.insert(0, text.removeprefix("#: "))
    return " ".join(lines)


def _members(node: ast.ClassDef) -> Iterator[Member]:
    """Yield the public members of a class, except those that its docstring describes under "Attributes"."""
    told = {name for name, _ in _entries(_split(ast.get_docstring(node) or "").get("Attributes", ""))}
    for place, child in enumerate(node.body):
        if isinstance(child, ast.FunctionDef):
            if not child.name.startswith("_"):
                yield _function(child, bound=True)
            continue
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            name, annotation, value = child.target.id, f": {ast.unparse(child.annotation)}", child.value
            if annotation == ": Final":
                annotation = ""
        elif isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name):
            name, annotation, value = child.targets[0].id, "", child.value
        else:
            continue
        if name in told or name.startswith("_"):
            continue
        default = "" if value is None else f" = {ast.unparse(value)}"
        following = node.body[place + 1] if place + 1 < len(node.body) else None
        yield Member(name, f"{name}{annotation}{default}", _string(following), constant=value is not None)


def _string(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def _function(node: ast.FunctionDef, *, bound: bool = False) -> Member:
    doc = ast.get_docstring(node) or ""
    returns = "" if node.returns is None else ast.unparse(node.returns)
    if any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
        return Member(node.name, f"{node.name}: {returns}", doc)
    arguments = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", ast.unparse(node.args))  # as PEP 8 spells annotated defaults
    if bound:
        arguments = re.sub(r"^self(, )?", "", arguments)
    return Member(node.name, f"{node.name}({arguments}) -> {returns}", doc)


# -- docstrings as Markdown --------------------------------------------------------------------------------------------


def _split(doc: str) -> dict[str, str]:
    """Return the sections of a docstring by name. The text before the first one is under ""."""
    parts = _SECTION.split(doc)
    return {"": parts[0].strip()} | {
        name: textwrap.dedent(text.strip("\n")).rstrip() for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _entries(section: str) -> list[tuple[str, str]]:
    """Return `name: text` entries. Continuation lines are indented."""
    parts = _ENTRY.split(section)
    return [(name, " ".join(text.split())) for name, text in zip(parts[1::2], parts[2::2], strict=True)]


def _prose(text: str) -> str:
    """Put each paragraph on one line, so that the page does not depend on the line length of the code."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(
        "\n".join(" ".join(item.split()) for item in re.split(r"\n(?=\* )", paragraph)) for paragraph in paragraphs
    )


def _markdown(doc: str) -> str:
    sections = _split(doc)
    parts = [_prose(sections.pop(""))]
    for name, text in sections.items():
        if name == "Example":
            parts.append(text)
        elif name == "Returns":
            parts.append(f"Returns: {_prose(text)}")
        else:
            entries = "\n".join(f"- `{entry}`: {told}" for entry, told in _entries(text))
            parts.append(entries if name == "Attributes" else f"{name}:\n\n{entries}")
    return "\n\n".join(parts)


def _constant(member: Member) -> str:
    """Return the value of a string constant that has the constant's name in lower case; else the whole signature."""
    return member.name.lower() if member.signature == f"{member.name} = {member.name.lower()!r}" else member.signature


def _listed(members: Sequence[Member]) -> Iterator[str]:
    """Yield a list of the members; a table if all are documented constants, one line if none of them is documented."""
    if members and all(each.constant for each in members):
        if all(each.doc for each in members):
            rows = (f"| `{_constant(each)}` | {' '.join(each.doc.split())} |" for each in members)
            yield "\n".join(["| constant | meaning |", "| --- | --- |", *rows])
            return
        if not any(each.doc for each in members):
            yield f"Constants: {', '.join(f'`{_constant(each)}`' for each in members)}."
            return
    for member in members:
        if member.doc != _NOTHING:
            yield textwrap.indent(f"`{member.signature}`\n\n{_markdown(member.doc)}".rstrip(), "  ").replace(
                "  ", "- ", 1
            )
    idle = ", ".join(f"`{each.name}`" for each in members if each.doc == _NOTHING)
    if idle:
        yield f"These do nothing: {idle}."


def reference() -> str:
    """Return the reference as the page must have it."""
    parts = [START, _NOTE, "## The hooks"]
    for hook in hooks():
        signature = [] if hook.signature == f"{hook.name}() -> list[Registration]" else [f"`{hook.signature}`"]
        parts += [f"### `{hook.name}`", *signature, _markdown(hook.doc)]
    for title, paths in (("## The interfaces", INTERFACES), ("## The values", VALUES)):
        parts.append(title)
        for each in (each for path in paths for each in described(path)):
            parts += [f"### `{each.name}`", _markdown(each.doc), *_listed(each.members)]
    parts += ["## The capabilities", *(_table(who, capabilities(*where)) for who, where in CAPABILITIES.items())]
    return "\n\n".join([*parts, END])


def _table(who: str, promises: Mapping[str, str]) -> str:
    rows = (f"| `{name}` | {promise} |" for name, promise in promises.items())
    return "\n".join([f"| {who} declares | and promises |", "| --- | --- |", *rows])


def updated(page: str) -> str:
    """Return the page with a reference from the current code."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return before + reference() + after


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
