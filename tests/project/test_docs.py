"""
The documentation is true and complete: its blocks run or are checked, and each public name has its place.

`documentation_pages` explains how a page's blocks are run. Each page is one test. Pages that need a cluster run in
tests/ray/cluster.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sage_plugins
from documentation_pages import (
    DOCS,
    FENCE,
    ON_A_CLUSTER,
    PAGES,
    ROOT,
    TUTORIAL,
    Page,
    blocks,
    make_targets,
    named_commands,
    working_folder,
)
from sage_deploy_cli import main as cli
from sage_plugins import errors, hookspecs
from sage_plugins.call.batch import Batch
from sage_plugins.call.call import Call
from sage_plugins.call.stream import Channel, StreamCall
from sage_plugins.config.service_config import fields
from sage_plugins.host.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty working folder from which modules can be imported. At the end they are forgotten."""
    with working_folder(tmp_path, monkeypatch):
        yield tmp_path


#: The other pages need a cluster, or share their blocks with a page that does.
HERE = [path for path in PAGES if path.name not in {other.name for other in (*ON_A_CLUSTER, TUTORIAL)}]


@pytest.mark.docs
@pytest.mark.parametrize("path", HERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_of(path, folder, monkeypatch):
    """Each block of a page does what the page says."""
    if "examples" in path.relative_to(ROOT).parts:
        monkeypatch.syspath_prepend(path.parent)
    Page(path, monkeypatch).take_all()


def test_what_a_target_builds_on_is_there_and_public():
    """Each member of the core's classes that docs/writing-plugins.md lists exists and is public."""
    text = (DOCS / "writing-plugins.md").read_text(encoding="utf-8")
    section = text.partition("## What a target builds on\n")[2].partition("\n## ")[0]
    classes = {each.__name__: each for each in (Batch, Call, Channel, Host, StreamCall)}
    listed = re.findall(r"`(\w+)\.(\w+)(?:\(\))?`(?=[^|\n]*\|)", section)
    assert {name for name, _ in listed} == set(classes)
    for name, member in listed:
        known = {key for base in classes[name].__mro__ for key in (*vars(base), *vars(base).get("__annotations__", ()))}
        made = {"cancel", "slots"} if name == "Host" else {"calls", "closed", "owner", "method", "plan"}
        assert not member.startswith("_")
        assert member in known | made, f"{name} has no {member}"


@pytest.mark.parametrize(
    "path", [DOCS / "design" / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_files_that_a_page_shows_are_there(path):
    """Each file that the page names exists."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:sage_plugins|plugins|tests|docs|examples|benchmarks)/[\w./-]*)`", text)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["test-routing", "test"])
def test_page_may_name_targets_of_make(name):
    """The reader knows make's targets, including `test-AREA`."""
    assert name in make_targets()


def test_page_that_names_no_target_of_make_is_found(folder, monkeypatch):
    """A page that names an unknown make target fails."""
    page = folder / "page.md"
    page.write_text("```console\n$ make test-nothing\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="make test-nothing"):
        Page(page, monkeypatch).take_all()


GOOD = "```yaml\n# {}.yaml\nservices: {{}}\n```\n"
BAD = "```yaml\n# {}.yaml\nservices: []\n```\n"
PLAN = "```console\n$ sage-deploy plan {}.yaml\n{}\n```\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD.format("broken"), "nothing refuses"),
        (GOOD.format("broken") + PLAN.format("broken", ""), "exit code 0"),
        (BAD.format("good"), "page.md:2"),
        (BAD.format("broken") + PLAN.format("broken", "broken.yaml:1:1: error"), "printed"),
        (PLAN.format("broken-missing", "broken-missing.yaml has 2 problems: ..."), "printed"),
        (PLAN.format("missing", "missing.yaml has 1 problem: ..."), "nobody checks this output"),
    ],
)
def test_page_that_says_what_is_not_so_is_found(text, fault, folder, monkeypatch):
    """A page fails if its blocks contradict it: a file that is valid, another output, an unchecked output."""
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=fault):
        Page(page, monkeypatch).take_all()


def test_page_that_says_what_is_so_passes(folder, monkeypatch):
    """A page passes if its bad file is refused as the page says."""
    page = folder / "page.md"
    refused = BAD.format("broken") + PLAN.format("broken", "broken.yaml has 1 problem: ...")
    page.write_text(refused + PLAN.format("broken-missing", "... E109: ..."), encoding="utf-8")
    Page(page, monkeypatch).take_all()


def test_pages_run_something():
    """The reader finds the blocks of all pages. It would skip a fence that is not closed or indented."""
    kinds = [block.kind for path in PAGES for block in blocks(path.read_text(encoding="utf-8"))]
    assert kinds.count("python") > 5
    assert kinds.count("pycon") > 5
    assert kinds.count("yaml") > 5
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        fences = re.findall(r"^[ \t]*```", text, re.MULTILINE)
        assert len(fences) == 2 * len(blocks(text)), f"{path}: a fence that is not closed, or indented"


def names_not_in_reach(page: str) -> list[str]:
    """Return `line: name` for each name of a page's session that only the page's files define."""
    in_session: set[str] = set()
    in_files: set[str] = set()
    found = []
    for block in blocks(page):
        if block.kind not in {"python", "pycon"}:
            continue
        examples = doctest.DocTestParser().get_examples(block.text) if block.kind == "pycon" else ()
        tree = ast.parse(block.text if block.kind == "python" else "".join(each.source for each in examples))
        nodes = list(ast.walk(tree))
        defined = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        defined |= {
            node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        }
        defined |= {(node.asname or node.name).partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
        defined |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        if block.name is not None and f"`python -i {block.name}`" not in page:
            in_files |= defined
            continue
        in_session |= defined
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        found += [f"{block.line}: {name}" for name in sorted(used & in_files - in_session)]
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sessions_import_what_they_use(path):
    """A session imports the names that it uses from a page's files: a reader saves the files, and types the rest."""
    assert names_not_in_reach(path.read_text(encoding="utf-8")) == []


def test_a_name_that_a_session_does_not_import_is_found():
    """A session that uses a file's name without importing it is found, unless the file starts the session."""
    page = (
        "```python\n# cat.py\nimport os\nclass Cat: ...\n```\n```pycon\n>>> from cat import Cat\n>>> Cat(), os\n```\n"
    )
    assert names_not_in_reach(page) == ["7: os"]
    assert names_not_in_reach("Run `python -i cat.py`.\n" + page) == []


# -- what must be mentioned ------------------------------------------------------------------------------------------


def text_of(*names: str) -> str:
    paths = [DOCS / name for name in names] or [path for path in PAGES if DOCS in path.parents]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@pytest.mark.parametrize("name", sage_plugins.__all__)
def test_public_name_is_documented(name):
    """Each public name has its own docstring, and a page mentions it."""
    value = getattr(sage_plugins, name)
    document = vars(value).get("__doc__") if isinstance(value, type) else inspect.getdoc(value)
    assert document
    assert re.search(rf"`(sage_plugins\.)?{name}\b", text_of()), f"no page mentions `{name}`"


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_error_is_documented(name):
    """Each error class has a docstring and is listed in docs/api.md."""
    assert getattr(errors, name).__doc__
    assert f"`{name}`" in text_of("api.md")


@pytest.mark.parametrize(("name", "command"), list(named_commands(cli.commands)))
def test_command_is_documented(name, command):
    """Each command has a row in the table of commands and a section that names all its options."""
    page = text_of("cli.md")
    table, *_ = page.split("\n## ")
    (section,) = re.findall(rf"^## `{name}`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert f"| [`{name}`](#{name.replace(' ', '-')}) |" in table
    for option in (option for parameter in command.params for option in parameter.opts if option.startswith("--")):
        assert re.search(rf"`{option}[ `]", section), option


def test_every_exit_code_and_every_command_that_is_elsewhere_is_documented():
    """docs/cli.md lists every exit code and every command of the extras."""
    page = text_of("cli.md")
    for code in cli.ExitCode:
        assert f"\n| {code.value} | " in page
    for name in cli.ELSEWHERE:
        assert re.search(rf"`(sage-deploy )?{name}`", page), name


def script(path: str) -> ModuleType:
    """Import a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook_reference = script("tools/hook_reference.py")
#: The attribute in which pluggy keeps a hook's declaration.
MARK = f"{hookspecs.PROJECT}_spec"


def test_hook_reference_is_up_to_date():
    """docs/hooks.md shows every hook and interface as the code declares it."""
    page = text_of("hooks.md")
    assert hook_reference.updated(page) == page, "run: tools/hook_reference.py"


def test_plugin_matrix_is_up_to_date():
    """docs/plugin-matrix.md shows which plugins work together and what they declare, as the plugins do."""
    assert script("tools/plugin_matrix.py").page() == text_of("plugin-matrix.md"), "run: tools/plugin_matrix.py"


def test_hook_reference_has_every_hook():
    """docs/hooks.md describes exactly the hooks that pluggy knows, with their arguments."""
    specified = {name: inspect.signature(hook) for name, hook in vars(hookspecs).items() if hasattr(hook, MARK)}
    listed = {hook.name: hook for hook in hook_reference.hooks()}
    assert listed.keys() == specified.keys()
    assert specified
    for name, signature in specified.items():
        assert listed[name].signature.startswith(f"{name}({', '.join(signature.parameters)})")


def undocumented() -> Iterator[str]:
    """Return the hooks, interfaces, values and their members that have no docstring."""
    yield from (hook.name for hook in hook_reference.hooks() if not hook.doc)
    for path in (*hook_reference.INTERFACES, *hook_reference.VALUES):
        for each in hook_reference.described(path):
            if not each.doc:
                yield each.name
            # The names of an enumeration's constants say enough.
            yield from (
                f"{each.name}.{member.name}" for member in each.members if not member.doc and not member.constant
            )


def test_every_hook_and_member_of_an_interface_has_a_docstring():
    """Every hook, interface, value and member has a docstring, which the reference shows."""
    assert list(undocumented()) == []


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ('    """The replica\'s ID, such as `"kv#0"`."""\n', "", "Seat.name"),
        ("def place(self, specs", "def open(self) -> None: ...\n\n    def place(self, specs", "Target.open"),
    ],
)
def test_member_without_docstring_is_found(old, new, missing, tmp_path, monkeypatch):
    """The checks notice a member without docstring, and an outdated reference."""
    text = "".join(path.read_text(encoding="utf-8") for path in hook_reference.INTERFACES)
    assert old in text
    for path in hook_reference.INTERFACES:
        changed = path.read_text(encoding="utf-8").replace(old, new, 1)
        (tmp_path / path.name).write_text(changed, encoding="utf-8")
    monkeypatch.setattr(hook_reference, "INTERFACES", [tmp_path / path.name for path in hook_reference.INTERFACES])

    assert list(undocumented()) == [missing]
    assert hook_reference.updated(text_of("hooks.md")) != text_of("hooks.md")


@pytest.fixture(scope="module")
def field_table():
    """Import tools/field_table.py."""
    return script("tools/field_table.py")


@pytest.fixture(scope="module")
def chinese(field_table):
    return field_table.Translation(text_of("zh/fields.toml"))


@pytest.mark.parametrize("name", ["configuration.md", "zh/configuration.md"])
def test_field_tables_are_up_to_date(name, field_table, chinese):
    """The tables show every field as the code declares it."""
    page = text_of(name)

    assert field_table.updated(page, chinese if name.startswith("zh/") else str) == page, "run: tools/field_table.py"
    for field in fields():
        assert f"| `{field}` |" in page


def test_every_field_is_translated(chinese):
    """Every field is translated, and no translation is left of text that the code no longer has."""
    assert chinese.problems() == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[fields.timeout]", "[fields.time_out]", ["fields.time_out: no such field", "fields.timeout: not translated"]),
        ('en = "Number of replicas', 'en = "Count of replicas', ["fields.replicas: the code says now: Number of"]),
        ('"boolean" =', '"bool" =', ["words: 'bool' stands in no table", "words: 'boolean' is not translated"]),
    ],
)
def test_stale_translation_is_found(old, new, problem, field_table):
    """The checks notice translations of removed fields, of changed texts and of unknown words."""
    text = text_of("zh/fields.toml")
    assert text.count(old) == 1

    found = field_table.Translation(text.replace(old, new)).problems()

    assert len(found) == len(problem)
    assert all(line.startswith(start) for line, start in zip(found, problem, strict=True))


@pytest.fixture(scope="module")
def rules():
    """Return every rule that the code reports with a problem."""
    sources = [*ROOT.glob("sage_plugins/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    texts = (path.read_text(encoding="utf-8") for path in sources)
    return sorted({rule for text in texts for rule in re.findall(r"""(?<!`)"([EW]\d{2,3})"(?!`)""", text)})


_RULE = re.compile(
    r"^\((?P<anchor>\w+)\)=\n## (?P<rule>[EW]\d+) \S.*\n(?P<text>(?:(?!^\(\w+\)=\n).*\n)*)", re.MULTILINE
)
_PARTS = re.compile(r"^\*\*(Cause|Fix|Example)\.\*\*", re.MULTILINE)


def documented_rules(page: str) -> list[str]:
    return re.findall(r"^## ([EW]\d+)", page, re.MULTILINE)


def rule_faults(page: str, rules: list[str]) -> list[str]:
    """Return what is missing or superfluous in docs/errors.md if the code reports *rules*."""
    sections = {found["rule"]: found for found in _RULE.finditer(page)}
    headings = documented_rules(page)
    rows = re.findall(r"^\| \[([EW]\d+)\]\(#(\w+)\) \| \S.* \|$", page, re.MULTILINE)
    faults = [f"{rule}: no section" for rule in rules if rule not in headings]
    faults += [f"{rule}: nothing reports it" for rule in headings if rule not in rules]
    faults += [f"{rule}: two sections" for rule in sorted({each for each in headings if headings.count(each) > 1})]
    faults += [f"{rule}: no anchor" for rule in headings if rule not in sections]
    if rows != [(rule, rule.lower()) for rule in headings]:
        faults.append("the list at the top is not that of the sections, in their order")
    for rule, found in sections.items():
        if found["anchor"] != rule.lower():
            faults.append(f"{rule}: its anchor is {found['anchor']}")
        if _PARTS.findall(FENCE.sub("", found["text"])) != ["Cause", "Fix", "Example"]:
            faults.append(f"{rule}: not cause, fix and example")
        message = f"{'error' if rule.startswith('E') else 'warning'} {rule}: "
        shown = found["text"].partition("**Example.**")[2]
        if not any(message in block.text for block in blocks(shown) if block.kind in {"console", "pycon"}):
            faults.append(f"{rule}: no example of its message that is run")
    return faults


def test_rules_are_documented(rules):
    """docs/errors.md has exactly one section for each rule: cause, fix and an example that is run."""
    assert rules
    assert rule_faults(text_of("errors.md"), rules) == []


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ("## E301 ", "## E999 ", ["E301: no section", "E999: nothing reports it", "the list at", "E999: its anchor"]),
        ("(w05)=\n", "", ["W05: no anchor"]),
        ("(e301)=", "(e3o1)=", ["E301: its anchor"]),
        ("| [E301](#e301) |", "| [E301](#e302) |", ["the list at the top"]),
        ("error E603: ", "error: ", ["E603: no example"]),
    ],
)
def test_rule_without_section_is_found(old, new, faults):
    """The checks notice each mistake in a rule's section or in the list of rules."""
    page = text_of("errors.md")
    assert page.count(old) == 1

    found = rule_faults(page.replace(old, new), documented_rules(page))

    assert [fault for fault, start in zip(found, faults, strict=False) if not fault.startswith(start)] == []
    assert len(found) >= len(faults)


@pytest.mark.parametrize("part", ["Cause", "Fix", "Example"])
def test_section_without_part_is_found(part):
    """The checks notice a section without cause, fix or example."""
    page = text_of("errors.md").replace(f"**{part}.**", f"{part}.", 1)
    assert rule_faults(page, documented_rules(page))[0] == "E101: not cause, fix and example"


def test_measured_table_is_of_what_the_script_measures(monkeypatch):
    """The table has the rows and columns that benchmarks/strategies.py would write."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    strategies = script("benchmarks/strategies.py")
    page = strategies.PAGE.read_text(encoding="utf-8")
    table = page.partition(strategies.START)[2].partition(strategies.END)[0]
    header, _, *rows = (line.strip("|").split("|") for line in table.strip().splitlines() if line.startswith("|"))

    assert [cell.strip(" `") for cell in header] == ["service", *strategies.STRATEGIES]
    assert [row[0].strip() for row in rows] == list(strategies.CALLS)
    assert all(re.fullmatch(r" \d\.\d\d ", cell) for row in rows for cell in row[1:])


# -- pages in two languages ------------------------------------------------------------------------------------------


TRANSLATED = [path.name for path in sorted((DOCS / "zh").glob("*.md"))]


def english_of(name: str) -> Path:
    """Return the English page of a Chinese page. docs/zh has no folders."""
    (page,) = (path for path in (DOCS / name, DOCS / "guides" / name) if path.exists())
    return page


def sections(page: str) -> list[tuple[int, set[str]]]:
    """Return the level of each heading, and the code names in the text below it."""
    prose = re.sub(r"<!-- fields:start -->.*<!-- fields:end -->", "", FENCE.sub("", page), flags=re.DOTALL)
    parts = re.split(r"^(#+) ", prose, flags=re.MULTILINE)[1:]
    return [
        (len(level), set(re.findall(r"`([^`\n]+)`", text))) for level, text in zip(parts[::2], parts[1::2], strict=True)
    ]


@pytest.mark.parametrize("name", TRANSLATED)
def test_translation_follows_its_page(name):
    """A translation has the same headings, blocks and code names as its page, and both pages link to each other."""
    page = english_of(name)
    english, chinese = page.read_text(encoding="utf-8"), text_of(f"zh/{name}")

    assert sections(chinese) == sections(english)
    for ours, theirs in zip(blocks(chinese), blocks(english), strict=True):
        assert ours.kind == theirs.kind
        assert ours.text == theirs.text or ours.kind == "text", f"docs/zh/{name}:{ours.line}"
    up = "../" * (len(page.relative_to(DOCS).parts) - 1)
    assert f"]({up}zh/{name})" in english
    assert f"](../{page.relative_to(DOCS)})" in chinese


def test_translations_are_found():
    """The list of translated pages is not empty."""
    assert {"configuration.md", "quickstart.md"} <= set(TRANSLATED)
